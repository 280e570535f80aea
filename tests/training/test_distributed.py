"""Compares runs of two processes with a run of one."""

import json
import shutil
import signal
import socket
import time

import pytest
import tiny_runs as runs

from perceiver_jax.training import workdir

pytestmark = pytest.mark.slow

_VICTIMS = [0, pytest.param(1, marks=pytest.mark.nightly)]

# A run long enough for a signal to arrive in the middle of it.
LEAVES = {
  "num_steps": 12,
  "eval_every_steps": 5,
  "log.every_steps": 1,
  "checkpoint.every_steps": 4,
}


@pytest.fixture(scope="module")
def single_process(tmp_path_factory, program):
  """Returns the folder of a run of one process with two devices."""
  folder = tmp_path_factory.mktemp("one")
  status, _, err = program(
    folder, LEAVES, environment={"XLA_FLAGS": devices(2)}
  ).end()
  assert status == 0, err
  return folder


@pytest.fixture
def start_two(program):
  """Returns a function that starts two processes with one device each.

  Processes still running after the test are killed.
  """
  started = []

  def start(folder, leaves=None, **kwargs):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    pair = [
      program(
        folder,
        LEAVES | (leaves or {}),
        environment={
          "XLA_FLAGS": devices(1),
          "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
          "JAX_NUM_PROCESSES": "2",
          "JAX_PROCESS_ID": str(number),
        },
        **kwargs,
      )
      for number in (0, 1)
    ]
    started.extend(pair)
    return pair

  yield start
  for run in started:
    run.kill()


def devices(count):
  return f"--xla_force_host_platform_device_count={count}"


def wait_for_success(pair):
  """Waits for both processes and returns what they printed."""
  results = [run.end() for run in pair]
  for status, _, err in results:
    assert status == 0, err
  return [out for _, out, _ in results]


def test_two_processes_train_like_one(tmp_path, single_process, start_two):
  first, second = wait_for_success(start_two(tmp_path))
  runs.assert_alike(tmp_path, single_process)
  assert "2 x cpu (cpu), 2 process(es)" in first
  # Only the first process prints and writes.
  assert "step" not in second
  assert len(list((tmp_path / "tensorboard").iterdir())) == 1
  results = [
    json.loads((folder / "results.json").read_text())["metrics"]
    for folder in (tmp_path, single_process)
  ]
  # Accuracies are counts out of 360 examples, so they must be equal.
  for name in ("eval/accuracy", "eval/top_5_accuracy"):
    assert results[0][name] == results[1][name]
    assert results[0][name] * 360 == pytest.approx(
      round(results[0][name] * 360)
    )


def test_two_processes_evaluate_like_one(tmp_path, single_process, start_two):
  folder = shutil.copytree(single_process, tmp_path / "copy")
  first, second = wait_for_success(start_two(folder, name="evaluate"))
  assert "eval/accuracy" in first
  assert "eval/accuracy" not in second
  evaluated = json.loads((folder / "evaluation-12.json").read_text())["metrics"]
  results = json.loads((single_process / "results.json").read_text())["metrics"]
  assert evaluated == pytest.approx(results, rel=1e-6)


def test_two_processes_evaluate_the_weights_of_a_run(
  tmp_path, single_process, start_two
):
  out = tmp_path / "out.json"
  flags = [f"--out={out}"]
  wait_for_success(
    start_two(
      single_process, name="evaluate", folder_flag="weights", flags=flags
    )
  )
  evaluation = json.loads(out.read_text())
  results = json.loads((single_process / "results.json").read_text())["metrics"]
  assert evaluation["metrics"] == pytest.approx(results, rel=1e-6)
  assert evaluation["num_examples"] == {"eval": 360}


@pytest.mark.parametrize("victim", _VICTIMS)
def test_a_signal_to_either_process_stops_both_at_the_same_step(
  tmp_path, start_two, victim
):
  leaves = {"num_steps": 100_000, "num_epochs": 0.0}
  pair = start_two(tmp_path / "long", leaves)
  pair[0].wait_for(6)
  pair[victim].send(signal.SIGTERM)
  results = [run.end() for run in pair]
  assert [status for status, _, _ in results] == [75, 75], results
  step = runs.checkpoint_steps(tmp_path / "long")[-1]
  assert f"preempted at step {step:,}, which is saved" in results[0][1]


def test_a_run_of_two_processes_can_be_resumed_by_two(
  tmp_path, single_process, start_two
):
  limit = {"max_seconds": 1e-6}
  for _ in range(2):
    pair = start_two(tmp_path, limit)
    assert [run.end()[0] for run in pair] == [75, 75]
  assert runs.checkpoint_steps(tmp_path) == [1, 2]
  first, _ = wait_for_success(start_two(tmp_path))
  assert "resumed from step 2" in " ".join(first.split())
  runs.assert_alike(tmp_path, single_process)


@pytest.mark.nightly
def test_a_run_of_one_process_can_be_resumed_by_two(
  tmp_path, single_process, start_two, program
):
  status, _, err = program(tmp_path, LEAVES | {"max_seconds": 1e-6}).end()
  assert status == 75, err
  wait_for_success(start_two(tmp_path))
  runs.assert_alike(tmp_path, single_process)


def test_both_processes_report_an_indivisible_batch_size(tmp_path, start_two):
  pair = start_two(tmp_path / "run", {"batch_size": 3})
  for status, _, err in (run.end() for run in pair):
    assert status == 2, err
    assert "error: " in err
    assert "multiple of 2" in err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("victim", _VICTIMS)
def test_if_a_process_is_killed_the_other_ends_and_both_can_resume(
  tmp_path, start_two, single_process, victim
):
  folder = tmp_path / "run"
  pair = start_two(folder)
  pair[0].wait_for(4)
  pair[victim].kill()
  killed = time.monotonic()
  status, _, err = pair[1 - victim].end()
  assert time.monotonic() - killed < 30
  assert status == 75, err
  assert err.splitlines()[-1].startswith(f"error: process {victim} of 2 ")
  wait_for_success(start_two(folder))
  runs.assert_alike(folder, single_process)


def test_an_error_of_one_process_ends_the_other(tmp_path, start_two):
  folder = tmp_path / "run"
  folder.mkdir()
  with workdir.locked(folder):
    pair = start_two(folder)
    results = [run.end() for run in pair]
  assert [status for status, _, _ in results] == [2, 75], results
  assert "is in use by another run" in results[0][2]
  assert "process 0 of 2 ended with an error" in results[1][2]
