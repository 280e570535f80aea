"""Tests of the sources of meshes and clouds, in the layouts of the releases."""

import builtins
import os
import pickle
import shutil
import zlib

import numpy as np
import pytest
import tiny_points
from absl import logging

from perceiver_jax import limits
from perceiver_jax.data.core import pipeline, splits
from perceiver_jax.data.points import sampling
from perceiver_jax.data.points.sources import make_source
from perceiver_jax.errors import UserError

WRITERS = {
  "mesh_folder": tiny_points.write_modelnet,
  "resampled_text": tiny_points.write_resampled,
  "hdf5": tiny_points.write_hdf5,
}


@pytest.fixture
def modelnet(tmp_path):
  """Returns a folder like that of ModelNet40."""
  return tiny_points.write_modelnet(tmp_path / "meshes")


@pytest.fixture
def warnings(monkeypatch):
  """Returns a list that collects the warnings logged."""
  lines = []
  monkeypatch.setattr(logging, "warning", lambda s, *a: lines.append(s % a))
  return lines


def _all(source):
  return [source[i] for i in range(len(source))]


@pytest.mark.parametrize("name", WRITERS)
def test_sources_have_objects_of_all_classes(name, tmp_path):
  directory = WRITERS[name](tmp_path / name)
  for split, count in (("train", 3), ("test", 2)):
    source = make_source(name, split=split, directory=str(directory))
    assert source.class_names == tiny_points.CLASSES
    assert source.num_classes == 2
    # The files of HDF5 have five clouds in all, whatever the split.
    assert len(source) == (5 if name == "hdf5" else 2 * count)
    examples = _all(pickle.loads(pickle.dumps(source)))
    assert {int(example["label"]) for example in examples} == {0, 1}
    assert all(example["label"].dtype == np.int32 for example in examples)
    for example, other in zip(examples, _all(source), strict=True):
      assert sampling.sample(example, 9).shape == (9, 3)
      np.testing.assert_array_equal(
        sampling.sample(example, 9), sampling.sample(other, 9)
      )


def test_labels_belong_to_the_meshes(modelnet):
  for split, numbers in (("train", (1, 2, 3)), ("test", (4, 5))):
    examples = _all(
      make_source("mesh_folder", split=split, directory=str(modelnet))
    )
    heights = sorted(
      (int(x["label"]), float(x["vertices"][:, 2].max())) for x in examples
    )
    expected = [
      (label, height + 0.01 * number)
      for label, height in ((0, 1), (1, 3))
      for number in numbers
    ]
    np.testing.assert_allclose(heights, expected, rtol=1e-6)


def test_both_orders_of_split_and_class_have_the_same_objects(modelnet):
  swapped = modelnet.with_name("swapped")
  for path in modelnet.glob("*/*/*.off"):
    name, split, file = path.parts[-3:]
    tiny_points.write(swapped / split / name / file, path.read_bytes())
  # Hidden files, and files of other kinds, are ignored.
  tiny_points.write(swapped / "train/cube/._cube_0001.off", "resource fork")
  tiny_points.write(swapped / ".git/cube/x.off", "hidden")
  tiny_points.write(swapped / "train/thumbnails/cube.png", "image")
  for split in ("train", "test[:50%]"):
    first, second = (
      make_source("mesh_folder", split=split, directory=str(d)).source
      for d in (modelnet, swapped)
    )
    assert first.names == second.names
    assert first.labels.tolist() == second.labels.tolist()
    assert first.class_names == second.class_names


def test_labels_belong_to_the_clouds(tmp_path):
  directory = tiny_points.write_resampled(tmp_path)
  source = make_source("resampled_text", split="test", directory=str(directory))
  for name, example in zip(source.source.names, _all(source), strict=True):
    number = int(name[-4:]) - 1
    expected = tiny_points.cloud([int(example["label"]), number])
    np.testing.assert_allclose(example["points"], expected, atol=1e-6)
    assert name.split("/")[0] == tiny_points.CLASSES[example["label"]]


def test_clouds_of_several_hdf5_files_are_joined(tmp_path):
  directory = tiny_points.write_hdf5(tmp_path)
  source = make_source("hdf5", split="train", directory=str(directory))
  for name, example in zip(source.source.names, _all(source), strict=True):
    file, row = int(name[-6]), int(name[-4:])
    expected = tiny_points.cloud([5, file, row], 16)
    np.testing.assert_array_equal(example["points"], expected)
    assert example["label"] == row % 2


# Slices


@pytest.mark.parametrize(
  ("held_out", "held_in"),
  [
    ("train[:20%]", "train[20%:]"),
    ("train[:7]", "train[7:]"),
    ("train[-10%:]", "train[:-10%]"),
    ("train[33%:34%]", "train[:33%]"),
  ],
)
def test_a_slice_holds_out_other_objects(held_out, held_in):
  names = [f"{c}/{c}_{i:04d}" for c in "abcde" for i in range(21)]
  first, second = (splits.parse(s).order(names) for s in (held_out, held_in))
  assert not set(first) & set(second)
  if held_out != "train[33%:34%]":
    assert sorted(first + second) == list(range(105))
  # Objects are of all classes, in no particular order of classes.
  assert len({i // 21 for i in second}) == 5
  # It depends on the names only, not on the order in which they are listed.
  reverse = splits.parse(held_out).order(names[::-1])
  assert {names[i] for i in first} == {names[::-1][i] for i in reverse}


@pytest.mark.parametrize(
  "split", ["", "[:3]", "train[", "train[3]", "train[:x]", "train[:3]+test"]
)
def test_malformed_slices_are_refused(split):
  with pytest.raises(UserError, match="give a name such as 'train'"):
    splits.parse(split)


@pytest.mark.parametrize("split", ["train[6:]", "train[4:2]", "train[:1%]"])
def test_empty_slices_are_refused(split, modelnet):
  with pytest.raises(UserError, match=r"has none of the 6 examples of 'train'"):
    make_source("mesh_folder", split=split, directory=str(modelnet))


def test_names_may_have_characters_outside_utf8():
  # As Python decodes file names of other encodings.
  assert sorted(splits.parse("train").order(["a\udcff", "b"])) == [0, 1]


# Errors


@pytest.mark.parametrize("name", WRITERS)
def test_missing_folders_and_splits_are_named(name, tmp_path):
  directory = WRITERS[name](tmp_path / "data")
  leaf = rf"config\.data\.source_args\.{name}\.directory"
  for given, split, message in (
    ("", "train", f"no directory is given; set {leaf}, expected"),
    (str(tmp_path / "no"), "train", "no directory '.*no'; expected"),
    (
      str(directory),
      "valid",
      "valid.*; expected .*SPLIT|valid.*; expected the",
    ),
    (str(directory.parent), "train", "; expected"),
  ):
    with pytest.raises(UserError, match=message):
      make_source(name, split=split, directory=given)
  with pytest.raises(UserError, match="unknown source 'x'"):
    make_source("x", split="train")


def test_a_split_at_both_depths_is_refused(modelnet):
  mesh = tiny_points.off()
  tiny_points.write(modelnet / "train/cube/cube_0001.off", mesh)
  with pytest.raises(UserError, match=r"'train' has to be either a folder"):
    make_source("mesh_folder", split="train", directory=str(modelnet))


def test_damaged_meshes_are_replaced_and_do_not_count(modelnet):
  tiny_points.write(modelnet / "cube/test/cube_0004.off", "OFF\n8 6")
  source = make_source("mesh_folder", split="test", directory=str(modelnet))
  batches = pipeline.eval_dataset(
    source,
    global_batch=4,
    transform=lambda x: {**x, "faces": 0, "vertices": sampling.sample(x, 5)},
  )
  (batch,) = batches
  bad = list(source.source.names).index("cube/cube_0004")
  assert batch["mask"].tolist() == [float(i != bad) for i in range(4)]
  shutil.rmtree(modelnet / "night_stand")
  for path in (modelnet / "cube/test").iterdir():
    path.write_text("OFF\n8 6")
  source = make_source("mesh_folder", split="test", directory=str(modelnet))
  with pytest.raises(UserError, match=r"2 objects cannot be .*cube_0004\.off"):
    source[0]


def test_listed_clouds_without_a_file_are_replaced(tmp_path, warnings):
  directory = tiny_points.write_resampled(tmp_path)
  (directory / "cube/cube_0002.txt").unlink()
  (directory / "night_stand/night_stand_0001.txt").write_text("1,2\n")
  source = make_source(
    "resampled_text", split="train", directory=str(directory)
  )
  assert sum(int(x["unreadable"]) for x in _all(source)) == 2
  assert any("cube_0002.txt': no such file" in line for line in warnings)


def test_lists_of_unknown_classes_are_refused(tmp_path):
  directory = tiny_points.write_resampled(tmp_path)
  tiny_points.write(directory / "modelnet40_train.txt", "sofa_0001\n")
  with pytest.raises(UserError, match="'sofa', which is not in modelnet40_sha"):
    make_source("resampled_text", split="train", directory=str(directory))
  tiny_points.write(directory / "modelnet10_train.txt", "cube_0001\n")
  tiny_points.write(directory / "modelnet10_shape_names.txt", "cube\n")
  source = make_source(
    "resampled_text",
    split="train",
    directory=str(directory),
    prefix="modelnet10",
  )
  assert source.class_names == ("cube",)


@pytest.mark.parametrize(
  ("name", "list_name"),
  [("hdf5", "train_files"), ("resampled_text", "modelnet40_train")],
)
def test_empty_lists_are_named(name, list_name, tmp_path):
  directory = WRITERS[name](tmp_path)
  (directory / f"{list_name}.txt").write_text("\n")
  with pytest.raises(UserError, match=rf"{list_name}\.txt' is empty; expected"):
    make_source(name, split="train", directory=str(directory))


@pytest.mark.parametrize(
  "name", ["/etc/cube_0001", "../cube_0001", "..\\cube_0001", ".."]
)
def test_lists_name_no_files_in_other_folders(name, tmp_path):
  directory = tiny_points.write_resampled(tmp_path)
  tiny_points.write(directory / "modelnet40_train.txt", f"cube_0001\n{name}\n")
  with pytest.raises(UserError, match="are without folders") as error:
    make_source("resampled_text", split="train", directory=str(directory))
  assert repr(name) in str(error.value)
  tiny_points.write(directory / "modelnet40_train.txt", "cube_0001\n")
  tiny_points.write(directory / "modelnet40_shape_names.txt", f"cube\n{name}\n")
  with pytest.raises(UserError, match="are without folders"):
    make_source("resampled_text", split="train", directory=str(directory))


def _rewrite(path, **arrays):
  import h5py

  with h5py.File(path, "w") as file:
    for name, array in arrays.items():
      file[name] = array


CLOUDS = np.arange(144.0).reshape(3, 16, 3)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: path.unlink(), "cannot be read: no such file"),
    (
      lambda path: path.write_bytes(path.read_bytes()[:999]),
      "be read: .*trunc",
    ),
    (lambda path: path.write_text("no HDF5"), "cannot be read: .*signature"),
    (lambda path: _rewrite(path, data=CLOUDS), "cannot be read.*label"),
    (lambda path: _rewrite(path, data=[b"a"], label=[0]), "cannot be read"),
    (
      lambda path: _rewrite(path, data=CLOUDS, label=[0]),
      r"data \[3, 16, 3\] and 1 labels",
    ),
    (
      lambda path: _rewrite(path, data=CLOUDS[..., :2], label=[0, 0, 0]),
      r"data \[3, 16, 2\]",
    ),
    (
      lambda path: _rewrite(path, data=CLOUDS, label=[0, 1, 2]),
      "labels from 0 to 2, and shape_names.txt has 2 names",
    ),
    (
      lambda path: _rewrite(path, data=CLOUDS[:, :9], label=[0, 1, 1]),
      r"clouds of \[9, 16\] points each",
    ),
  ],
)
def test_damaged_hdf5_files_are_named(damage, message, tmp_path):
  directory = tiny_points.write_hdf5(tmp_path)
  damage(directory / "ply_data_train0.h5")
  with pytest.raises(UserError, match=f"(?i){message}") as error:
    make_source("hdf5", split="train", directory=str(directory))
  assert "\n" not in str(error.value)


def _huge(path):
  import h5py

  # Nothing is stored of what is not written.
  with h5py.File(path, "w") as file:
    file.create_dataset("data", (300_000, 2_048, 3), "f4", chunks=(1, 2048, 3))
    file.create_dataset("label", (300_000, 1), "u1", chunks=(1024, 1))


def _many_labels(path):
  import h5py

  with h5py.File(path, "w") as file:
    file["data"] = CLOUDS.astype("f4")
    file.create_dataset("label", (2**40,), "i8", chunks=(1024,))


def _external(path):
  import h5py

  secret = path.with_name("secret.bin")
  secret.write_bytes(CLOUDS.astype("f4").tobytes())
  with h5py.File(path, "w") as file:
    file.create_dataset(
      "data", (3, 16, 3), "f4", external=[(str(secret), 0, CLOUDS.size * 4)]
    )
    file["label"] = [0, 1, 0]


def _virtual(path):
  import h5py

  other = path.with_name("other.h5")
  _rewrite(other, data=CLOUDS)
  layout = h5py.VirtualLayout((3, 16, 3), "f8")
  layout[:] = h5py.VirtualSource(other, "data", (3, 16, 3))
  with h5py.File(path, "w") as file:
    file.create_virtual_dataset("data", layout)
    file["label"] = [0, 1, 0]


def _linked(kind):
  def damage(path):
    import h5py

    other = path.with_name("other.h5")
    _rewrite(other, data=CLOUDS)
    with h5py.File(path, "w") as file:
      file["points"] = CLOUDS
      file["label"] = [0, 1, 0]
      file["data"] = {
        "soft": h5py.SoftLink("/points"),
        "external": h5py.ExternalLink(other.name, "data"),
      }[kind]

  return damage


def _chunked(path, chunks=(3, 16, 3), **options):
  """Writes clouds in chunks."""
  import h5py

  with h5py.File(path, "w") as file:
    file["label"] = [0, 1, 0]
    file.create_dataset(
      "data",
      data=CLOUDS.astype("f4"),
      chunks=chunks,
      **options,
    )


def _bomb(path):
  import h5py

  _chunked(path, compression="gzip")
  with h5py.File(path, "r+") as file:
    expanding = zlib.compress(bytes(2**20), 9)
    file["data"].id.write_direct_chunk((0, 0, 0), expanding)


def _twice_compressed(path):
  import h5py

  with h5py.File(path, "w") as file:
    file["label"] = [0, 1, 0]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((3, 16, 3))
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple((3, 16, 3))
    h5py.h5d.create(file.id, b"data", h5py.h5t.IEEE_F32LE, space, plist)


def _large_chunk(path):
  import h5py

  with h5py.File(path, "w") as file:
    file["label"] = [0, 1, 0]
    options = {"chunks": (2**20, 64, 3), "maxshape": (None, None, 3)}
    file.create_dataset("data", (3, 16, 3), "f4", **options)


def _damaged_chunk(path):
  import h5py

  _chunked(path, compression="gzip")
  with h5py.File(path, "r+") as file:
    file["data"].id.write_direct_chunk((0, 0, 0), b"no gzip")


def _pipe(path):
  path.unlink()
  os.mkfifo(path)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (_pipe, "it is a pipe and not a regular file"),
    (_huge, r"data \[300000, 2048, 3\], and .* 1,073,741,824 bytes together"),
    (_many_labels, r"data \[3, 16, 3\] and 1099511627776 labels"),
    (_external, "'data' is stored in other files"),
    (_virtual, "'data' is stored in other files"),
    (_linked("soft"), "'data' is a link"),
    (_linked("external"), "'data' is a link"),
    (_bomb, "'/data' has a chunk that expands to more than its 576 bytes"),
    (_twice_compressed, r"'/data' has HDF5 filters \[1, 1\]"),
    (_damaged_chunk, "'/data' is damaged"),
    (
      lambda path: _chunked(path, compression="lzf"),
      r"'/data' has HDF5 filters \[32000\]; store it with gzip only",
    ),
    (
      _large_chunk,
      r"chunks \[1048576, 64, 3\], which may take 268,435,456 bytes each",
    ),
    (
      lambda path: _rewrite(path, data=CLOUDS, label=[0, 2**32 + 1, 0]),
      "labels from 0 to 4294967297",
    ),
    (
      lambda path: _rewrite(path, data=CLOUDS, label=[0.0, 0.9, 0.0]),
      "'label' is no array of integers",
    ),
    (
      lambda path: _rewrite(path, data=CLOUDS[:, :0], label=[0, 1, 0]),
      r"data \[3, 0, 3\]",
    ),
  ],
)
def test_hdf5_files_of_other_contents_are_refused(damage, message, tmp_path):
  directory = tiny_points.write_hdf5(tmp_path)
  damage(directory / "ply_data_train0.h5")
  with pytest.raises(UserError, match=message) as error:
    make_source("hdf5", split="train", directory=str(directory))
  assert "ply_data_train0.h5' " in str(error.value)


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "gzip", "chunks": (2, 5, 2)},
  ],
)
def test_compressed_hdf5_files_are_read(options, tmp_path):
  directory = tiny_points.write_hdf5(tmp_path, sizes=(3,))
  _chunked(directory / "ply_data_train0.h5", **options)
  source = make_source("hdf5", split="train", directory=str(directory))
  points = sorted(x["points"].tolist() for x in _all(source))
  assert points == CLOUDS.tolist()


def test_hdf5_files_have_a_limited_size_together(tmp_path, monkeypatch):
  directory = tiny_points.write_hdf5(tmp_path, sizes=(3, 3))
  size = 2 * 3 * 16 * 3 * 4
  monkeypatch.setattr(limits, "MAX_CLOUDS_BYTES", size)
  make_source("hdf5", split="train", directory=str(directory))
  monkeypatch.setattr(limits, "MAX_CLOUDS_BYTES", size - 1)
  with pytest.raises(UserError, match=r"train1\.h5'.* 1,151 bytes together"):
    make_source("hdf5", split="train", directory=str(directory))


def test_a_cloud_with_a_damaged_coordinate_is_replaced(tmp_path, warnings):
  directory = tiny_points.write_hdf5(tmp_path, sizes=(3,))
  clouds = CLOUDS.copy()
  clouds[1, 4] = np.nan
  _rewrite(directory / "ply_data_train0.h5", data=clouds, label=[0, 1, 0])
  source = make_source("hdf5", split="train", directory=str(directory))
  assert sum(int(x["unreadable"]) for x in _all(source)) == 1
  assert "'ply_data_train0/0001' has a coordinate" in warnings[0]


def test_the_command_that_installs_h5py_is_named(tmp_path, monkeypatch):
  directory = tiny_points.write_hdf5(tmp_path)
  real_import = builtins.__import__

  def import_(name, *args, **kwargs):
    if name == "h5py":
      raise ImportError(name)
    return real_import(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", import_)
  with pytest.raises(
    UserError, match=r"h5py: pip install 'perceiver_jax\[points\]'"
  ):
    make_source("hdf5", split="train", directory=str(directory))
