"""Compares runs of several processes with a run of one."""

import functools
import json
import shutil
import signal
import time

import pytest
import tiny_runs as runs

from perceiver_jax.training import workdir
from perceiver_jax.training.logs import process_log

pytestmark = pytest.mark.slow

_VICTIMS = [0, pytest.param(1, marks=pytest.mark.nightly)]
# Numbers of processes.
_COUNTS = [4, 8]

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
    folder, LEAVES, environment={"XLA_FLAGS": runs.cpus(2)}
  ).end()
  assert status == 0, err
  return folder


@pytest.fixture
def start(start_processes):
  """Returns a function that starts processes with one device each."""

  def start(count, folder, leaves=None, **kwargs):
    return start_processes(count, folder, LEAVES | (leaves or {}), **kwargs)

  return start


@pytest.fixture
def start_two(start):
  """Returns a function that starts two processes with one device each."""
  return functools.partial(start, 2)


def wait_for_success(processes):
  """Waits for all processes and returns what they printed."""
  results = [run.end() for run in processes]
  for status, _, err in results:
    assert status == 0, err
  return [out for _, out, _ in results]


def test_two_processes_train_like_one(tmp_path, single_process, start_two):
  first, second = wait_for_success(start_two(tmp_path))
  # Two numbers have the same sum in any order.
  runs.assert_same_end(tmp_path, single_process)
  assert "2 x cpu (cpu), 2 process(es)" in first
  # Only the first process prints and writes metrics.
  assert "step" not in second
  assert len(list((tmp_path / "tensorboard").iterdir())) == 1
  assert_same_accuracy(tmp_path, single_process)


@pytest.mark.nightly
@pytest.mark.parametrize("count", _COUNTS)
def test_several_processes_train_like_one(
  tmp_path, single_process, start, count
):
  first, *_ = wait_for_success(start(count, tmp_path))
  assert f"{count} x cpu (cpu), {count} process(es)" in first
  runs.assert_alike(tmp_path, single_process)
  assert_same_losses(tmp_path, single_process)
  assert_same_accuracy(tmp_path, single_process)


def assert_same_losses(folder, reference):
  """Asserts that the losses of each step are the same but for rounding."""
  for mine, theirs in zip(
    runs.records(folder), runs.records(reference), strict=True
  ):
    losses = {"train/loss", "eval/loss"} & theirs.keys()
    assert losses == {"train/loss", "eval/loss"} & mine.keys()
    for name in losses:
      assert mine[name] == pytest.approx(theirs[name], rel=1e-6)


def assert_same_accuracy(folder, reference):
  results = [
    json.loads((path / "results.json").read_text())["metrics"]
    for path in (folder, reference)
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


def test_two_processes_with_a_sharded_optimizer_train_like_one(
  tmp_path, single_process, start_two
):
  sharded = {"shard_optimizer_state": True}
  pair = start_two(tmp_path, sharded | {"max_seconds": 1e-6})
  assert [run.end()[0] for run in pair] == [75, 75]
  first, _ = wait_for_success(start_two(tmp_path, sharded))
  assert "resumed from step 1" in " ".join(first.split())
  runs.assert_alike(tmp_path, single_process)
  assert_same_accuracy(tmp_path, single_process)
  wait_for_success(start_two(tmp_path, name="evaluate"))
  evaluated = json.loads((tmp_path / "evaluation-12.json").read_text())
  results = json.loads((tmp_path / "results.json").read_text())
  assert evaluated["metrics"] == pytest.approx(results["metrics"], rel=1e-6)


@pytest.mark.nightly
def test_a_run_of_one_process_can_be_resumed_by_two(
  tmp_path, single_process, start_two, program
):
  status, _, err = program(tmp_path, LEAVES | {"max_seconds": 1e-6}).end()
  assert status == 75, err
  wait_for_success(start_two(tmp_path))
  runs.assert_alike(tmp_path, single_process)


@pytest.mark.nightly
def test_the_number_of_processes_may_change_between_restarts(
  tmp_path, single_process, start, program
):
  limit = {"max_seconds": 1e-6}  # Each start takes one step.
  status, _, err = program(tmp_path, LEAVES | limit).end()
  assert status == 75, err
  assert [run.end()[0] for run in start(2, tmp_path, limit)] == [75, 75]
  first, *_ = wait_for_success(start(4, tmp_path))
  assert "resumed from step 2" in " ".join(first.split())
  runs.assert_alike(tmp_path, single_process)
  assert_same_losses(tmp_path, single_process)


def test_every_process_has_a_log_and_can_ask_for_a_profile(tmp_path, start_two):
  leaves = {"num_steps": 100_000, "num_epochs": 0.0, "log.profile_steps": 2}
  pair = start_two(tmp_path, leaves)
  pair[0].wait_for(6)
  pair[1].send(signal.SIGUSR1)
  folder = tmp_path / "profile" / "plugins" / "profile"
  profiles = lambda: sorted(p.name[0] for p in folder.glob("*/*.xplane.pb"))
  pair[0].wait_until(lambda: profiles() == ["0", "1"])
  pair[0].send(signal.SIGTERM)
  first, _ = (run.end()[1] for run in pair)
  assert len(list(folder.iterdir())) == 1
  heartbeats = process_log.read_heartbeats(tmp_path)
  assert [h["process"] for h in heartbeats] == [0, 1]
  assert [h["doing"] for h in heartbeats] == ["ended", "ended"]
  assert heartbeats[0]["step"] == heartbeats[1]["step"]
  for process in (0, 1):
    text = "\n".join(process_log.read_log(tmp_path, process))
    for part in ("/100,000 ", "% for data, the median ", "preempted at"):
      assert part in text
  record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
  assert record["speed/slowest_process"] in (0, 1)
  assert f"slowest process {record['speed/slowest_process']:.0f} on " in first


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
  assert_others_end(pair, victim, folder)
  wait_for_success(start_two(folder))
  runs.assert_alike(folder, single_process)


@pytest.mark.nightly
@pytest.mark.parametrize("count", _COUNTS)
def test_if_one_of_several_processes_is_killed_the_others_end(
  tmp_path, start, count
):
  leaves = {"num_steps": 100_000, "num_epochs": 0.0}
  processes = start(count, tmp_path, leaves)
  processes[0].wait_for(4)
  assert_others_end(processes, count // 2, tmp_path)


def assert_others_end(processes, victim, folder):
  """Kills one process, and asserts that all others name it."""
  processes[victim].kill()
  killed = time.monotonic()
  others = {n: run for n, run in enumerate(processes) if n != victim}
  ended = {n: run.end() for n, run in others.items()}
  assert time.monotonic() - killed < 60  # 21 to 28 s of two, four and eight.
  message = f"error: process {victim} of {len(processes)} "
  for number, (status, _, err) in ended.items():
    assert status == 75, err
    assert err.splitlines()[-1].startswith(message)
    if victim:  # JAX may end at once without the first process.
      assert message in process_log.read_log(folder, number)[-1]


def test_an_error_of_one_process_ends_the_other(tmp_path, start_two):
  folder = tmp_path / "run"
  folder.mkdir()
  with workdir.locked(folder):
    pair = start_two(folder)
    results = [run.end() for run in pair]
  assert [status for status, _, _ in results] == [2, 75], results
  assert "is in use by another run" in results[0][2]
  assert "process 0 of 2 ended with an error" in results[1][2]
