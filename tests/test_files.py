"""Tests of opening and writing files."""

import contextlib
import errno
import os
import threading

import numpy as np
import pytest

from perceiver_jax import files
from perceiver_jax.data.clips import video_writer
from perceiver_jax.data.core import records
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.training.logs import metric_writers
from perceiver_jax.viz import report
from scripts.sweeps import table

_NOISE = np.random.default_rng(0)


def _records(path):
  records.write_records(path, [_NOISE.bytes(5_000) for _ in range(20)])


def _csv(path):
  point = {f"leaf_{i}": "x" * 100 for i in range(100)}
  table.write(path.parent, [table.Row("a", point, 1, path.parent / "a")])


_WRITERS = {
  "text.txt": lambda path: files.write_text(path, "x" * 50_000),
  "results.json": lambda path: metric_writers.write_json(path, [0] * 9_000),
  "report.html": lambda path: report.write_report(
    path, report.Report(title="x" * 50_000, summary={})
  ),
  "flow.flo": lambda path: flow_files.write_flow(path, np.zeros((99, 99, 2))),
  "video.mp4": lambda path: video_writer.write_video(
    path, _NOISE.integers(0, 256, (9, 64, 64, 3), np.uint8), 9
  ),
  "train.array_record": _records,
  "sweep.csv": _csv,
}


@pytest.mark.parametrize("name", _WRITERS)
def test_a_full_disk_leaves_the_old_file(full_disk, name):
  folder, fill = full_disk
  path = folder / name
  path.write_bytes(b"old")
  fill()
  with pytest.raises(Exception) as error:  # noqa: PT011
    _WRITERS[name](path)
  assert files.no_space(error.value) == "no space left on device"
  assert path.read_bytes() == b"old"
  assert {p.name for p in folder.iterdir()} == {name, "filling"}


def test_a_file_appears_when_it_is_complete(tmp_path):
  path = tmp_path / "a.txt"
  with files.replacing(path) as partial:
    partial.write_text("new")
    assert not path.exists()
  assert path.read_text() == "new"
  with contextlib.suppress(KeyboardInterrupt), files.replacing(path) as partial:
    partial.write_text("newer")
    raise KeyboardInterrupt
  assert path.read_text() == "new"
  assert list(tmp_path.iterdir()) == [path]


def _write_checked(path):
  files.check_writable(path)
  files.write_text(path, "new")


@pytest.mark.parametrize("write", [files.check_writable, _write_checked])
def test_writing_keeps_symbolic_links(tmp_path, write):
  target, link = tmp_path / "b" / "a.txt", tmp_path / "link"
  target.parent.mkdir()
  link.symlink_to(target)
  write(link)
  assert link.is_symlink()
  assert target.exists() == (write is _write_checked)
  _write_checked(link)
  assert target.read_text() == "new"
  assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
  "write", [files.check_writable, lambda path: files.write_text(path, "new")]
)
@pytest.mark.parametrize(
  ("make", "kind"),
  [
    (os.mkfifo, "a pipe"),
    (os.mkdir, "a folder"),
    (lambda path: os.symlink(os.devnull, path), "a device"),
  ],
)
def test_only_regular_files_are_replaced(tmp_path, write, make, kind):
  path = tmp_path / "a"
  make(path)
  before = os.stat(path).st_ino
  with pytest.raises(OSError, match=f"it is {kind} and not a regular file"):
    write(path)
  assert os.stat(path).st_ino == before
  assert list(tmp_path.iterdir()) == [path]


def test_the_cause_of_an_error_tells_a_full_disk():
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  other = ValueError("not written")
  assert files.no_space(full) == "no space left on device"
  assert files.no_space(other) == ""
  other.__cause__ = RuntimeError("close: Disk quota exceeded; at byte 7")
  assert files.no_space(other) == "disk quota exceeded"
  assert files.no_space(FileNotFoundError(errno.ENOENT, "no file")) == ""


def test_the_last_file_of_each_thread_is_known(tmp_path):
  (tmp_path / "a").write_text("a")
  files.read_text(tmp_path / "a")
  thread = threading.Thread(target=files.is_name, args=("a",))
  thread.start()
  thread.join()
  assert files.last_opened[threading.get_ident()] == str(tmp_path / "a")
