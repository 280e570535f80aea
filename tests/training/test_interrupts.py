"""Tests of stopping a run at signals and at the time limit."""

import signal

import numpy as np
import pytest
from jax.experimental import multihost_utils

from perceiver_jax.training import interrupts
from perceiver_jax.training.interrupts import Interrupts

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _handlers_are_restored():
  before = [signal.getsignal(number) for number in BOTH]
  yield
  assert [signal.getsignal(number) for number in BOTH] == before


@pytest.mark.parametrize(
  ("number", "reason", "status"),
  [
    (signal.SIGTERM, interrupts.PREEMPTED, 75),
    (signal.SIGINT, interrupts.INTERRUPTED, 130),
  ],
)
def test_a_signal_is_recorded_instead_of_raised(number, reason, status):
  stop = Interrupts()
  with stop.handled():
    assert stop.reason(1) == ""
    signal.raise_signal(number)
    assert stop.reason(1) == reason
    assert stop.reason(2) == reason
  assert interrupts.EXIT_CODES[reason] == status


def test_a_second_ctrl_c_stops_at_once(capfd):
  stop = Interrupts()
  with stop.handled():
    signal.raise_signal(signal.SIGINT)
    printed = capfd.readouterr().err
    assert printed.startswith("\ninterrupted: stopping after this step")
    assert printed.endswith("; Ctrl-C again stops at once without saving\n")
    assert stop.reason(1) == interrupts.INTERRUPTED
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_changes_nothing(capfd):
  stop = Interrupts()
  with stop.handled():
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert stop.reason(1) == interrupts.PREEMPTED
  assert capfd.readouterr().err.count("preempted: stopping after this") == 1


@pytest.mark.parametrize("number", BOTH)
def test_old_handlers_are_restored_after_an_error(number):
  received = []
  old = signal.signal(number, lambda *_: received.append(number))
  try:
    stop = Interrupts()
    with pytest.raises(KeyError), stop.handled():
      raise KeyError
    signal.raise_signal(number)
    assert received == [number]
    assert stop.reason(1) == ""
  finally:
    signal.signal(number, old)


def test_the_time_limit_is_measured_from_construction(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
  limited, unlimited = Interrupts(max_seconds=5.0), Interrupts()
  now[0] = 104.9
  assert limited.reason(1) == ""
  now[0] = 105.0
  assert limited.reason(2) == interrupts.OUT_OF_TIME
  assert unlimited.reason(2) == ""
  assert interrupts.EXIT_CODES[interrupts.OUT_OF_TIME] == 75


def test_a_signal_takes_precedence_over_the_time_limit():
  stop = Interrupts(max_seconds=1e-9)
  with stop.handled():
    signal.raise_signal(signal.SIGINT)
    assert stop.reason(1) == interrupts.INTERRUPTED


@pytest.fixture
def two_processes(monkeypatch):
  """Fakes a second process, whose answers are set in the returned dict."""
  answers = {"preempted": False, "first_timed_out": False}
  monkeypatch.setattr(interrupts.jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    multihost_utils,
    "reached_preemption_sync_point",
    lambda step: answers["preempted"] and step == 7,
  )
  monkeypatch.setattr(
    multihost_utils,
    "broadcast_one_to_all",
    lambda _: np.asarray(answers["first_timed_out"]),
  )
  return answers


def test_with_several_processes_jax_decides_the_step_to_stop_at(two_processes):
  stop = Interrupts()
  before = [signal.getsignal(number) for number in BOTH]
  with stop.handled():
    # JAX's own handler must stay in place.
    assert [signal.getsignal(number) for number in BOTH] == before
    two_processes["preempted"] = True
    assert [stop.reason(step) for step in (6, 7)] == ["", interrupts.PREEMPTED]


def test_with_several_processes_the_first_checks_the_time_limit(two_processes):
  stop = Interrupts(max_seconds=1e-9)
  assert stop.reason(1) == ""
  two_processes["first_timed_out"] = True
  assert stop.reason(2) == interrupts.OUT_OF_TIME
  assert Interrupts().reason(2) == ""
