"""Tests of measuring the time of sections, and of the time left."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_jax.training.logs.wall_time import WallTimer, format_seconds


class Clock:
  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now

  def wait(self, seconds):
    self.now += seconds


@pytest.fixture
def clock():
  return Clock()


def test_a_nested_section_pauses_the_outer_one(clock):
  timer = WallTimer(clock=clock)
  with timer.section("train"):
    clock.wait(3)
    with timer.section("eval"):
      clock.wait(10)
      with timer.section("save"):
        clock.wait(100)
      clock.wait(20)
    clock.wait(4)
  assert timer.totals() == {"train": 7, "eval": 30, "save": 100}


# Each visit is a depth of nested sections and the seconds spent in each.
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 50)), max_size=8))
def test_totals_add_up_to_the_wall_time(visits):
  clock = Clock()
  timer = WallTimer(clock=clock)
  start = clock()

  def nest(depth, seconds):
    if depth:
      with timer.section("abc"[depth % 3]):
        clock.wait(seconds)
        nest(depth - 1, seconds)
        clock.wait(1)

  for depth, seconds in visits:
    nest(depth, seconds)
  assert sum(timer.totals().values()) == clock() - start


def test_time_outside_every_section_is_not_counted(clock):
  timer = WallTimer(clock=clock)
  clock.wait(5)
  with timer.section("train"):
    clock.wait(1)
  clock.wait(5)
  with timer.section("train"):
    clock.wait(2)
  assert timer.totals() == {"train": 3}


def test_totals_include_the_open_section_until_now(clock):
  timer = WallTimer(clock=clock)
  with timer.section("train"):
    clock.wait(2)
    assert timer.totals() == {"train": 2}
    assert timer.totals() == {"train": 2}
    clock.wait(3)
  assert timer.totals() == {"train": 5}


def test_a_section_that_raises_is_closed(clock):
  timer = WallTimer(clock=clock)

  def fail():
    with timer.section("eval"):
      clock.wait(2)
      raise KeyError

  with pytest.raises(KeyError):
    fail()
  clock.wait(7)
  assert timer.totals() == {"eval": 2}


def test_restored_totals_continue_and_are_copied(clock):
  earlier = {"train": 100, "save": 5.0}
  timer = WallTimer(earlier, clock=clock)
  with timer.section("train"):
    clock.wait(1)
  timer.totals()["train"] = 0.0
  assert timer.totals() == {"train": 101, "save": 5}
  assert earlier == {"train": 100, "save": 5.0}


def test_the_default_clock_is_real_time():
  timer = WallTimer()
  with timer.section("train"):
    pass
  assert 0 <= timer.totals()["train"] < 60


def test_eta_ignores_compilation_and_earlier_processes(clock):
  timer = WallTimer({"train": 1e6, "compile": 1e6}, clock=clock)
  with timer.section("train"):
    with timer.section("compile"):
      clock.wait(500)
    clock.wait(30)
    with timer.section("eval"):
      clock.wait(10)
    # 20 steps took 40 seconds, including the open section; 60 steps are left.
    assert timer.eta(step=40, total=100, start_step=20) == pytest.approx(120)


@pytest.mark.parametrize(
  ("step", "expected"), [(20, math.inf), (100, 0.0), (101, 0.0)]
)
def test_the_time_left_before_the_first_step_and_after_the_last(
  clock, step, expected
):
  timer = WallTimer(clock=clock)
  with timer.section("train"):
    clock.wait(9)
  assert timer.eta(step, total=100, start_step=20) == expected


def test_eta_of_a_run_that_was_already_complete(clock):
  assert WallTimer(clock=clock).eta(100, total=100, start_step=100) == 0.0


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0, "0s"),
    (-3, "0s"),
    (45.4, "45s"),
    (59.6, "1m00s"),
    (185, "3m05s"),
    (3599.7, "1h00m"),
    (3 * 3600 + 12 * 60 + 59, "3h12m"),
    (86400, "1d00h"),
    (2 * 86400 + 4 * 3600 + 3599, "2d04h"),
    (math.inf, "?"),
    (-math.inf, "?"),
    (math.nan, "?"),
  ],
)
def test_seconds_are_formatted_with_their_two_largest_units(seconds, text):
  assert format_seconds(seconds) == text


def parse_seconds(text):
  units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
  seconds, digits = 0, ""
  for c in text:
    if c in units:
      seconds, digits = seconds + int(digits) * units[c], ""
    else:
      digits += c
  assert not digits
  return seconds


@given(st.floats(0, 1e8))
def test_formatted_seconds_are_exact_to_the_smaller_unit(seconds):
  text = format_seconds(seconds)
  smaller = {"s": 1, "m": 60, "h": 3600}[text[-1]]
  assert -0.5 <= seconds - parse_seconds(text) < smaller
  # The number of the smaller unit is always less than one larger unit.
  larger, _, rest = text[:-1].partition(
    {"s": "m", "m": "h", "h": "d"}[text[-1]]
  )
  assert int(rest or larger) < {"s": 60, "m": 60, "h": 24}[text[-1]]


@given(st.floats(0, 1e8), st.floats(0, 1e8))
def test_formatted_seconds_keep_their_order(one, other):
  low, high = sorted((one, other))
  assert parse_seconds(format_seconds(low)) <= parse_seconds(
    format_seconds(high)
  )
