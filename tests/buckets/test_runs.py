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
import numpy as np
import pytest
import tiny_runs as runs
from safetensors import numpy as safetensors

URL = f"gs://{bucket_server.BUCKET}"
CONFIG = f"--config={runs.ROOT / 'configs' / 'digits.py'}:smoke"
# With checkpoints often enough to be killed between them.
LEAVES = (
  "--config.num_steps=24", "--config.num_epochs=0.0",
  "--config.checkpoint.every_steps=4", "--config.log.every_steps=2",
  "--config.eval_every_steps=8",
)  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def start(cloud_storage, compile_cache, tmp_path):
  """Returns a function that starts a program with the server as its cloud."""

  def start(*words, **variables):
    environment = {
      **os.environ, **compile_cache, **cloud_storage.environment,
      "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    return subprocess.Popen(
      [sys.executable, "-m", *map(str, words)],
      env=environment | variables,
      cwd=runs.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.fixture
def run(start):
  """Returns a function that runs a program; it returns status and output."""

  def run(*words, status=0, **variables):
    process = start(*words, **variables)
    with contextlib.closing(process.stdout), contextlib.closing(process.stderr):
      out, err = process.communicate(timeout=500)
    assert process.returncode == status, (out, err)
    return out, err

  return run


@pytest.fixture
def inject(cloud_storage):
  """Returns a function that sets the proxy's fault until the test ends."""

  def inject(fault):
    cloud_storage.fault = fault

  yield inject
  cloud_storage.fault = lambda method, path: None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compile_cache):
  """Returns the folder of a complete run on a disk."""
  folder = tmp_path_factory.mktemp("disk") / "run"
  subprocess.run(
    [
      sys.executable, "-m", "experiments.train", CONFIG, *LEAVES,
      f"--workdir={folder}",
    ],
    env={**os.environ, **compile_cache, "JAX_PLATFORMS": "cpu"},
    cwd=runs.ROOT,
    check=True,
  )  # fmt: skip
  return folder


def _read(server, name):
  path = name.replace("/", "%2F")
  status, _, content = server.ask(
    "GET", f"/storage/v1/b/{bucket_server.BUCKET}/o/{path}?alt=media"
  )
  return content if status == 200 else b""


def _assert_alike(server, name, folder):
  """Asserts that a run in the bucket is that of a folder on a disk."""
  there = safetensors.load(_read(server, f"{name}/model.safetensors"))
  here = safetensors.load_file(folder / "model.safetensors")
  assert there.keys() == here.keys()
  for key, value in here.items():
    np.testing.assert_array_equal(there[key], value, strict=True)
  timed = lambda line: {
    key: value
    for key, value in json.loads(line).items()
    if not key.startswith("speed/")
  }
  metrics = _read(server, f"{name}/metrics.jsonl").decode().splitlines()
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  assert list(map(timed, metrics)) == list(map(timed, lines))
  results = json.loads(_read(server, f"{name}/results.json"))
  own = json.loads((folder / "results.json").read_text())
  assert results["metrics"] == own["metrics"]
  own_files = {path.name for path in folder.iterdir()} - {".lock"}
  files = {key.split("/")[1] for key in server.names(f"{name}/")}
  assert own_files - {"compilation_cache"} <= files
  assert not server.names(f"{name}/.lock")


def _wait_for_checkpoint(server, process, name, steps):
  end = time.monotonic() + 400
  done = f"{name}/checkpoints/"
  while time.monotonic() < end and process.poll() is None:
    names = server.names(done)
    if any(f"{done}{s}/commit_success.txt" in names for s in steps):
      return
    time.sleep(0.05)
  raise AssertionError(process.communicate())


def test_a_run_is_killed_and_resumed_in_a_bucket(
  cloud_storage, start, run, undisturbed
):
  command = ["experiments.train", CONFIG, *LEAVES, f"--workdir={URL}/a"]
  process = start(*command)
  _wait_for_checkpoint(cloud_storage, process, "a", (4, 8))
  process.kill()
  process.communicate()
  process = start(*command)
  _wait_for_checkpoint(cloud_storage, process, "a", (12, 16))
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=300)
  if process.returncode != 0:  # It may have finished first.
    assert process.returncode == 75, (out, err)
    out, _ = run(*command)
    assert "resumed from step" in " ".join(out.split())
  assert f"results: {URL}/a/results.json" in out
  _assert_alike(cloud_storage, "a", undisturbed)


def test_programs_read_a_run_from_a_bucket(
  cloud_storage, run, undisturbed, tmp_path
):
  _upload(cloud_storage, undisturbed, "read")
  workdir = f"--workdir={URL}/read"
  run("experiments.evaluate", workdir, "--checkpoint=best")
  names = cloud_storage.names("read/evaluation-")
  (name,) = names
  metrics = json.loads(_read(cloud_storage, name))["metrics"]
  results = json.loads((undisturbed / "results.json").read_text())
  assert metrics.keys() == results["metrics"].keys()
  image = tmp_path / "digit.png"
  from perceiver_jax.data.images import codec

  image.write_bytes(codec.encode_png(np.zeros((8, 8, 3), np.uint8)))
  cloud_storage.ask(
    "POST",
    f"/upload/storage/v1/b/{bucket_server.BUCKET}/o?uploadType=media"
    "&name=digit.png",
    image.read_bytes(),
  )
  out, _ = run("experiments.predict", "classify", workdir, f"{URL}/digit.png")
  assert "digit.png" in out
  run(
    "experiments.evaluate", CONFIG, f"--weights={URL}/read/model.safetensors",
    f"--out={URL}/weights.json",
  )  # fmt: skip
  (name,) = cloud_storage.names("weights.json")
  own = json.loads(_read(cloud_storage, name))
  assert own["weights"] == f"{URL}/read/model.safetensors"
  run("scripts.export", workdir, f"--out={URL}/model.jax", "--platforms=cpu")
  assert cloud_storage.names("model.") == ["model.jax", "model.json"]
  out, _ = run(
    "experiments.train", CONFIG, "--config.num_steps=1",
    "--config.num_epochs=0.0", f"--config.init_from={URL}/read",
    f"--workdir={URL}/fine-tuned",
  )  # fmt: skip
  assert f"started from {URL}/read" in " ".join(out.split())


def _upload(server, folder, name):
  """Copies a folder to the bucket as gcloud would, and marks checkpoints."""
  for path in sorted(folder.rglob("*")):
    if path.is_file() and path.name != ".lock":
      key = f"{name}/{path.relative_to(folder)}".replace("/", "%2F")
      server.ask(
        "POST",
        f"/upload/storage/v1/b/{bucket_server.BUCKET}/o?uploadType=media"
        f"&name={key}",
        path.read_bytes(),
      )


def test_a_sweep_runs_in_a_bucket(cloud_storage, run, tmp_path):
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
  out, _ = run(*command, "--parallel=2")
  assert out.count("| done |") == 2
  names = cloud_storage.names("sweep/")
  for name in ("sweep.csv", "sweep.html", "learning_rate=0.001.log"):
    assert f"sweep/{name}" in names
  out, _ = run(*command)
  assert out.count("finished before") == 2
  assert not [name for name in names if name.endswith("/000001")]


def test_a_live_run_keeps_others_out(cloud_storage, start, run, tmp_path):
  command = ("experiments.train", CONFIG, f"--workdir={URL}/locked")
  process = start(*command, "--config.num_epochs=1000.0")
  end = time.monotonic() + 300
  while time.monotonic() < end and not cloud_storage.names("locked/.lock"):
    time.sleep(0.1)
  assert process.poll() is None
  _, err = run(*command, "--config.num_epochs=1000.0", status=2)
  assert f"--workdir={URL}/locked is in use by another run (process " in err
  process.kill()
  process.communicate()


@pytest.mark.parametrize(
  ("workdir", "fault", "parts"),
  [
    ("gs://no-such-bucket/a", None, ["there is no bucket 'no-such-bucket'"]),
    (f"{URL}/x", 403, ["permission denied", "injected 403"]),
    (f"{URL}/x", 401, ["no valid credentials", "gcloud auth"]),
  ],
)
def test_a_bucket_that_can_t_be_used_is_named_at_once(
  cloud_storage, run, inject, workdir, fault, parts
):
  inject(lambda method, path: fault)
  before = len(cloud_storage.requests)
  _, err = run("experiments.train", CONFIG, f"--workdir={workdir}", status=2)
  (line,) = [x for x in err.splitlines() if x.startswith("error: ")]
  assert "Traceback" not in err
  for part in (workdir, *parts):
    assert part in line
  assert len(cloud_storage.requests) - before <= 2


def test_a_bucket_that_may_only_be_read_is_named_before_training(
  cloud_storage, run, inject
):
  inject(lambda method, path: 403 if method in ("POST", "PUT") else None)
  _, err = run("experiments.train", CONFIG, f"--workdir={URL}/y", status=2)
  assert f"--workdir={URL}/y can't be written to: permission denied" in err
  assert not cloud_storage.names("y/")


def test_failing_and_slow_answers_are_asked_for_again(
  cloud_storage, run, inject, undisturbed
):
  rng = np.random.default_rng(0)

  def fault(method, path):
    draw = rng.random()
    if draw < 0.1:
      return int(rng.choice([500, 503, 429]))
    return 1.5 if draw < 0.12 else None

  inject(fault)
  run("experiments.train", CONFIG, *LEAVES, f"--workdir={URL}/faults")
  inject(lambda method, path: None)
  _assert_alike(cloud_storage, "faults", undisturbed)


def test_an_outage_ends_a_run_that_can_be_resumed(
  cloud_storage, start, run, inject, undisturbed
):
  command = ("experiments.train", CONFIG, *LEAVES, f"--workdir={URL}/outage")
  process = start(*command)
  _wait_for_checkpoint(cloud_storage, process, "outage", (4, 8))
  inject(lambda method, path: 403 if method in ("POST", "PUT") else None)
  out, err = process.communicate(timeout=400)
  assert process.returncode == 2, (out, err)
  assert "error: " in err
  assert "the last good one is step" in err or "can't be written to" in err
  inject(lambda method, path: None)
  run(*command)
  _assert_alike(cloud_storage, "outage", undisturbed)


def test_a_damaged_checkpoint_is_quarantined(
  cloud_storage, run, undisturbed, tmp_path
):
  command = ("experiments.train", CONFIG, *LEAVES, f"--workdir={URL}/damaged")
  run(*command, "--config.max_seconds=1e9")
  steps = {
    int(name.split("/")[2])
    for name in cloud_storage.names("damaged/checkpoints/")
  }
  name = f"damaged/checkpoints/{max(steps)}/extras/metadata"
  key = name.replace("/", "%2F")
  cloud_storage.ask(
    "POST",
    f"/upload/storage/v1/b/{bucket_server.BUCKET}/o?uploadType=media"
    f"&name={key}",
    b"{",
  )
  _, err = run(*command, "--config.max_seconds=1e9")
  assert "can't be read: damaged record" in err
  assert cloud_storage.names("damaged/checkpoints_quarantine/")
  _assert_alike(cloud_storage, "damaged", undisturbed)
