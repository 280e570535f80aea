"""Tests of adding up metrics over the steps of an interval."""

import json

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from perceiver_jax.errors import DivergedError
from perceiver_jax.training import step
from perceiver_jax.training.logs.metrics_accumulator import MetricsAccumulator
from perceiver_jax.training.logs.wall_time import WallTimer


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def timer(clock):
  return WallTimer(clock=clock)


def make_accumulator(timer, stored=None, **kwargs):
  sharding = step.replicated(step.make_mesh(2))
  return MetricsAccumulator(
    stored or {}, sharding, timer, **({"batch_size": 8} | kwargs)
  )


def metrics_of_step(i):
  """Returns metrics whose sums are rounded in float32."""
  total = np.float32(np.random.default_rng(i).normal())
  return {
    "loss": (jnp.float32(total), jnp.float32(3)),
    "grad_norm": (jnp.float32(1 / 3 + i), jnp.float32(1)),
  }


def test_means_are_over_the_examples_of_all_steps(timer):
  accumulator = make_accumulator(timer)
  accumulator.add({"loss": (jnp.float32(6), jnp.float32(2))})
  accumulator.add({"loss": (jnp.float32(2), jnp.float32(6))})
  accumulator.wait()
  assert accumulator.take()[0] == {"loss": 1.0}


@pytest.mark.parametrize("ahead", [0, 2])
def test_only_a_few_steps_are_queued_on_the_device(timer, monkeypatch, ahead):
  waited = []
  monkeypatch.setattr(
    jax, "block_until_ready", lambda sums: waited.append(float(sums["loss"][0]))
  )
  accumulator = make_accumulator(timer)
  for i in range(5):
    accumulator.add({"loss": (jnp.float32(1), jnp.float32(1))})
    accumulator.wait(ahead)
    # The sum after step n is n, so this lists the steps waited for.
    assert waited == [n + 1.0 for n in range(i + 1 - ahead)]


def test_take_starts_a_new_interval(timer):
  accumulator = make_accumulator(timer)
  for value in (1.0, 5.0):
    accumulator.add({"loss": (jnp.float32(value), jnp.float32(1))})
    assert accumulator.take()[0] == {"loss": value}


def test_sums_are_restored_bitwise_from_a_checkpoint(timer):
  whole, first = make_accumulator(timer), make_accumulator(timer)
  for i in range(3):
    whole.add(metrics_of_step(i))
    first.add(metrics_of_step(i))
  stored = json.loads(json.dumps(first.stored()))
  assert stored == first.stored(), "a save in the middle changes nothing"
  second = make_accumulator(timer, stored)
  for i in range(3, 7):
    whole.add(metrics_of_step(i))
    second.add(metrics_of_step(i))
  assert second.stored() == whole.stored()
  assert second.take()[0] == whole.take()[0]


def test_restored_sums_are_placed_on_all_devices(timer):
  accumulator = make_accumulator(timer, {"loss": [1.5, 2.0]})
  mesh = step.make_mesh(2)
  more = jax.device_put(
    {"loss": (np.float32(0.5), np.float32(2))}, step.replicated(mesh)
  )
  accumulator.add(more)
  assert accumulator.take()[0] == {"loss": 0.5}


def test_nothing_is_stored_between_intervals(timer):
  accumulator = make_accumulator(timer)
  assert accumulator.stored() == {}
  accumulator.add(metrics_of_step(0))
  accumulator.take()
  assert accumulator.stored() == {}
  accumulator.check_finite(1)


@pytest.mark.parametrize(
  ("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")]
)
def test_a_metric_that_is_not_finite_stops_the_run(timer, value, text):
  accumulator = make_accumulator(timer)
  accumulator.add(metrics_of_step(0))
  accumulator.check_finite(1)
  bad = {
    **metrics_of_step(1),
    "grad_norm": (jnp.float32(value), jnp.float32(1)),
  }
  accumulator.add(bad)
  accumulator.add(metrics_of_step(2))
  with pytest.raises(
    DivergedError,
    match=rf"^grad_norm is {text} in the steps up to 3; .*"
    r"config\.optimizer\.learning_rate",
  ):
    accumulator.check_finite(3)


# --- speed --------------------------------------------------------------------


def take_steps(accumulator, timer, clock, count, data, seconds):
  for i in range(count):
    with timer.section("data"):
      clock.now += data
    with timer.section("step"):
      clock.now += seconds
      accumulator.add(metrics_of_step(i))


def test_speed_counts_only_data_and_steps_of_the_interval(timer, clock):
  accumulator = make_accumulator(timer, flops_per_step=3e9, peak_flops=8e9)
  take_steps(accumulator, timer, clock, 4, data=0.5, seconds=1.5)
  with timer.section("evaluate"):
    clock.now += 100
  assert accumulator.take()[1] == pytest.approx(
    {
      "examples_per_second": 4.0,
      "step_seconds": 2.0,
      "data_wait_percent": 25.0,
      "gflops_per_second": 1.5,
      "mfu_percent": 18.75,
    }
  )
  take_steps(accumulator, timer, clock, 2, data=0.0, seconds=1.0)
  assert accumulator.take()[1] == pytest.approx(
    {
      "examples_per_second": 8.0,
      "step_seconds": 1.0,
      "data_wait_percent": 0.0,
      "gflops_per_second": 3.0,
      "mfu_percent": 37.5,
    }
  )


def test_speed_leaves_out_unknown_quantities(timer, clock):
  accumulator = make_accumulator(timer, flops_per_step=3e9)
  take_steps(accumulator, timer, clock, 1, data=0.0, seconds=1.0)
  assert "mfu_percent" not in accumulator.take()[1]
  accumulator = make_accumulator(timer, peak_flops=8e9)
  take_steps(accumulator, timer, clock, 1, data=0.0, seconds=1.0)
  assert set(accumulator.take()[1]) == {
    "examples_per_second",
    "step_seconds",
    "data_wait_percent",
  }


def test_resumed_run_does_not_count_earlier_processes(clock):
  timer = WallTimer({"data": 1000.0, "step": 1000.0}, clock=clock)
  accumulator = make_accumulator(
    timer, {"loss": [1.0, 1.0], "grad_norm": [1.0, 1.0]}
  )
  take_steps(accumulator, timer, clock, 2, data=1.0, seconds=1.0)
  assert accumulator.take()[1] == pytest.approx(
    {
      "examples_per_second": 4.0,
      "step_seconds": 2.0,
      "data_wait_percent": 50.0,
    }
  )


def test_named_metrics_are_reported_per_second(timer, clock):
  accumulator = make_accumulator(timer, rates={"loss": "loss_per_second"})
  take_steps(accumulator, timer, clock, 4, data=0.5, seconds=1.5)
  means, speed = accumulator.take()
  expected = means["loss"] * speed["examples_per_second"]
  assert speed["loss_per_second"] == pytest.approx(expected)
