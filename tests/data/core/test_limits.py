"""Tests of limits on time and memory."""

import contextlib
import resource
import signal
import sys
import time
import zlib

import pytest

from perceiver_jax.data.core.limits import limits
from perceiver_jax.errors import UserError


def test_a_block_within_its_limits_is_left_alone():
  before = resource.getrlimit(resource.RLIMIT_AS)
  handler = signal.getsignal(signal.SIGALRM)
  with limits(5, 1000):
    value = sum(range(1000))
  assert value == 499_500
  assert resource.getrlimit(resource.RLIMIT_AS) == before
  assert signal.getsignal(signal.SIGALRM) == handler
  assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_block_that_takes_too_long_is_stopped_even_if_it_catches_errors():
  start = time.monotonic()

  def wait():
    while time.monotonic() < start + 20:
      with contextlib.suppress(Exception):
        time.sleep(0.01)

  with pytest.raises(UserError, match=r"more than 0\.2 s"), limits(0.2, 1000):
    wait()
  assert time.monotonic() < start + 10


class _SlowDestructor:
  def __del__(self):
    time.sleep(20)


def test_an_alarm_in_a_destructor_is_not_reported_and_the_next_one_stops(
  monkeypatch,
):
  reported = []
  monkeypatch.setattr(sys, "unraisablehook", reported.append)
  start = time.monotonic()

  def wait():
    _SlowDestructor()
    time.sleep(20)

  with pytest.raises(UserError, match=r"more than 0\.2 s"), limits(0.2, 1000):
    wait()
  assert time.monotonic() < start + 10
  assert not reported
  assert sys.unraisablehook == reported.append


def test_another_error_in_a_destructor_is_reported(monkeypatch):
  class Broken:
    def __del__(self):
      raise ValueError

  reported = []
  monkeypatch.setattr(sys, "unraisablehook", reported.append)
  with limits(5, 1000):
    Broken()
  assert [each.exc_type for each in reported] == [ValueError]


def test_a_decompression_bomb_is_an_error():
  bomb = zlib.compress(bytes(3 * 10**8))
  assert len(bomb) < 10**6
  before = resource.getrlimit(resource.RLIMIT_AS)
  with pytest.raises(UserError, match="more than 100 MB"), limits(20, 100):
    zlib.decompress(bomb)
  assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_alarms_while_a_block_ends_do_not_leave_limits_behind():
  handler = signal.getsignal(signal.SIGALRM)
  memory = resource.getrlimit(resource.RLIMIT_AS)
  for number in range(200):
    start = time.monotonic()
    with contextlib.suppress(UserError), limits(1e-4 + number * 1e-6, 1000):
      while time.monotonic() < start + 1e-4:
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == handler
    assert resource.getrlimit(resource.RLIMIT_AS) == memory
