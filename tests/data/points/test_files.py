"""Tests of reading meshes and clouds, damaged ones included."""

import builtins
import io
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny_points
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax import limits
from perceiver_jax.data.points import files, off, sampling
from perceiver_jax.errors import UserError

VERTICES, QUADS = tiny_points.box()
TRIANGLES = np.concatenate([QUADS[:, [0, 1, 2]], QUADS[:, [0, 2, 3]]])
POINTS = np.float32([[0, 1, 2], [3, 4, 5.5], [-1e-3, 7, 8]])


def _exported(kind):
  mesh = trimesh.Trimesh(VERTICES, TRIANGLES, process=False)
  data = mesh.export(file_type=kind)
  return data.encode() if isinstance(data, str) else data


def _box_of_quads(suffix):
  """Returns the box with quadrilaterals, as text."""
  rows = "\n".join(" ".join(map(str, row)) for row in VERTICES)
  if suffix == ".off":
    return tiny_points.off()
  if suffix == ".obj":
    # Groups, normals, negative indices and a missing material.
    faces = "\n".join(
      "f " + " ".join(f"{i + 1}//{i + 1}" for i in row) for row in QUADS[:3]
    )
    last = "\n".join(
      "f " + " ".join(str(i - 8) for i in row) for row in QUADS[3:]
    )
    vertices = "\n".join(f"v {row}" for row in rows.split("\n"))
    normals = "\n".join("vn 0 0 1" for _ in VERTICES)
    return (
      f"mtllib none.mtl\no one\n{vertices}\n{normals}\nusemtl red\n{faces}\n"
      f"g two\n{last}\n"
    )
  header = (
    "ply\nformat ascii 1.0\ncomment made by hand\nelement vertex 8\n"
    "property float x\nproperty float y\nproperty float z\nelement face 6\n"
    "property list uchar int vertex_indices\nend_header\n"
  )
  faces = "\n".join(" ".join(map(str, [4, *row])) for row in QUADS)
  return f"{header}{rows}\n{faces}\n"


def _area(example):
  return sampling.triangle_areas(example["vertices"], example["faces"]).sum()


@pytest.mark.parametrize(
  ("suffix", "data"),
  [
    *((suffix, _box_of_quads(suffix)) for suffix in (".off", ".obj", ".ply")),
    *((f".{kind}", _exported(kind)) for kind in ("off", "obj", "ply", "stl")),
    (".STL", _exported("stl_ascii")),
  ],
)
def test_meshes_of_all_formats_are_read(tmp_path, suffix, data):
  example = files.read(tiny_points.write(tmp_path / f"box{suffix}", data))
  assert example.keys() == {"vertices", "faces"}
  assert example["vertices"].dtype == np.float32
  assert example["faces"].dtype == np.int32
  assert _area(example) == pytest.approx(6)
  corners = example["vertices"][example["faces"]].reshape(-1, 3)
  np.testing.assert_array_equal(np.unique(corners, axis=0), VERTICES)


@pytest.mark.parametrize(
  "header",
  [
    "OFF\n8 6 0\n",
    "OFF8 6 0\n",
    "OFF 8 6 0\n",
    "OFF\n8 6\n",
    "\ufeffOFF\r\n# made by h\u00e4nd\r\n\r\n8 6 12 # counts\r\n",
  ],
)
def test_headers_of_off_files(tmp_path, header):
  path = tiny_points.write(tmp_path / "box.off", tiny_points.off(2, header))
  assert _area(files.read(path)) == pytest.approx(10)


def test_polygons_become_fans_and_colors_are_ignored():
  vertices, faces = off.parse(
    b"CNOFF\n5 3 0\n"
    + b"0 0 0 0 0 1 255 0 0 255\n1 0 0 0 0 1 1 1 1 1\n2 1 0 0 0 1 1 1 1 1\n"
    + b"1 2 0 0 0 1 0 0 0 0\n0 2 0 0 0 1 0 0 0 0\n"
    + b"5 0 1 2 3 4 0.5 0.5 0.5\n2 0 1\n3 4 3 0 7\n"
  )
  assert vertices.tolist()[2] == [2, 1, 0]
  assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [4, 3, 0]]


@pytest.mark.parametrize(
  ("data", "message"),
  [
    ("", "does not begin with OFF"),
    ("OFFICE\n1 1 0\n", "does not begin with OFF"),
    (bytes(range(256)) * 9, "does not begin with OFF"),
    ("OFF BINARY\n" + "\x00\x00" * 9, "binary files are not supported"),
    ("OFF\n", "numbers of vertices and faces are ''"),
    ("OFF\n-8 6 0\n", "numbers of vertices and faces are '-8 6 0'"),
    ("OFF\n99999999999 6 0\n0 0 0\n", "99999999999 vertices.*at most 4194304"),
    ("OFF\n99999 6 0\n0 0 0\n", "1 lines for 99999 vertices.*incomplete"),
    (tiny_points.off()[:-20], "incomplete"),
    (tiny_points.off().replace("4 1 5 7 3", "4 1 5 7"), "malformed: '4 1 5 7'"),
    (tiny_points.off().replace("4 1 5", "-1 5"), "malformed: '-1 5 7 3'"),
    (tiny_points.off().replace("4 1 5 7", "4 1 5 8"), "vertex 8, and there"),
    (tiny_points.off().replace("4 1 5 7", "4 1 5 -1"), "vertex -1, and there"),
    (tiny_points.off().replace("4 1 5 7", "4 1 5 \xff"), "malformed"),
    (tiny_points.off().replace("4 1 5 7", "4 1 5 " + "9" * 30), "malformed"),
    (tiny_points.off().replace("1.0", "one"), "not three numbers.*'one'"),
    (tiny_points.off().replace("1.0 1.0 1.0", "1.0 1.0"), "not three numbers"),
    (tiny_points.off().replace("1.0", "nan"), "not a finite number"),
    (tiny_points.off().replace("1.0", "1e39"), "not a finite number"),
    (tiny_points.off().replace("1.0", "0.0"), "no face has an area"),
    ("OFF\n3 0 0\n0 0 0\n0 0 1\n0 1 0\n", "no face has an area"),
    ("OFF\n3 1 0\n0 0 0\n0 0 1\n0 1 0\n3 0 1\n", "a face is malformed"),
    ("OFF\n3 1 0\n0 0 0\n0 0 1\n0 1 0\n3 0 1 x\n", "a face is malformed"),
    ("OFF\n3 1 0\n0 0 0\n0 0 1\n0 1 0\n3 0 1 3\n", "vertex 3, and there"),
  ],
)
def test_damaged_off_files_are_named(tmp_path, data, message):
  path = tiny_points.write(tmp_path / "bad.off", data)
  with pytest.raises(
    UserError, match=rf"bad\.off' cannot be read: .*{message}"
  ):
    files.read(path)


def test_polygons_of_several_sizes_keep_the_order_of_the_file():
  rng = np.random.default_rng(0)
  faces = [rng.integers(0, 9, n) for n in (5, 3, 0, 4, 3, 2, 5, 1, 4)]
  lines = [" ".join(map(str, (len(f), *f))) for f in faces]
  text = "OFF\n9 9 0\n" + "0 0 0\n" * 9 + "\n".join(lines)
  expected = [
    (face[0], face[i], face[i + 1])
    for face in faces
    for i in range(1, len(face) - 1)
  ]
  assert off.parse(text.encode())[1].tolist() == np.array(expected).tolist()


def test_a_polygon_of_many_corners_takes_little_memory():
  count = 200_000
  polygon = " ".join(map(str, [count, *range(count)]))
  data = f"OFF\n1 1 0\n0 0 0\n{polygon}\n".encode()
  tracemalloc.start()
  _, faces = off.parse(data)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 25 * len(data)  # A tuple for each triangle takes 30 times.
  assert faces.shape == (count - 2, 3)
  assert faces[[0, -1]].tolist() == [[0, 1, 2], [0, count - 2, count - 1]]


def test_a_file_without_the_header_of_off_is_not_split_into_lines():
  data = b"0\n" * 2**24
  tracemalloc.start()
  with pytest.raises(ValueError, match="does not begin with OFF"):
    off.parse(data)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < len(data) // 10


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply", ".stl"])
def test_meshes_of_too_many_triangles_or_points_are_refused(
  tmp_path, monkeypatch, suffix
):
  path = tiny_points.write(tmp_path / f"box{suffix}", _exported(suffix[1:]))
  monkeypatch.setattr(limits, "MAX_TRIANGLES", 11)
  with pytest.raises(UserError, match=r"12 (triangles|faces), and at most"):
    files.read(path)
  monkeypatch.setattr(limits, "MAX_POINTS", 7)
  with pytest.raises(UserError, match=r" (8|36) (points|vertices).* at most"):
    files.read(path)


def test_clouds_of_too_many_points_are_refused(tmp_path, monkeypatch):
  path = tiny_points.write(tmp_path / "a.xyz", "0 1 2\n" * 9)
  monkeypatch.setattr(limits, "MAX_POINTS", 9)
  assert len(files.read(path)["points"]) == 9
  monkeypatch.setattr(limits, "MAX_POINTS", 7)
  with pytest.raises(UserError, match="it has 9 lines, and at most 7 are"):
    files.read(path)


def test_fans_of_too_many_triangles_are_refused(monkeypatch):
  monkeypatch.setattr(limits, "MAX_TRIANGLES", 11)
  with pytest.raises(ValueError, match="there are 12 triangles, and at most"):
    off.parse(tiny_points.off().encode())


def test_many_materials_take_little_time(tmp_path):
  mesh = _box_of_quads(".obj")
  plain = files.read(tiny_points.write(tmp_path / "plain.obj", mesh))
  faces = "".join(f"usemtl m{i}\nf 1 2 3\n" for i in range(10_000))
  many = mesh.replace("usemtl red\n", faces)
  path = tiny_points.write(tmp_path / "many.obj", many)
  start = time.process_time()
  example = files.read(path)
  assert time.process_time() - start < 4  # It takes 12 s with the materials.
  assert len(example["faces"]) == len(plain["faces"]) + 10_000
  # A line may be continued on the next, and "usemtl" be part of a name.
  odd = mesh.replace("usemtl red", "use\\\nmtl red").replace(
    "g two", "g usemtl "
  )
  odd = files.read(tiny_points.write(tmp_path / "odd.obj", odd))
  np.testing.assert_array_equal(odd["faces"], plain["faces"])


_PLY = _box_of_quads(".ply")


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("cut.ply", _PLY[:-30], "11 lines for 14 elements; it is incomplete"),
    ("cut.ply", _exported("ply")[:-30], "cannot be read"),
    ("cut.ply", _exported("ply")[:60], "cannot be read"),
    ("few.ply", _PLY.replace("vertex 8", "vertex 99999999"), "incomplete"),
    (
      "bad.ply",
      _PLY.replace("4 1 5 7", "4 1 5 9"),
      "vertex 9, and there",
    ),
    ("nan.ply", _PLY.replace("0.0", "nan"), "not a finite"),
    ("no.ply", "no ply", "cannot be read"),
    ("cut.stl", _exported("stl")[:-30], "cannot be read"),
    ("no.stl", "no stl", "cannot be read"),
    ("cut.obj", _box_of_quads(".obj")[:200], "no face has an area"),
    ("no.obj", b"\xff\x00" * 99, "no point"),
    ("empty.obj", "", "no point"),
    ("flat.obj", "v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "no face has an area"),
    ("empty.xyz", "  \n", "it is empty"),
    ("words.xyz", "one two three\n", "cannot be read"),
    ("two.xyz", "1 2\n3 4\n", "cannot be read"),
    ("nan.txt", "1,2,nan\n", "not a finite number"),
    ("atoms.xyz", "2\nwater\nO 0 0 0\n", "cannot be read"),
    ("binary.txt", bytes(range(256)), "cannot be read"),
  ],
)
def test_other_damaged_files_are_named(tmp_path, name, data, message):
  path = tiny_points.write(tmp_path / name, data)
  with pytest.raises(UserError, match=message) as error:
    files.read(path)
  assert name in str(error.value)
  assert "\n" not in str(error.value)


def _npy(array, **options):
  file = io.BytesIO()
  np.save(file, array, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  ("name", "data"),
  [
    ("a.xyz", "# x y z\n0 1 2\n3 4 5.5\n-1e-3 7 8\n"),
    ("a.txt", "0,1,2,0,0,1\n3,4,5.5,0,0,1\n-1e-3,7,8,0,0,1\n"),
    ("a.npy", _npy(POINTS)),
    ("a.npy", _npy(np.asfortranarray(POINTS.astype(">f8")))),
    ("a.npy", _npy(np.hstack([POINTS, POINTS]))),
    ("a.ply", trimesh.PointCloud(POINTS).export(file_type="ply")),
  ],
)
def test_clouds_of_all_formats_are_read(tmp_path, name, data):
  example = files.read(tiny_points.write(tmp_path / name, data))
  assert example.keys() == {"points"}
  assert example["points"].dtype == np.float32
  np.testing.assert_allclose(example["points"], POINTS)


_HUGE = _npy(POINTS).replace(b"(3, 3), }       ", b"(999999999, 3), }")


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (b"", "not an array"),
    (b"PK\x03\x04" * 9, "not an array"),
    (_npy(POINTS)[:-1], "incomplete"),
    (_npy(POINTS)[:40], "not an array"),
    (_npy(POINTS).replace(b"(3, 3)", b"(3, 3("), "not an array"),
    (_HUGE, "incomplete"),
    (_npy(POINTS[0]), r"an array \[3\] of float32; give numbers \[n, 3\]"),
    (_npy(POINTS[:, :2]), r"an array \[3, 2\]"),
    (_npy(POINTS.astype(complex)), "complex"),
    (_npy(POINTS[:0]), "no point"),
    (_npy(np.array([[{}] * 3]), allow_pickle=True), "object"),
  ],
)
def test_wrong_arrays_are_named(tmp_path, data, message):
  path = tiny_points.write(tmp_path / "bad.npy", data)
  with pytest.raises(
    UserError, match=rf"bad\.npy' cannot be read: .*{message}"
  ):
    files.read(path)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_changed_bytes_are_read_or_named(tmp_path_factory, data):
  suffix, whole = data.draw(
    st.sampled_from(
      [
        (".off", tiny_points.off().encode()),
        (".ply", _PLY.encode()),
        *((f".{kind}", _exported(kind)) for kind in ("off", "ply", "stl")),
        (".obj", _box_of_quads(".obj").encode()),
        (".npy", _npy(POINTS)),
        (".xyz", b"0 1 2\n3 4 5.5\n"),
      ]
    )
  )
  changed = bytearray(whole)
  for _ in range(data.draw(st.integers(1, 3))):
    place = data.draw(st.integers(0, len(whole) - 1))
    changed[place] = data.draw(st.integers(0, 255))
  length = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
  path = tmp_path_factory.mktemp("fuzz") / f"changed{suffix}"
  tiny_points.write(path, bytes(changed[:length]))
  try:
    example = files.read(path)
  except UserError as error:
    message = str(error)
  else:
    message = ""
  if message:
    assert path.name in message
    assert "\n" not in message
    return
  points = sampling.sample(example, 10)
  assert points.shape == (10, 3)
  assert np.isfinite(points).all()


def test_only_regular_files_of_limited_size_are_read(tmp_path, monkeypatch):
  os.mkfifo(tmp_path / "pipe.npy")
  (tmp_path / "folder.off").mkdir()
  for name, kind in (("pipe.npy", "pipe"), ("folder.off", "folder")):
    with pytest.raises(UserError, match=f"{name}': it is a {kind} and not a"):
      files.read(tmp_path / name)
  with pytest.raises(UserError, match=r"missing\.off': no such file"):
    files.read(tmp_path / "missing.off")
  with pytest.raises(UserError, match=r"'a\.fbx' has none of the suffixes"):
    files.read(Path("a.fbx"))
  monkeypatch.setattr(limits, "MAX_OBJECT_BYTES", 20)
  path = tiny_points.write(tmp_path / "box.off", tiny_points.off())
  with pytest.raises(UserError, match="has more than 20 bytes"):
    files.read(path)


def test_the_command_that_installs_a_missing_package_is_named(
  tmp_path, monkeypatch
):
  def import_(name, *args, **kwargs):
    if name == "trimesh":
      raise ImportError(name)
    return real_import(name, *args, **kwargs)

  real_import = builtins.__import__
  monkeypatch.setattr(builtins, "__import__", import_)
  path = tiny_points.write(tmp_path / "box.obj", _box_of_quads(".obj"))
  with pytest.raises(
    UserError, match=r"box\.obj'.*pip install 'perceiver_jax\[points\]'"
  ):
    files.read(path)
