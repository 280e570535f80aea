"""Accumulates the metrics and speed of an interval of training steps."""

import collections
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from perceiver_jax.errors import DivergedError
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.evaluation import add
from perceiver_jax.training.logs.wall_time import WallTimer


class MetricsAccumulator:
  """Sums metrics on the device and fetches them once per interval.

  The sums are part of a checkpoint: a run resumed in the middle of an interval
  reports the same means as one that never stopped.

  Args:
    stored: result of `stored()` from a checkpoint, or {}.
    sharding: sharding of the metrics that a step returns.
    timer: counts the seconds of the sections "data" and "step".
    batch_size: number of examples per step.
    flops_per_step: operations per step; 0 if unknown.
    peak_flops: operations per second of all devices; 0 if unknown.
    rates: names of metrics to report per second, with the name of each rate;
      see `tasks.base.Task`.
  """

  def __init__(
    self,
    stored: Mapping[str, Any],
    sharding: jax.sharding.Sharding,
    timer: WallTimer,
    *,
    batch_size: int,
    flops_per_step: float = 0.0,
    peak_flops: float = 0.0,
    rates: Mapping[str, str] = types.MappingProxyType({}),
  ):
    sums = {name: tuple(map(np.float32, pair)) for name, pair in stored.items()}
    self._sums = jax.device_put(sums, sharding) if sums else None
    self._timer = timer
    self._batch_size = batch_size
    self._flops_per_step = flops_per_step
    self._peak_flops = peak_flops
    self._rates = rates
    self._pending = collections.deque()
    # Steps of this process only, consistent with its seconds.
    self._steps = 0
    self._seconds = timer.totals()

  def add(self, metrics: metrics_lib.Metrics) -> None:
    """Adds the metrics of a step."""
    self._sums = metrics if self._sums is None else add(self._sums, metrics)
    self._steps += 1
    self._pending.append(self._sums)

  def wait(self, ahead: int = 0) -> None:
    """Waits until at most `ahead` of the added steps are unfinished."""
    while len(self._pending) > ahead:
      jax.block_until_ready(self._pending.popleft())

  def stored(self) -> dict[str, list[float]]:
    """Returns the sums as JSON data, which is exact for float32."""
    host = jax.device_get(self._sums or {})
    return {name: [float(x) for x in pair] for name, pair in host.items()}

  def check_finite(self, step: int) -> None:
    """Waits for the device and checks that the sums are finite.

    Raises:
      DivergedError: a metric is not finite; the message names it.
    """
    if self._sums is None:
      return
    with self._timer.section("step"):
      means = metrics_lib.means(self._sums)
    for name, value in means.items():
      if not np.all(np.isfinite(value)):
        raise DivergedError(
          f"{name} is {float(np.ravel(value)[0])} in the steps up to"
          f" {step}; nothing of them was saved. Lower"
          " config.optimizer.learning_rate, lengthen its warm-up, or set"
          " config.optimizer.clip_norm, and start again"
          " in a new --workdir"
        )

  def take(self) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the means and the speed of the interval and starts a new one.

    The speed does not count evaluation and saving.
    """
    means = metrics_lib.scalars(metrics_lib.means(self._sums))
    self._sums = None
    return means, self._speed(means)

  def _speed(self, means: Mapping[str, float]) -> dict[str, float]:
    now, steps = self._timer.totals(), self._steps
    spent = {
      name: now.get(name, 0.0) - self._seconds.get(name, 0.0)
      for name in ("data", "step")
    }
    self._seconds, self._steps = now, 0
    seconds = max(sum(spent.values()), 1e-9)
    examples = steps * self._batch_size / seconds
    speed = {
      "examples_per_second": examples,
      "step_seconds": seconds / max(steps, 1),
      "data_wait_percent": 100 * spent["data"] / seconds,
    }
    for name, rate in self._rates.items():
      speed[rate] = means[name] * examples
    flops = steps * self._flops_per_step / seconds
    if flops:
      speed["gflops_per_second"] = flops / 1e9
    if flops and self._peak_flops:
      speed["mfu_percent"] = 100 * flops / self._peak_flops
    return speed
