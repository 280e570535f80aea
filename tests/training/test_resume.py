"""Tests that resumed runs are bitwise equal to uninterrupted ones."""

import os
import re
import signal
import time

import numpy as np
import pytest
import tiny_runs as runs
from absl import logging

from perceiver_jax.training import interrupts

pytestmark = pytest.mark.usefixtures("compile_once", "no_report")

VARIANTS = {
  "plain": {},
  "averaged parameters": {"ema_decay": 0.5},
  "microbatches": {"num_microbatches": 2, "optimizer__name": "adamw"},
  "both, other intervals": {
    "ema_decay": 0.5,
    "num_microbatches": 2,
    "checkpoint__every_steps": 4,
    "log__every_steps": 100,
    "optimizer__name": "muon",
  },
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compile_once):
  """Returns a function that gives the folder of a variant's complete run."""
  folders = {}

  def folder_of(variant, num_devices=1):
    if (variant, num_devices) not in folders:
      folder = tmp_path_factory.mktemp("undisturbed")
      config = runs.tiny_config(**VARIANTS[variant])
      assert not runs.train(folder, config, num_devices=num_devices).stopped
      folders[variant, num_devices] = folder
    return folders[variant, num_devices]

  return folder_of


@pytest.fixture
def train_until(monkeypatch):
  """Returns a function that trains until a given step is interrupted.

  `reasons` maps steps to the reason to stop there, or to a `runs.Crash`. The
  function returns the outcome, or None after a crash.
  """

  def train_until(folder, variant, reasons, leaves=None, **kwargs):
    monkeypatch.setattr(interrupts, "Interrupts", runs.stop_at(reasons))
    config = runs.tiny_config(**VARIANTS[variant], **(leaves or {}))
    try:
      return runs.train(folder, config, **kwargs)
    except runs.Crash:
      return None

  return train_until


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
  "seed", [0, pytest.param(1, marks=pytest.mark.nightly)]
)
def test_interruptions_at_random_steps_do_not_change_the_run(
  tmp_path, undisturbed, train_until, variant, seed
):
  rng = np.random.default_rng(seed)
  reached = 0
  while reached < 11:
    step = int(rng.integers(reached + 1, 12))
    preempted = bool(rng.integers(2))
    outcome = train_until(
      tmp_path,
      variant,
      {step: interrupts.PREEMPTED if preempted else runs.Crash()},
    )
    if preempted:
      assert (outcome.stopped, outcome.step) == (interrupts.PREEMPTED, step)
      assert runs.checkpoint_steps(tmp_path)[-1] == step
    reached = step
  assert train_until(tmp_path, variant, {}).stopped == ""
  runs.assert_same_end(tmp_path, undisturbed(variant))


def test_run_can_be_stopped_at_any_step(tmp_path, undisturbed, train_until):
  # The first and the last step, and those that save, log and evaluate.
  for step in (1, 3, 4, 5, 11):
    train_until(tmp_path, "plain", {step: interrupts.PREEMPTED})
    assert runs.checkpoint_steps(tmp_path)[-1] == step
  train_until(tmp_path, "plain", {})
  runs.assert_same_end(tmp_path, undisturbed("plain"))


def test_run_resumes_on_other_devices(tmp_path, undisturbed, train_until):
  for reasons, devices in (
    ({4: interrupts.PREEMPTED}, 1),
    ({7: interrupts.PREEMPTED}, 4),
    ({}, 2),
  ):
    train_until(tmp_path, "averaged parameters", reasons, num_devices=devices)
  runs.assert_alike(tmp_path, undisturbed("averaged parameters"))


def test_initial_weights_are_loaded_again_after_a_crash_before_the_first_save(
  tmp_path, train_until
):
  train_until(tmp_path / "given", "plain", {})
  start = {"init_from": str(tmp_path / "given")}
  train_until(tmp_path / "run", "plain", {2: runs.Crash()}, leaves=start)
  assert runs.checkpoint_steps(tmp_path / "run") == []
  train_until(tmp_path / "run", "plain", {}, leaves=start)
  train_until(tmp_path / "undisturbed", "plain", {}, leaves=start)
  runs.assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_averaged_parameters_differ_from_the_trained_ones(undisturbed):
  arrays = runs.arrays(undisturbed("averaged parameters"))
  name = "params.linear.w"
  assert np.abs(arrays[name] - arrays[f"ema_{name}"]).max() > 1e-6


def truncate(file):
  os.truncate(file, file.stat().st_size // 2)


def flip_bit(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


def damage_data(checkpoint, damage):
  """Damages all files of arrays, since not every file is read."""
  for file in checkpoint.glob("state/**/d/*"):
    damage(file)


def test_damaged_checkpoint_is_skipped(
  tmp_path, undisturbed, train_until, monkeypatch
):
  train_until(tmp_path, "plain", {8: interrupts.PREEMPTED})
  assert runs.checkpoint_steps(tmp_path) == [6, 8]
  folder = tmp_path / "checkpoints"
  damage_data(folder / "8", flip_bit)
  damaged, older = runs.contents(folder / "8"), runs.contents(folder / "6")
  warnings = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *a: warnings.append(text % a)
  )

  train_until(tmp_path, "plain", {7: runs.Crash()})

  (line,) = warnings
  assert "step 8 can't be read" in line
  assert "step 6 is used instead" in line
  assert runs.contents(tmp_path / "checkpoints_quarantine/8-1") == damaged
  assert runs.contents(folder / "6") == older
  train_until(tmp_path, "plain", {})
  runs.assert_same_end(tmp_path, undisturbed("plain"))


def test_incomplete_line_of_metrics_is_rewritten(
  tmp_path, undisturbed, train_until
):
  train_until(tmp_path, "plain", {8: runs.Crash()})
  file = tmp_path / "metrics.jsonl"
  file.write_text(file.read_text() + '{"step": 9, "train/lo')
  train_until(tmp_path, "plain", {})
  runs.assert_same_end(tmp_path, undisturbed("plain"))


# Interrupting real processes.


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  status, _, err = program(folder).end()
  assert status == 0, err
  return folder


def assert_resumed_run_ends_as(folder, uninterrupted, program, **environment):
  status, out, err = program(folder, environment=environment).end()
  assert status == 0, err
  assert "resumed from" in out
  runs.assert_same_end(folder, uninterrupted)


@pytest.mark.parametrize(
  ("number", "status", "word"),
  [
    (signal.SIGTERM, 75, "preempted"),
    pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
  ],
)
def test_signal_saves_and_sets_the_exit_status(
  tmp_path, program, number, status, word
):
  run = program(tmp_path, {"num_steps": 100_000}).wait_for(5)
  exit_status, out, err = run.end(number)
  assert exit_status == status, err
  assert "Traceback" not in err
  step = runs.checkpoint_steps(tmp_path)[-1]
  assert f"{word} at step {step:,}, which is saved: run the same" in out
  # The checkpoint is complete: its checksums hold, and its step is right.
  assert int(runs.arrays(tmp_path)["step"]) == step


@pytest.mark.slow
@pytest.mark.parametrize(
  "seed", [0, pytest.param(1, marks=pytest.mark.nightly)]
)
def test_a_run_killed_at_any_step_can_be_resumed(
  tmp_path, program, whole, seed
):
  rng = np.random.default_rng(seed)
  for step in sorted(rng.choice(range(5, 40, 5), size=2, replace=False)):
    run = program(tmp_path).wait_for(int(step))
    time.sleep(rng.uniform(0, 0.05))
    run.end(signal.SIGKILL)
  # Without the cache, as when the run is resumed on another machine.
  assert_resumed_run_ends_as(
    tmp_path, whole, program, JAX_ENABLE_COMPILATION_CACHE="0"
  )


@pytest.mark.slow
def test_signals_at_any_step(tmp_path, program, whole):
  for step, number in ((5, signal.SIGTERM), (20, signal.SIGINT)):
    status, _, err = program(tmp_path).wait_for(step).end(number)
    assert status in (75, 130, 0), err
  assert_resumed_run_ends_as(tmp_path, whole, program)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_can_be_resumed(tmp_path, program, whole):
  unfinished = lambda: set(tmp_path.glob("checkpoints/*tmp*"))
  for _ in range(2):
    before = unfinished()
    program(tmp_path).wait_until(lambda b=before: unfinished() - b).end(
      signal.SIGKILL
    )
  assert_resumed_run_ends_as(tmp_path, whole, program)


@pytest.mark.slow
def test_a_killed_run_with_a_damaged_checkpoint_can_be_resumed(
  tmp_path, program, whole
):
  program(tmp_path).wait_for(25).end(signal.SIGKILL)
  older, newest = runs.checkpoint_steps(tmp_path)[-2:]
  folder = tmp_path / "checkpoints" / str(newest)
  damage_data(folder, truncate)
  damaged = runs.contents(folder)
  status, _, err = program(tmp_path).end()
  assert status == 0, err
  # The run may have been killed before the newest checkpoint was complete.
  assert re.search(rf"step {newest} (can't be read|was never finished)", err)
  assert f"step {older} is used instead" in err
  quarantined = tmp_path / "checkpoints_quarantine" / f"{newest}-1"
  assert runs.contents(quarantined) == damaged
  runs.assert_same_end(tmp_path, whole)


@pytest.mark.slow
def test_process_resumes_on_other_devices(tmp_path, program, whole):
  program(tmp_path).wait_for(10).end(signal.SIGTERM)
  eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
  status, out, err = program(
    tmp_path, environment=eight, flags=["--num_devices=4"]
  ).end()
  assert status == 0, err
  assert "4 x cpu" in out
  runs.assert_alike(tmp_path, whole)
