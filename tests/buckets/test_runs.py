"""Tests of whole runs in a bucket, on a server of Cloud Storage.

The server runs on this machine, and a proxy before it injects faults.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import bucket_server
import entry_points
import numpy as np
import pytest
import tiny_runs as runs
from absl import logging
from safetensors import numpy as safetensors

from perceiver_jax import files
from perceiver_jax.buckets import lock as lock_lib
from perceiver_jax.buckets import store
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError
from perceiver_jax.training import interrupts
from perceiver_jax.training.logs import metric_writers

URL = f"gs://{bucket_server.BUCKET}"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_once")]


@pytest.fixture
def warnings(monkeypatch):
  lines = []
  record = lambda text, *values: lines.append(text % values)
  monkeypatch.setattr(logging, "warning", record)
  return lines


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """Returns the folder of a complete tiny run on a disk."""
  folder = tmp_path_factory.mktemp("undisturbed")
  assert not runs.train(folder).stopped
  return folder


def _read(server, name):
  key = name.replace("/", "%2F")
  path = f"/storage/v1/b/{bucket_server.BUCKET}/o/{key}?alt=media"
  status, _, content = server.ask("GET", path)
  return content if status == 200 else b""


def _write(server, name, contents):
  key = name.replace("/", "%2F")
  bucket = f"/upload/storage/v1/b/{bucket_server.BUCKET}"
  path = f"{bucket}/o?uploadType=media&name={key}"
  assert server.ask("POST", path, contents)[0] == 200


def _upload(server, folder, name):
  """Copies a run without its checkpoints and logs to the bucket."""
  for path in sorted(folder.iterdir()):
    if path.is_file() and path.name != ".lock":
      _write(server, f"{name}/{path.name}", path.read_bytes())


def test_interruptions_do_not_change_a_run(
  cloud_storage, undisturbed, monkeypatch
):
  folder = f"{URL}/interrupted"
  reasons = [{5: runs.Crash()}, {8: interrupts.PREEMPTED}, {11: runs.Crash()}]
  for each in [*reasons, {}]:
    monkeypatch.setattr(interrupts, "Interrupts", runs.stop_at(each))
    with contextlib.suppress(runs.Crash):
      runs.train(folder)
  runs.assert_same_end(folder, undisturbed)
  model = "model.safetensors"
  assert (
    _read(cloud_storage, f"interrupted/{model}")
    == (undisturbed / model).read_bytes()
  )
  own = {path.name for path in undisturbed.iterdir()} - {".lock"}
  there = {name.split("/")[1] for name in cloud_storage.names("interrupted/")}
  assert own <= there
  # Each start has its own events, as on a disk.
  assert len(cloud_storage.names("interrupted/tensorboard/")) == 4
  assert not cloud_storage.names("interrupted/.lock")


@pytest.mark.nightly
def test_failing_and_slow_answers_are_asked_for_again(
  cloud_storage, undisturbed, inject
):
  rng = np.random.default_rng(0)

  def fault(method, path):
    draw = rng.random()
    if draw < 0.1:
      return int(rng.choice([429, 500, 503]))
    return 1.0 if draw < 0.12 else None

  inject(fault)
  before = len(cloud_storage.requests)
  runs.train(f"{URL}/faults")
  assert len(cloud_storage.requests) > before + 100
  inject(None)
  runs.assert_same_end(f"{URL}/faults", undisturbed)


@pytest.mark.nightly
def test_a_lost_permission_ends_a_run_that_can_be_resumed(
  cloud_storage, undisturbed, inject
):
  folder = f"{URL}/lost"

  def fault(method, path):
    done = cloud_storage.names("lost/checkpoints/3/commit_success.txt")
    return 403 if done and method in ("POST", "PUT", "PATCH") else None

  inject(fault)
  with pytest.raises(UserError, match=r"lost.*(denied|injected 403)") as error:
    runs.train(folder)
  assert "\n" not in str(error.value)
  inject(None)
  runs.train(folder)
  runs.assert_same_end(folder, undisturbed)


@pytest.mark.nightly
def test_a_damaged_checkpoint_is_quarantined(
  cloud_storage, undisturbed, warnings
):
  folder = f"{URL}/damaged"
  runs.train(folder)
  last = runs.checkpoint_steps(folder)[-1]
  _write(cloud_storage, f"damaged/checkpoints/{last}/extras/metadata", b"{")
  runs.train(folder)
  assert "can't be read: damaged record" in warnings[0]
  moved = f"damaged/checkpoints_quarantine/{last}-1/extras/metadata"
  assert cloud_storage.names(moved)
  runs.assert_same_end(folder, undisturbed)


def test_a_live_run_keeps_others_out(
  cloud_storage, refuses, smoke_flag, warnings, monkeypatch
):
  monkeypatch.setattr(lock_lib, "_BEAT", 0.5)
  held = store.as_path(f"{URL}/locked/.lock")
  lock = lock_lib.BucketLock(held, "this test")
  words = [smoke_flag, f"--workdir={URL}/locked"]
  parts = [f"--workdir={URL}/locked is in use by another run (process "]
  refuses("train", *words, parts=parts)
  assert "waiting up to 60 seconds for a sign of life" in warnings[0]
  lock.check()
  lock.release()
  assert not cloud_storage.names("locked/.lock")


@pytest.mark.parametrize(
  ("workdir", "fault", "parts"),
  [
    ("gs://no-such-bucket/a", None, ["there is no bucket 'no-such-bucket'"]),
    (f"{URL}/x", 403, ["permission denied", "injected 403"]),
    (f"{URL}/x", 401, ["no valid credentials", "gcloud auth"]),
  ],
)
def test_a_bucket_that_can_t_be_used_is_named_at_once(
  cloud_storage, refuses, smoke_flag, inject, monkeypatch, workdir, fault, parts
):
  monkeypatch.setattr(store, "_checked", set())
  inject(lambda method, path: fault)
  before = len(cloud_storage.requests)
  words = [smoke_flag, f"--workdir={workdir}"]
  refuses("train", *words, parts=[workdir, *parts])
  assert len(cloud_storage.requests) - before <= 2


def test_a_bucket_that_may_only_be_read_is_named_before_training(
  cloud_storage, refuses, smoke_flag, inject
):
  inject(lambda method, path: 403 if method in ("POST", "PUT") else None)
  parts = [f"--workdir={URL}/y can't be written to: permission denied"]
  refuses("train", smoke_flag, f"--workdir={URL}/y", parts=parts)
  out = f"--out={URL}/y.json"
  words = [smoke_flag, f"--weights={URL}/none", out]
  refuses("evaluate", *words, parts=[f"{URL}/y.json", "permission denied"])
  inject(None)
  assert not cloud_storage.names("y")


@pytest.mark.nightly
def test_weights_are_evaluated_from_a_bucket(
  cloud_storage, call, trained, tmp_path, monkeypatch
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  _upload(cloud_storage, trained, "read")
  config = trained / "config.json"
  assert json.loads(config.read_text()) == files.read_json(
    store.as_path(f"{URL}/read/config.json")
  )
  model = f"{URL}/read/model.safetensors"
  done = call(
    "evaluate", entry_points.SMOKE, f"--weights={model}",
    f"--out={URL}/weights.json",
  )  # fmt: skip
  assert done.status == 0, done
  written = json.loads(_read(cloud_storage, "weights.json"))
  assert written["weights"] == model
  results = json.loads((trained / "results.json").read_text())
  loss = results["metrics"]["eval/loss"]
  assert written["metrics"]["eval/loss"] == pytest.approx(loss, rel=1e-5)


@pytest.fixture
def start(cloud_storage, compile_cache):
  """Returns a function that starts a program in a process of its own."""

  def start(*words):
    environment = {**os.environ, **compile_cache, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
      [sys.executable, "-m", *map(str, words)],
      env=environment,
      cwd=runs.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


def _finish(process):
  out, err = process.communicate(timeout=1000)
  assert process.returncode == 0, (out, err)
  return out


def _wait_for_checkpoint(server, process, name, steps):
  end, folder = time.monotonic() + 400, f"{name}/checkpoints"
  while time.monotonic() < end and process.poll() is None:
    names = server.names(f"{folder}/")
    if any(f"{folder}/{step}/commit_success.txt" in names for step in steps):
      return
    time.sleep(0.05)
  raise AssertionError(process.communicate())


@pytest.mark.nightly
def test_digits_are_killed_resumed_and_used_in_a_bucket(
  cloud_storage, start, tmp_path
):
  leaves = [
    "--config.num_steps=24", "--config.num_epochs=0.0",
    "--config.checkpoint.every_steps=4", "--config.log.every_steps=2",
    "--config.eval_every_steps=8",
  ]  # fmt: skip
  command = ["experiments.train", entry_points.SMOKE, *leaves]
  _finish(start(*command, f"--workdir={tmp_path}/digits"))
  command.append(f"--workdir={URL}/digits")
  process = start(*command)
  _wait_for_checkpoint(cloud_storage, process, "digits", (4, 8))
  process.kill()
  process.communicate()
  process = start(*command)
  _wait_for_checkpoint(cloud_storage, process, "digits", (12, 16))
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=300)
  if process.returncode:
    assert process.returncode == 75, (out, err)
    out = _finish(start(*command))
    assert "resumed from step" in " ".join(out.split())
  assert f"results: {URL}/digits/results.json" in out
  runs.assert_same_end(f"{URL}/digits", tmp_path / "digits")
  there = safetensors.load(_read(cloud_storage, "digits/model.safetensors"))
  here = safetensors.load_file(tmp_path / "digits" / "model.safetensors")
  for name, value in here.items():
    np.testing.assert_array_equal(there[name], value, strict=True)
  assert b"</html>" in _read(cloud_storage, "digits/report.html")
  workdir = f"--workdir={URL}/digits"
  _finish(start("experiments.evaluate", workdir, "--checkpoint=best"))
  assert len(cloud_storage.names("digits/evaluation-")) == 1
  image = codec.encode_png(np.zeros((8, 8, 3), np.uint8))
  _write(cloud_storage, "digit.png", image)
  words = ["experiments.predict", "classify", workdir, f"{URL}/digit.png"]
  assert "digit.png" in _finish(start(*words))
  out = f"--out={URL}/model.jax"
  _finish(start("scripts.export", workdir, out, "--platforms=cpu"))
  assert cloud_storage.names("model.") == ["model.jax", "model.json"]


@pytest.mark.nightly
def test_a_sweep_runs_in_a_bucket(cloud_storage, start, tmp_path):
  config = tmp_path / "rates.py"
  config.write_text(
    "from configs import digits\n"
    "def get_config():\n"
    "  config = digits.get_config('smoke')\n"
    "  config.num_steps, config.num_epochs = 2, 0.0\n"
    "  return config\n"
    "def sweep_rates():\n"
    "  for rate in (1e-3, 2e-3):\n"
    "    yield {'optimizer.learning_rate': rate}\n"
  )
  command = (
    "scripts.sweep", f"--config={config}", "--sweep=rates",
    f"--out={URL}/sweep",
  )  # fmt: skip
  out = _finish(start(*command, "--parallel=2"))
  assert out.count("| done |") == 2
  names = cloud_storage.names("sweep/")
  for name in ("sweep.csv", "sweep.html", "learning_rate=0.001.log"):
    assert f"sweep/{name}" in names
  assert not [name for name in names if name.endswith("/000001")]
  out = _finish(start(*command))
  assert out.count("finished before") == 2
  records = metric_writers.read_metrics(
    f"{URL}/sweep/learning_rate=0.001/metrics.jsonl"
  )
  assert records[-1]["step"] == 2
