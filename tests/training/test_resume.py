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
  },
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compile_once):
  """Returns a function to the folder of a variant's uninterrupted run."""
  made = {}

  def folder_of(variant, num_devices=1):
    if (variant, num_devices) not in made:
      folder = tmp_path_factory.mktemp("undisturbed")
      config = runs.tiny_config(**VARIANTS[variant])
      assert not runs.train(folder, config, num_devices=num_devices).stopped
      made[variant, num_devices] = folder
    return made[variant, num_devices]

  return folder_of


@pytest.fixture
def live(monkeypatch):
  """Returns a function that starts or resumes a run and stops it as told."""

  def live(folder, variant, reasons, leaves=None, **kwargs):
    monkeypatch.setattr(interrupts, "Interrupts", runs.stop_at(reasons))
    config = runs.tiny_config(**VARIANTS[variant], **(leaves or {}))
    try:
      return runs.train(folder, config, **kwargs)
    except runs.Crash:
      return None

  return live


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(2))
def test_any_interruptions_leave_no_trace(
  tmp_path, undisturbed, live, variant, seed
):
  rng = np.random.default_rng(seed)
  reached = 0
  while reached < 11:
    step = int(rng.integers(reached + 1, 12))
    asked = bool(rng.integers(2))
    outcome = live(
      tmp_path, variant, {step: interrupts.PREEMPTED if asked else runs.Crash()}
    )
    if asked:
      assert (outcome.stopped, outcome.step) == (interrupts.PREEMPTED, step)
      assert runs.checkpoint_steps(tmp_path)[-1] == step
    reached = step
  assert live(tmp_path, variant, {}).stopped == ""
  runs.assert_same_end(tmp_path, undisturbed(variant))


@pytest.mark.parametrize("step", [1, 3, 4, 5, 11])
def test_run_can_be_stopped_at_any_step(tmp_path, undisturbed, live, step):
  live(tmp_path, "plain", {step: interrupts.PREEMPTED})
  assert runs.checkpoint_steps(tmp_path)[-1] == step
  live(tmp_path, "plain", {})
  runs.assert_same_end(tmp_path, undisturbed("plain"))


def test_run_resumes_on_other_devices(tmp_path, undisturbed, live):
  for reasons, devices in (
    ({4: interrupts.PREEMPTED}, 1),
    ({7: interrupts.PREEMPTED}, 4),
    ({}, 2),
  ):
    live(tmp_path, "averaged parameters", reasons, num_devices=devices)
  runs.assert_alike(tmp_path, undisturbed("averaged parameters"))


def test_given_weights_survive_a_crash_before_the_first_save(tmp_path, live):
  live(tmp_path / "given", "plain", {})
  start = {"init_from": str(tmp_path / "given")}
  live(tmp_path / "run", "plain", {2: runs.Crash()}, leaves=start)
  assert runs.checkpoint_steps(tmp_path / "run") == []
  live(tmp_path / "run", "plain", {}, leaves=start)
  live(tmp_path / "undisturbed", "plain", {}, leaves=start)
  runs.assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_averaged_parameters_differ_from_the_others(undisturbed):
  arrays = runs.arrays(undisturbed("averaged parameters"))
  name = "params.linear.w"
  assert np.abs(arrays[name] - arrays[f"ema_{name}"]).max() > 1e-6


def truncate(file):
  os.truncate(file, file.stat().st_size // 2)


def flip(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


def damage_data(checkpoint, damage):
  """Damages all files of arrays, since not every file is read."""
  for file in checkpoint.glob("state/**/d/*"):
    damage(file)


@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_checkpoint_is_skipped(
  tmp_path, undisturbed, live, monkeypatch, damage
):
  live(tmp_path, "plain", {8: interrupts.PREEMPTED})
  assert runs.checkpoint_steps(tmp_path) == [6, 8]
  folder = tmp_path / "checkpoints"
  damage_data(folder / "8", damage)
  damaged, older = runs.contents(folder / "8"), runs.contents(folder / "6")
  said = []
  monkeypatch.setattr(
    logging, "warning", lambda text, *a: said.append(text % a)
  )

  live(tmp_path, "plain", {7: runs.Crash()})

  (line,) = said
  assert "step 8 can't be read" in line
  assert "step 6 is used instead" in line
  assert runs.contents(tmp_path / "checkpoints_quarantine/8-1") == damaged
  assert runs.contents(folder / "6") == older
  live(tmp_path, "plain", {})
  runs.assert_same_end(tmp_path, undisturbed("plain"))


def test_incomplete_line_of_metrics_is_rewritten(tmp_path, undisturbed, live):
  live(tmp_path, "plain", {8: runs.Crash()})
  file = tmp_path / "metrics.jsonl"
  file.write_text(file.read_text() + '{"step": 9, "train/lo')
  live(tmp_path, "plain", {})
  runs.assert_same_end(tmp_path, undisturbed("plain"))


# --- real processes -----------------------------------------------------------


@pytest.fixture(scope="module")
def whole(program, tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  status, _, err = program(folder).end()
  assert status == 0, err
  return folder


def goes_on_to(folder, whole, program, **environment):
  status, out, err = program(folder, environment=environment).end()
  assert status == 0, err
  assert "resumed from" in out
  runs.assert_same_end(folder, whole)


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
  # Complete: its checksums hold, and its position in the data is its step.
  assert int(runs.arrays(tmp_path)["step"]) == step


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_anywhere(tmp_path, program, whole, seed):
  rng = np.random.default_rng(seed)
  for step in sorted(rng.choice(range(5, 40, 5), size=2, replace=False)):
    run = program(tmp_path).wait_for(int(step))
    time.sleep(rng.uniform(0, 0.05))
    run.end(signal.SIGKILL)
  # Compiled anew, as on another day.
  goes_on_to(tmp_path, whole, program, JAX_ENABLE_COMPILATION_CACHE="0")


@pytest.mark.slow
def test_signals_at_any_step(tmp_path, program, whole):
  for step, number in ((5, signal.SIGTERM), (20, signal.SIGINT)):
    status, _, err = program(tmp_path).wait_for(step).end(number)
    assert status in (75, 130, 0), err
  goes_on_to(tmp_path, whole, program)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path, program, whole):
  unfinished = lambda: set(tmp_path.glob("checkpoints/*tmp*"))
  for _ in range(2):
    before = unfinished()
    program(tmp_path).wait_until(lambda b=before: unfinished() - b).end(
      signal.SIGKILL
    )
  goes_on_to(tmp_path, whole, program)


@pytest.mark.slow
def test_killed_and_damaged(tmp_path, program, whole):
  program(tmp_path).wait_for(25).end(signal.SIGKILL)
  older, newest = runs.checkpoint_steps(tmp_path)[-2:]
  folder = tmp_path / "checkpoints" / str(newest)
  damage_data(folder, truncate)
  damaged = runs.contents(folder)
  status, _, err = program(tmp_path).end()
  assert status == 0, err
  # The kill may have come before the newest was written to its end.
  assert re.search(rf"step {newest} (can't be read|was never finished)", err)
  assert f"step {older} is used instead" in err
  aside = tmp_path / "checkpoints_quarantine" / f"{newest}-1"
  assert runs.contents(aside) == damaged
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
