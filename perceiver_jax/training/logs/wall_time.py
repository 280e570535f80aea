"""Measures the wall time of a run by section, over all its restarts."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping


class WallTimer:
  """Times sections; opening one inside another pauses the outer one.

  Every second is counted once. If all work is inside sections, the totals add
  up to the wall time. Not thread-safe.

  Args:
    totals: seconds by section of the run's earlier processes, from `totals()`.
    clock: returns seconds; only differences matter.
  """

  def __init__(
    self,
    totals: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._restored = {name: float(s) for name, s in (totals or {}).items()}
    self._totals = dict(self._restored)
    self._clock = clock
    self._open: list[str] = []
    self._since = clock()

  @contextlib.contextmanager
  def section(self, name: str) -> Iterator[None]:
    """Counts the time inside the `with` as `name`."""
    self._settle()
    self._open.append(name)
    try:
      yield
    finally:
      self._settle()
      self._open.pop()

  def totals(self) -> dict[str, float]:
    """Returns the seconds of each section, including the open one until now."""
    self._settle()
    return dict(self._totals)

  def current(self) -> str:
    """Returns the open section, or "". Other threads may call it."""
    return (self._open[-1:] or [""])[0]

  def eta(self, step: int, total: int, start_step: int) -> float:
    """Returns the seconds until step `total`, at this process's pace so far.

    The pace includes evaluations and checkpoints, which recur, but not
    compilation.

    Args:
      step: steps done so far.
      total: the step at which the run ends.
      start_step: the step this process started or resumed from.

    Returns:
      Seconds; infinity before the first step.
    """
    if step >= total:
      return 0.0
    if step <= start_step:
      return math.inf
    here = sum(
      seconds - self._restored.get(name, 0.0)
      for name, seconds in self.totals().items()
      if name != "compile"
    )
    return here / (step - start_step) * (total - step)

  def _settle(self) -> None:
    now = self._clock()
    if self._open:
      name = self._open[-1]
      self._totals[name] = self._totals.get(name, 0.0) + now - self._since
    self._since = now


def format_seconds(seconds: float) -> str:
  """Formats as "45s", "3m05s", "3h12m" or "2d04h"; "?" if not finite."""
  if not math.isfinite(seconds):
    return "?"
  whole = max(0, round(seconds))
  if whole < 60:
    return f"{whole}s"
  minutes, rest = divmod(whole, 60)
  if minutes < 60:
    return f"{minutes}m{rest:02d}s"
  hours, minutes = divmod(minutes, 60)
  if hours < 24:
    return f"{hours}h{minutes:02d}m"
  days, hours = divmod(hours, 24)
  return f"{days}d{hours:02d}h"
