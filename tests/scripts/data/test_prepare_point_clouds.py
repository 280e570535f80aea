"""Tests of sampling meshes once."""

import json
import pickle
import time

import entry_points
import numpy as np
import pytest
import tiny_points

from perceiver_jax.data.core import records
from perceiver_jax.data.points import files, object_files, sampling
from perceiver_jax.data.points.sources import make_source
from perceiver_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """Writes a folder like ModelNet40's, one of its meshes damaged."""
  root = tiny_points.write_modelnet(tmp_path / "meshes", train=4)
  tiny_points.write(root / "cube/train/cube_0002.off", "OFF\n8 6 0\n0 0")
  return root


def _flags(folder, output, *more):
  return (
    "data.prepare_point_clouds", f"--directory={folder}", f"--output={output}",
    "--num_files=3", "--num_points=50", *more,
  )  # fmt: skip


def _opened(output, split="train"):
  return make_source("shards", split=split, directory=str(output))


@pytest.mark.usefixtures("in_process")
def test_meshes_are_sampled_once(script, folder, tmp_path):
  out = tmp_path / "out"
  done = script(*_flags(folder, out))
  assert done.status == 1, done  # One mesh is damaged.
  assert "cube_0002.off' cannot be read: it has 1 lines for 8" in done.out
  assert "7 objects in 3 files; 1 cannot be read" in done.out
  assert "train: 7 clouds, 0 of them damaged" in done.out
  (reason,) = json.loads((out / "train.json").read_text())["bad"]
  assert "cube_0002.off" in reason
  meshes = make_source(
    "mesh_folder", split="train", directory=str(folder)
  ).source
  clouds = pickle.loads(pickle.dumps(_opened(out)))
  assert clouds.class_names == tiny_points.CLASSES
  names = [name for name in meshes.names if name != "cube/cube_0002"]
  assert list(clouds.source.names) == names
  for i, name in enumerate(names):
    mesh, cloud = meshes[meshes.names.index(name)], clouds[i]
    assert cloud["label"] == mesh["label"]
    np.testing.assert_array_equal(cloud["points"], sampling.sample(mesh, 50))
    # All points of the box lie on its sides.
    sides = np.abs(cloud["points"][:, :, None] - [0, 1, mesh["vertices"].max()])
    assert (sides.min((1, 2)) < 1e-5).all()
  # Complete files are not written again.
  before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.array_record")}
  assert script(*_flags(folder, out)).status == 1
  after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.array_record")}
  assert before == after
  assert script(*_flags(folder, out, "--check")).status == 0


@pytest.mark.usefixtures("in_process")
def test_slices_of_prepared_clouds_are_those_of_the_meshes(
  script, folder, tmp_path
):
  out = tmp_path / "out"
  assert script(*_flags(folder, out, "--split=test")).status == 0
  for split in ("test[:2]", "test[50%:]"):
    meshes = make_source(
      "mesh_folder", split=split, directory=str(folder)
    ).source
    assert _opened(out, split).source.names == meshes.names
    assert len(meshes.names) == 2


@pytest.mark.usefixtures("in_process")
def test_an_interrupted_preparation_resumes(
  script, folder, tmp_path, monkeypatch
):
  out, calls = tmp_path / "out", []
  read = object_files.ObjectFiles.__getitem__

  def stops(self, index):
    calls.append(index)
    if len(calls) == 5:
      raise KeyboardInterrupt
    return read(self, index)

  monkeypatch.setattr(object_files.ObjectFiles, "__getitem__", stops)
  assert script(*_flags(folder, out)).status == 130
  assert not (out / "train.json").exists()
  assert len(list(out.glob("train-*.array_record"))) == 1
  assert script(*_flags(folder, out)).status == 1
  # The three meshes of the complete file are not read again.
  assert len(calls) == 5 + 8 - 3
  assert len(_opened(out)) == 7
  assert not list(out.glob(".*"))


@pytest.mark.usefixtures("in_process")
def test_objects_that_take_too_much_are_left_out(
  script, folder, tmp_path, monkeypatch
):
  read = files.read

  def slow(path):
    if path.name == "cube_0001.off":
      time.sleep(20)
    if path.name == "cube_0003.off":
      np.zeros(10**9)
    return read(path)

  monkeypatch.setattr(files, "read", slow)
  limits = "--max_seconds=1", "--max_memory_mb=500"
  start = time.monotonic()
  done = script(*_flags(folder, tmp_path / "out", *limits))
  assert time.monotonic() - start < 15
  assert done.status == 1
  assert "'cube/cube_0001': takes more than 1 s" in done.out
  assert "'cube/cube_0003': takes more than 500 MB" in done.out
  assert "5 objects in 3 files; 3 cannot be read" in done.out


@pytest.mark.usefixtures("in_process")
def test_text_is_stored_with_all_its_points(script, tmp_path):
  folder = tiny_points.write_resampled(tmp_path / "text")
  out = tmp_path / "out"
  done = script(*_flags(folder, out, "--source=resampled_text"))
  assert done.status == 0, done
  text = make_source("resampled_text", split="train", directory=str(folder))
  for i, cloud in enumerate(_opened(out)[i] for i in range(6)):
    # There are fewer points than --num_points.
    stored, original = (np.sort(x["points"], 0) for x in (cloud, text[i]))
    np.testing.assert_array_equal(stored, original)


@pytest.mark.usefixtures("in_process")
def test_damaged_files_are_detected_and_prepared_again(
  script, refused, folder, tmp_path
):
  out = tmp_path / "out"
  script(*_flags(folder, out))
  first, second, third = sorted(out.glob("*.array_record"))
  whole = [path.read_bytes() for path in (first, second, third)]
  first.unlink()
  refused(*_flags(folder, out, "--check"), parts=["1 of 3 files", "missing"])
  first.write_bytes(whole[0][: len(whole[0]) // 2])
  refused(*_flags(folder, out, "--check"), parts=["damaged", first.name])
  first.write_bytes(whole[0])
  # A record that is none of a cloud, where there was one.
  count = json.loads((out / "train.json").read_text())["files"][second.name]
  records.write_records(second, [b"no cloud"] * count)
  checked = script(*_flags(folder, out, "--check"))
  assert checked.status == 1
  (line,) = [x for x in checked.out.splitlines() if x.startswith("remove")]
  assert second.name in line
  assert first.name not in line
  again = script(*_flags(folder, out))
  assert ", 0 of them damaged" in again.out
  assert [p.read_bytes() for p in (first, second, third)] == whole
  for change in ("--num_points=51", "--source=mesh_folder --split=test"):
    (out / "test.settings.json").write_text("{}")
    refused(*_flags(folder, out, *change.split()), parts=["other settings"])
  (out / "test.settings.json").write_text("{")
  parts = ["test.settings.json' can't be read", "remove it"]
  refused(*_flags(folder, out, "--split=test"), parts=parts)


@pytest.mark.usefixtures("in_process")
def test_wrong_flags_are_refused(refused, folder, tmp_path):
  out = tmp_path / "out"
  name = "data.prepare_point_clouds"
  refused(name, parts=["--output=OUT"])
  refused(name, f"--output={out}", parts=["--directory=DIR"])
  refused(*_flags(tmp_path / "none", out), parts=["no directory"])
  refused(*_flags(folder, out, "--split=train[:10%]"), parts=["is a slice"])
  refused(*_flags(folder, out, "--split=valid"), parts=["'valid'", "expected"])
  refused(
    *_flags(folder, out, "--check"),
    parts=["no 'train.json' in --output=", str(out)],
  )
  for path in folder.glob("*/test/*"):
    path.write_text("")
  refused(
    *_flags(folder, out, "--split=test"), parts=["none of the 4 objects can be"]
  )


def test_unprepared_splits_are_refused(tmp_path):
  for directory in ("", str(tmp_path)):
    with pytest.raises(UserError, match=r"prepare_point_clouds has written"):
      _opened(directory)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"x": np.zeros((2, 3), "f4")}, r"its points are float64 \[0\]"),
    ({"points": np.zeros(3, "f4")}, r"its points are float32 \[3\]"),
    ({"points": np.zeros((2, 3))}, r"its points are float64 \[2, 3\]"),
    ({"points": np.zeros(())}, r"its points are float64 \[\]"),
    ({"points": np.zeros((0, 3), "f4")}, "has no point"),
    ({"points": np.full((2, 3), np.inf, "f4")}, "not finite"),
  ],
)
def test_records_of_other_arrays_are_named(tmp_path, arrays, message):
  files = {"a": records.write_records(tmp_path / "a", [records.encode(arrays)])}
  contents = {"files": files, "names": ["x/1"], "labels": [0]}
  contents["class_names"] = ["x"]
  records.write_json(tmp_path / "train.json", contents)
  with pytest.raises(UserError, match=f"cloud 'x/1': .*{message}"):
    _opened(tmp_path).source[0]


@pytest.mark.usefixtures("in_process")
def test_a_cloud_has_one_label(script, folder, tmp_path):
  script(*_flags(folder, tmp_path))
  contents = json.loads((tmp_path / "train.json").read_text())
  contents["labels"][1] = [0]
  (tmp_path / "train.json").write_text(json.dumps(contents))
  with pytest.raises(UserError, match="has a list of labels for one cloud"):
    _opened(tmp_path)


@pytest.mark.slow
def test_meshes_are_sampled_in_processes(script, folder, tmp_path):
  out = tmp_path / "out"
  done = script(*_flags(folder, out, "--num_workers=2"))
  assert done.status == 1, done
  assert "7 objects in 3 files; 1 cannot be read" in done.out


@pytest.mark.usefixtures("in_process")
def test_a_full_disk_leaves_no_half_file(script, folder, full_disk):
  out, fill = full_disk
  fill()
  done = script(*_flags(folder, out))
  entry_points.assert_refused(done, ["no space left on device"])
  assert {p.name for p in out.iterdir()} == {"filling"}
  (out / "filling").unlink()
  # There is room for the settings, but not for all records.
  done = script(*_flags(folder, out, "--num_points=2000"))
  entry_points.assert_refused(done, ["no space left on device"])
  names = {p.name for p in out.iterdir()}
  assert not {n for n in names if n.endswith(".tmp") or n == "train.json"}
