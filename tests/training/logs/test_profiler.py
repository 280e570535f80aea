"""Tests of profiles at a step and on a signal."""

import signal

import jax
import pytest
from jax import numpy as jnp

from configs import base
from perceiver_jax.training.logs import profiler as profiler_lib
from perceiver_jax.training.logs.profiler import Profiler


@pytest.fixture
def profile(tmp_path):
  """Returns a function that trains 9 steps; it returns the traced ones."""

  def profile(leaves=None, at_steps=None):
    log = base.run().log
    log.update(leaves or {})
    profiler = Profiler(tmp_path, log)
    with profiler.handled():
      for step in range(1, 10):
        with profiler.step(step, lambda: None):
          jnp.ones(3).block_until_ready()
        if act := (at_steps or {}).get(step):
          act(profiler)
    return {
      path.name: traced_steps(path)
      for path in (tmp_path / "profile" / "plugins" / "profile").glob("*")
    }

  return profile


def traced_steps(folder):
  (path,) = folder.glob("0-*.xplane.pb")
  data = jax.profiler.ProfileData.from_file(str(path))
  events = [e for p in data.planes for line in p.lines for e in line.events]
  steps = [dict(e.stats)["step_num"] for e in events if e.name == "train"]
  return sorted(steps)


def test_nothing_is_profiled_by_default(profile):
  assert profile() == {}


def test_steps_of_the_config_are_profiled(profile):
  leaves = {"profile_from_step": 4, "profile_steps": 3}
  assert profile(leaves) == {"step_4": [4, 5, 6]}


def test_a_profile_ends_with_the_run(profile):
  assert profile({"profile_from_step": 8}) == {"step_8": [8, 9]}


def test_a_signal_starts_a_profile(profile):
  before = signal.getsignal(signal.SIGUSR1)
  send = lambda _: signal.raise_signal(signal.SIGUSR1)
  assert profile({"profile_steps": 2}, {2: send, 3: send, 6: send}) == {
    "step_3": [3, 4],
    "step_7": [7, 8],
  }
  assert signal.getsignal(signal.SIGUSR1) == before


def test_processes_start_together(profile, monkeypatch):
  monkeypatch.setattr(profiler_lib.jax, "process_count", lambda: 2)
  send = lambda _: signal.raise_signal(signal.SIGUSR1)
  agree = lambda profiler: profiler.agree(profiler.is_requested)
  assert profile({"profile_steps": 1}, {2: send, 5: agree}) == {"step_6": [6]}


def test_a_run_goes_on_if_something_else_profiles(profile, tmp_path):
  jax.profiler.start_trace(str(tmp_path / "other"))
  try:
    assert profile({"profile_from_step": 2}) == {}
  finally:
    jax.profiler.stop_trace()
