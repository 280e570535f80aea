"""Tests of limits on the wait for data."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import tiny_runs as runs

from perceiver_jax import files
from perceiver_jax.data.clips import windows
from perceiver_jax.data.core import pipeline, timeouts
from perceiver_jax.errors import DataTimeoutError

# Stands for a file in a network mount that does not answer.
_HANGING = 3

# A task of digits, of which one hangs when `hang` exists.
_TASK = """
import pathlib, time
from perceiver_jax import files
from perceiver_jax.tasks.image_classification import ImageClassification

class Source:
  in_memory = False

  def __init__(self, source):
    self._source = source
    self.class_names = source.class_names
    self.num_classes = source.num_classes

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    hang = pathlib.Path(__file__).with_name("hang")
    if hang.exists() and index % 100 == 7:
      files.read_bytes(hang)
      time.sleep(1000)
    return self._source[index]

class HangingDigits(ImageClassification):
  def source(self, split):
    return Source(super().source(split))
"""


class _Hanging:
  """Examples or clips from a file; one hangs until `answer` is set."""

  class_names = ("a",)
  labels = ((0,),) * 8
  in_memory = False

  def __init__(self, path):
    self._path = path
    self.answer = threading.Event()

  def __len__(self):
    return 8

  def __getitem__(self, index):
    files.read_bytes(self._path)
    if index == _HANGING:
      self.answer.wait()
    return {"x": np.float32(index)}

  def read(self, index, window, position):
    return self[index]


@pytest.fixture
def hanging(tmp_path):
  path = tmp_path / "slow.bin"
  path.write_bytes(b"x")
  source = _Hanging(path)
  yield source
  source.answer.set()


@pytest.fixture(autouse=True)
def own_watch(monkeypatch):
  """Lets each test start a watch of its own limit."""
  monkeypatch.setattr(timeouts, "_watch", None)


@pytest.mark.parametrize("kind", ["train", "eval", "clips"])
def test_a_file_that_does_not_answer_is_named(hanging, caplog, kind):
  shared = {"global_batch": 2, "max_seconds": 0.6}
  if kind == "clips":
    source = windows.RandomWindows(hanging, windows.Window(1, 25.0, 0, 1))
    dataset = pipeline.train_dataset(
      source, seed=0, shuffle=False, transform=source.read, **shared
    )
  elif kind == "train":
    dataset = pipeline.train_dataset(hanging, seed=0, shuffle=False, **shared)
  else:
    dataset = pipeline.eval_dataset(hanging, **shared)
  iterator = iter(dataset)
  next(iterator)
  start = time.monotonic()
  with caplog.at_level("WARNING", "absl"), pytest.raises(
    DataTimeoutError, match=r"no batch of data for 0\.6 s: process \d+ has been"
    r" reading example 3, from '.*slow\.bin', for .*data_timeout_seconds",
  ):  # fmt: skip
    next(iterator)
  assert time.monotonic() - start < 5
  expected = f"process {os.getpid()} has been reading example 3"
  assert expected in caplog.messages[0]
  iterator.close()
  assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_slow_file_within_the_limit_only_gets_a_warning(hanging, caplog):
  threading.Timer(0.5, hanging.answer.set).start()
  dataset = pipeline.eval_dataset(hanging, global_batch=2, max_seconds=3.0)
  with caplog.at_level("WARNING", "absl"):
    batches = list(dataset)
  assert [batch["x"].tolist() for batch in batches][1] == [2.0, 3.0]
  assert "has been reading example 3" in caplog.messages[0]


def test_other_threads_have_no_limit(hanging):
  threading.Timer(0.3, hanging.answer.set).start()
  dataset = pipeline.eval_dataset(hanging, global_batch=8, max_seconds=0.1)
  batches = []
  thread = threading.Thread(target=lambda: batches.extend(dataset))
  thread.start()
  thread.join(20)
  assert len(batches) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "limit"), [(0, 8), (1, 20)])
def test_a_run_that_waits_too_long_ends_and_can_be_resumed(
  tmp_path, program, num_workers, limit
):
  (tmp_path / "hanging.py").write_text(_TASK)
  (tmp_path / "hang").write_text("x")
  arguments = {
    "leaves": {
      "num_steps": 6,
      "task": "hanging:HangingDigits",
      "data.num_workers": num_workers,
      "data_timeout_seconds": limit,
    },
    "environment": {"PYTHONPATH": str(tmp_path)},
  }
  status, _, err = program(tmp_path / "run", **arguments).end()
  assert status == 75, err
  (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
  assert f"no batch of data for {limit} s" in line
  assert "Traceback" not in err
  assert f"from '{tmp_path / 'hang'}'" in err
  (tmp_path / "hang").unlink()
  if num_workers:
    status, _, err = program(tmp_path / "run", **arguments).end()
    assert status == 0, err
    assert runs.checkpoint_steps(tmp_path / "run")[-1] == 6
