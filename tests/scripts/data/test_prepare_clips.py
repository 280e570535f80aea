"""Tests of preparing clips for training."""

import json
import multiprocessing
import shutil
import threading
import time

import numpy as np
import pytest
import tiny_clips

from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.windows import Window

WINDOW = Window(8, 25.0, 8 * 1920, 48_000, (16, 16))


@pytest.fixture
def folder(tmp_path):
  """Writes three readable clips, a truncated one and one without audio."""
  root = tmp_path / "clips"
  for name in ("a/one", "b/two", "b/three"):
    tiny_clips.write_clip(root / "train" / f"{name}.mp4", 1.0)
  tiny_clips.truncate(
    tiny_clips.write_clip(root / "train" / "a" / "truncated.mp4")
  )
  tiny_clips.write_clip(root / "train" / "b" / "silent.mp4", audio=False)
  return root


def _flags(folder, output, *more):
  return (
    "data.prepare_clips", f"--directory={folder}", f"--output={output}",
    "--num_files=2", "--size=24", *more,
  )  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_readable_clips_are_prepared_once(script, folder, tmp_path):
  out = tmp_path / "out"
  done = script(*_flags(folder, out))
  assert done.status == 1, done  # Two clips are unreadable.
  assert "truncated.mp4" in done.out
  assert "silent.mp4" in done.out
  assert "3 clips in 2 files; 2 cannot be read" in done.out
  source = clip_shards.shards(out, "train")
  clips = {
    name: (source.class_names[label], source.read(i, WINDOW, 1.0))
    for i, (name, (label,)) in enumerate(
      zip(source.names, source.labels, strict=True)
    )
  }
  assert {name: label for name, (label, _) in clips.items()} == {
    "one": "a", "two": "b", "three": "b",
  }  # fmt: skip
  levels = clips["two"][1]["image"].mean((1, 2, 3)) / 4
  np.testing.assert_allclose(levels, 17 + np.arange(8), atol=0.7)
  index = json.loads((out / "train.json").read_text())
  assert len(index["bad"]) == 2
  # Complete files are not written again.
  before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.array_record")}
  again = script(*_flags(folder, out))
  assert "3 clips in 2 files; 2 cannot be read" in again.out
  after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.array_record")}
  assert after == before
  checked = script(*_flags(folder, out, "--check"))
  assert checked.status == 0, checked
  assert "3 clips" in checked.out


@pytest.mark.usefixtures("in_process")
def test_an_interrupted_preparation_resumes(
  script, folder, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  encode, calls = clip_shards.encode, []

  def stops(*args):
    calls.append(1)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return encode(*args)

  monkeypatch.setattr(clip_shards, "encode", stops)
  assert script(*_flags(folder, out)).status == 130
  assert not (out / "train.json").exists()
  monkeypatch.setattr(clip_shards, "encode", encode)
  assert script(*_flags(folder, out)).status == 1
  source = clip_shards.shards(out, "train")
  assert sorted(source.names) == ["one", "three", "two"]
  for i in range(3):
    source.read(i, WINDOW, 0.5)


def _flip(path):
  data = bytearray(path.read_bytes())
  data[1000] ^= 1
  path.write_bytes(data)


@pytest.mark.usefixtures("in_process")
def test_damaged_files_are_detected_and_prepared_again(
  script, refused, folder, tmp_path
):
  out = tmp_path / "out"
  script(*_flags(folder, out))
  first, second = sorted(out.glob("*.array_record"))
  whole = first.read_bytes(), second.read_bytes()
  first.unlink()
  refused(*_flags(folder, out, "--check"), parts=["1 of 2 files", "missing"])
  first.write_bytes(whole[0][: len(whole[0]) // 2])
  refused(*_flags(folder, out, "--check"), parts=["damaged", first.name])
  first.write_bytes(whole[0])
  _flip(second)
  checked = script(*_flags(folder, out, "--check"))
  assert checked.status == 1
  (line,) = [x for x in checked.out.splitlines() if x.startswith("remove")]
  assert second.name in line
  assert first.name not in line
  # The missing file and the damaged one are both written again.
  first.unlink()
  again = script(*_flags(folder, out))
  assert "3 clips in 2 files; 2 cannot be read" in again.out
  assert ", 0 of them damaged" in again.out
  assert (first.read_bytes(), second.read_bytes()) == whole
  refused(*_flags(folder, out, "--size=9"), parts=["other settings"])


@pytest.mark.usefixtures("in_process")
def test_temporary_files_of_an_earlier_run_are_removed(
  script, folder, tmp_path
):
  out = tmp_path / "out"
  out.mkdir()
  stale = (
    ".train-00001-of-00002.77.tmp",
    ".train-00001-of-00002.note.json.77.tmp",
    ".train.json.77.tmp",
  )
  others = (".trainer-00001-of-00002.77.tmp", ".train-old.tmp")
  for name in (*stale, *others):
    (out / name).touch()
  script(*_flags(folder, out))
  assert {path.name for path in out.glob(".*")} == {*others}


@pytest.mark.usefixtures("in_process")
def test_files_of_other_clips_are_refused(script, refused, folder, tmp_path):
  lines = ["file,label", "train/a/one.mp4,x", "train/b/two.mp4,y"]
  (folder / "mine.csv").write_text("\n".join(lines))
  out = tmp_path / "out"
  flags = _flags(folder, out, "--split=mine")
  assert script(*flags).status == 0
  # Moving the folder does not change the clips.
  moved = folder.rename(tmp_path / "moved")
  shutil.copytree(moved / "train", moved / "other")
  shutil.copy(moved / "train/a/one.mp4", moved / "train/b/one.mp4")
  flags = _flags(moved, out, "--split=mine")
  assert script(*flags).status == 0
  for changed in (
    [lines[0], lines[2], lines[1]],
    [lines[0], lines[1], "train/b/one.mp4,y"],
    ["file,label", "other/a/one.mp4,x", "other/b/two.mp4,y"],
    [lines[0], lines[1], "train/b/three.mp4,y"],
  ):
    (moved / "mine.csv").write_text("\n".join(changed))
    refused(*flags, parts=["other clips or in another order", "mine-*-of-*"])
  # Without its settings, a prepared file is not taken for one of other clips.
  (out / "mine.settings.json").unlink()
  assert script(*flags).status == 0
  source = clip_shards.shards(out, "mine")
  assert sorted(source.names) == ["one", "three"]
  (out / "mine.settings.json").unlink()
  # Labels are those of the current list.
  (moved / "mine.csv").write_text("\n".join(lines).replace(",y", ",z"))
  assert script(*flags).status == 0
  source = clip_shards.shards(out, "mine")
  labels = {
    name: source.class_names[label]
    for name, (label,) in zip(source.names, source.labels, strict=True)
  }
  assert labels == {"one": "x", "two": "z"}


def test_missing_flags_and_folders_are_refused(refused, tmp_path):
  refused("data.prepare_clips", parts=["--output=OUT"])
  refused(
    "data.prepare_clips", f"--output={tmp_path}", "--fps=0", "--sample_rate=0",
    parts=["keep one"],
  )  # fmt: skip
  refused("data.prepare_clips", f"--output={tmp_path}", parts=["no directory"])
  refused(
    "data.prepare_clips",
    f"--output={tmp_path}",
    "--check",
    parts=["train.json"],
  )


@pytest.mark.slow
def test_preparation_resumes_after_a_worker_is_killed(
  script, refused, folder, tmp_path
):
  out = tmp_path / "out"
  flags = (*_flags(folder, out), "--num_workers=2")
  killer = threading.Thread(target=_kill_a_child)
  killer.start()
  refused(*flags, parts=["was killed", "same command", "--num_workers"])
  killer.join()
  done = script(*flags)
  assert "3 clips in 2 files; 2 cannot be read" in done.out, done


def _kill_a_child():
  """Kills the first of two processes that this one starts."""
  while len(children := multiprocessing.active_children()) < 2:
    time.sleep(0.01)
  children[0].kill()
