"""Tests of the files and services that a run writes metrics and images to."""

import io
import json
import math
import os
import pathlib
import resource
import struct
import sys
import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

from perceiver_jax.errors import UserError
from perceiver_jax.training.logs import metric_writers
from perceiver_jax.training.logs.metric_writers import (
  MetricsFile,
  MetricWriters,
  read_metrics,
  write_json,
)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "metrics.jsonl"


def write_steps(path, steps):
  file = MetricsFile(path)
  for step in steps:
    file.write(step, {"train/loss": step / 10})
  file.close()


# JSON files.


def test_write_json_writes_arrays_paths_and_nulls(tmp_path):
  path = tmp_path / "results.json"
  write_json(
    path,
    {
      "top1": np.float32(0.5),
      "loss": jnp.asarray([1.0, jnp.nan], jnp.bfloat16),
      "confusion": np.eye(2, dtype=np.int32),
      "worst": -math.inf,
      "nested": {1: (True, None, "déjà")},
      "workdir": pathlib.Path("runs/a"),
    },
  )
  assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
    "top1": 0.5,
    "loss": [1.0, None],
    "confusion": [[1, 0], [0, 1]],
    "worst": None,
    "nested": {"1": [True, None, "déjà"]},
    "workdir": "runs/a",
  }
  assert path.read_text().endswith("}\n")


def test_write_json_writes_config_dicts(tmp_path):
  ml_collections = pytest.importorskip("ml_collections")
  config = ml_collections.ConfigDict({"model": {"depth": 2}})
  write_json(tmp_path / "config.json", config)
  text = (tmp_path / "config.json").read_text()
  assert json.loads(text) == {"model": {"depth": 2}}


class _FullDisk(io.StringIO):
  def __init__(self, path):
    super().__init__()
    path.write_text("{")

  def write(self, text):
    raise OSError("no space left on device")


def test_failed_write_leaves_the_old_file_and_no_temporary_file(
  tmp_path, monkeypatch
):
  path = tmp_path / "results.json"
  write_json(path, {"top1": 0.1})

  def full(file, *args, **kwargs):
    return _FullDisk(pathlib.Path(file))

  monkeypatch.setattr(metric_writers, "open", full, raising=False)
  with pytest.raises(OSError, match="no space"):
    write_json(path, {"top1": 0.9})
  assert json.loads(path.read_text()) == {"top1": 0.1}
  assert os.listdir(tmp_path) == ["results.json"]


def test_value_without_json_form_leaves_the_old_file(tmp_path):
  path = tmp_path / "results.json"
  write_json(path, {"top1": 0.1})
  with pytest.raises(TypeError):
    write_json(path, {"top1": object()})
  assert json.loads(path.read_text()) == {"top1": 0.1}


def test_file_is_complete_before_it_is_renamed(tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  contents = []
  replace = os.replace

  def spy(source, target):
    contents.append(json.loads(pathlib.Path(source).read_text()))
    assert pathlib.Path(source).parent == pathlib.Path(target).parent
    replace(source, target)

  monkeypatch.setattr(os, "replace", spy)
  write_json(path, {"top1": 0.9})
  assert contents == [{"top1": 0.9}]


# The file metrics.jsonl.


def test_lines_can_be_read_as_soon_as_they_are_written(path):
  file = MetricsFile(path)
  file.write(np.int32(1), {"train/loss": jnp.float32(0.5)})
  assert read_metrics(path) == [{"step": 1, "train/loss": 0.5}]
  file.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_null_in_the_file_and_read_as_nan(
  path, value
):
  file = MetricsFile(path)
  file.write(3, {"train/loss": np.float32(value), "lr": 0.25})
  file.close()
  line = json.loads(path.read_text(), parse_constant=pytest.fail)
  assert line == {"step": 3, "train/loss": None, "lr": 0.25}
  (record,) = read_metrics(path)
  assert math.isnan(record["train/loss"])


def test_a_missing_file_has_no_records(path):
  assert read_metrics(path) == []
  MetricsFile(path).truncate_after(5)
  assert not path.exists()


def test_truncation_keeps_the_lines_up_to_the_step_unchanged(path):
  write_steps(path, [0, 1, 2, 2, 3, 4])
  lines = path.read_text().splitlines(keepends=True)
  MetricsFile(path).truncate_after(2)
  assert path.read_text() == "".join(lines[:4])


@settings(deadline=None, max_examples=60)  # No deadline: it waits for the disk.
@given(cut=st.integers(0), resume=st.integers(0, 6))
def test_a_run_killed_anywhere_and_resumed_writes_the_same_file(
  tmp_path_factory, cut, resume
):
  folder = tmp_path_factory.mktemp("run")
  whole, killed = folder / "whole.jsonl", folder / "killed.jsonl"
  write_steps(whole, range(1, 7))
  # A step's line is written before its checkpoint, so at least the lines up to
  # the resumed step are complete.
  data = whole.read_bytes()
  saved = len(b"".join(data.splitlines(keepends=True)[:resume]))
  killed.write_bytes(data[: saved + cut % (len(data) - saved + 1)])

  file = MetricsFile(killed)
  file.truncate_after(resume)
  file.close()
  write_steps(killed, range(resume + 1, 7))
  assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
  "tail", ['{"step": 3, "train/lo', '{"step": 3', "\x00\x00\x00", "\xff{"]
)
def test_incomplete_last_line_is_skipped_and_removed(path, tail):
  write_steps(path, [1, 2])
  with open(path, "ab") as file:
    file.write(tail.encode("latin-1"))
  assert [r["step"] for r in read_metrics(path)] == [1, 2]
  write_steps(path, [3])
  assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]


def test_last_line_without_a_newline_is_kept(path):
  write_steps(path, [1, 2])
  path.write_bytes(path.read_bytes()[:-1])
  write_steps(path, [3])
  assert [r["step"] for r in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize(
  "line",
  ["{", "[1]", "7", '{"loss": 1}', '{"step": "2"}', '{"step": 2, "x": "y"}'],
)
def test_a_damaged_line_before_the_last_is_an_error_with_its_number(path, line):
  path.write_text(f'{{"step": 1}}\n\n{line}\n{{"step": 3}}\n')
  before = path.read_bytes()
  with pytest.raises(UserError, match=r"metrics\.jsonl line 3 .*--workdir"):
    read_metrics(path)
  with pytest.raises(UserError):
    MetricsFile(path).truncate_after(1)
  with pytest.raises(UserError):
    MetricsFile(path).write(4, {})
  assert path.read_bytes() == before


# All writers together.


def make_image(shape=(4, 6, 3)):
  return np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)


def open_writers(workdir, resume_step=0, tensorboard=False, **kwargs):
  return MetricWriters(
    workdir, resume_step=resume_step, tensorboard=tensorboard, **kwargs
  )


def test_disabled_writers_write_nothing(tmp_path, fake_wandb):
  folder = tmp_path / "run"
  out = open_writers(folder, tensorboard=True, wandb_project="p", enabled=False)
  out.scalars(1, {"train/loss": 1.0})
  out.image(1, "image", make_image())
  out.close()
  assert not folder.exists()
  assert not fake_wandb.calls


def test_scalars_and_images_are_written_to_the_workdir(tmp_path):
  out = open_writers(tmp_path / "a" / "run")
  out.scalars(2, {"train/loss": np.float32(0.5)})
  out.image(2, "eval/attention maps", make_image())
  out.image(12, "../..", make_image((4, 6)))
  out.close()
  run = tmp_path / "a" / "run"
  assert read_metrics(run / "metrics.jsonl") == [{"step": 2, "train/loss": 0.5}]
  names = {p.name for p in (run / "images").iterdir()}
  first = "eval-attention-maps-00000002.png"
  assert names == {first, "image-00000012.png"}
  image = cv2.imread(str(run / "images" / first))[..., ::-1]
  np.testing.assert_array_equal(image, make_image())
  assert not (run / "tensorboard").exists()


def test_resumed_run_removes_later_lines_and_new_run_removes_all(tmp_path):
  out = open_writers(tmp_path)
  for step in (0, 1, 2, 3):
    out.scalars(step, {"train/loss": 1.0})
  out.close()
  open_writers(tmp_path, resume_step=2).close()
  steps = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")]
  assert steps == [0, 1, 2]
  open_writers(tmp_path, resume_step=0).close()
  assert read_metrics(tmp_path / "metrics.jsonl") == []


# TensorBoard.


def tfrecords(data):
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    yield data[12 : 12 + length]
    data = data[16 + length :]


def events(folder):
  """Returns all events in TensorBoard's order, sorted by file name."""
  for file in sorted(folder.glob("*tfevents*")):
    for record in tfrecords(file.read_bytes()):
      yield Event.FromString(record)


def visible_scalars(folder):
  """Returns the scalars that TensorBoard shows.

  The start of a session hides earlier events from its step on.
  """
  scalars = {}
  for event in events(folder):
    if event.session_log.status == SessionLog.START:
      scalars = {k: v for k, v in scalars.items() if k[1] < event.step}
    for value in event.summary.value:
      if value.HasField("simple_value"):
        scalars[value.tag, event.step] = value.simple_value
  return scalars


def test_tensorboard_gets_scalars_and_images(tmp_path):
  out = open_writers(tmp_path, tensorboard=True)
  out.scalars(1, {"train/loss": 0.5, "lr": 0.25})
  out.image(1, "eval/attention", make_image())
  out.image(1, "eval/gray", make_image((4, 6)))
  out.close()
  folder = tmp_path / "tensorboard"
  assert visible_scalars(folder) == {("train/loss", 1): 0.5, ("lr", 1): 0.25}
  images = {
    value.tag: value.image.encoded_image_string
    for event in events(folder)
    for value in event.summary.value
    if value.HasField("image")
  }
  assert set(images) == {"eval/attention", "eval/gray"}
  data = np.frombuffer(images["eval/attention"], np.uint8)
  image = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
  np.testing.assert_array_equal(image, make_image())


def test_tensorboard_hides_events_that_a_resumed_run_repeats(tmp_path):
  out = open_writers(tmp_path, tensorboard=True)
  for step in (1, 2, 3, 4):
    out.scalars(step, {"train/loss": 1.0})
  out.close()
  out = open_writers(tmp_path, resume_step=2, tensorboard=True)
  out.scalars(3, {"train/loss": 2.0})
  out.close()
  assert visible_scalars(tmp_path / "tensorboard") == {
    ("train/loss", 1): 1.0,
    ("train/loss", 2): 1.0,
    ("train/loss", 3): 2.0,
  }


def test_full_disk_is_an_error_and_does_not_block(tmp_path):
  out = open_writers(tmp_path, tensorboard=True)

  def write():
    for step in range(1000):
      out.scalars(step, {"train/loss": 0.5})

  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
  try:
    with pytest.raises(OSError, match="too large"):
      write()
    with pytest.raises(OSError, match="too large"):
      out.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


# Weights & Biases.


class FakeWandb(types.ModuleType):
  def __init__(self):
    super().__init__("wandb")
    self.calls = []

  def init(self, **kwargs):
    self.calls.append(("init", kwargs))
    return self

  def log(self, values, step):
    self.calls.append(("log", values, step))

  def Image(self, image):
    return ("image", image.shape)

  def finish(self):
    self.calls.append(("finish",))


@pytest.fixture
def fake_wandb(monkeypatch):
  module = FakeWandb()
  monkeypatch.setitem(sys.modules, "wandb", module)
  return module


def test_missing_wandb_is_an_error_before_files_change(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  write_steps(tmp_path / "metrics.jsonl", [1, 2])
  with pytest.raises(UserError, match=r"'cats'.*pip install") as error:
    open_writers(tmp_path, wandb_project="cats")
  assert "\n" not in str(error.value)
  assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_wandb_is_not_needed_without_a_project(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  open_writers(tmp_path).close()


def test_wandb_gets_scalars_images_and_the_config(tmp_path, fake_wandb):
  config = {"lr": math.nan, "model": {"depth": np.int64(2)}}
  out = open_writers(tmp_path, wandb_project="cats", config=config)
  out.scalars(3, {"train/loss": np.float32(0.5)})
  out.image(3, "eval/attention", make_image())
  out.close()
  (_, init), *rest = fake_wandb.calls
  assert (init["project"], init["name"]) == ("cats", None)
  assert init["config"] == {"lr": None, "model": {"depth": 2}}
  assert init["dir"] == str(tmp_path)
  assert rest == [
    ("log", {"train/loss": 0.5}, 3),
    ("log", {"eval/attention": ("image", (4, 6, 3))}, 3),
    ("finish",),
  ]


def test_resumed_run_continues_the_same_wandb_run(tmp_path, fake_wandb):
  for resume_step in (0, 5):
    out = open_writers(
      tmp_path / "a",
      resume_step=resume_step,
      wandb_project="cats",
      run_name="tabby",
    )
    out.close()
  open_writers(tmp_path / "b", wandb_project="cats").close()
  inits = [call[1] for call in fake_wandb.calls if call[0] == "init"]
  assert inits[0]["id"] == inits[1]["id"] != inits[2]["id"]
  assert inits[0]["name"] == "tabby"
  assert {init["resume"] for init in inits} == {"allow"}
