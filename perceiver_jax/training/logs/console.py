"""Prints and logs the progress of a run: a bar on a terminal, else lines."""

import sys
from collections.abc import Mapping

from tqdm import tqdm

from perceiver_jax.training.logs.process_log import RUN_LOGGER

_BAR_WIDTH = 20
_SHOWN = ("loss", "accuracy")


class Console:
  """Prints the progress of a run on stdout.

  On a terminal a bar moves with every step; in a log file there is one line
  per interval, which shows the fraction done. The log of each process gets the
  lines too; see `process_log`.

  Args:
    total: number of steps in the run.
    start: number of steps completed before this process started.
    enabled: False (every process but the first) prints nothing.
  """

  def __init__(self, total: int, start: int = 0, *, enabled: bool = True):
    self._total = total
    self._enabled = enabled
    self._bar = None
    if enabled and sys.stdout.isatty():
      self._bar = tqdm(
        total=total, initial=start, desc="train", unit="step",
        dynamic_ncols=True, file=sys.stdout,
      )  # fmt: skip

  @property
  def draws(self) -> bool:
    """Returns whether a progress bar can be drawn on a terminal."""
    return self._bar is not None

  def step(self) -> None:
    """Advances the bar by one step."""
    if self._bar is not None:
      self._bar.update()

  def say(self, line: str) -> None:
    """Logs and prints a line, above the bar if there is one."""
    RUN_LOGGER.info("%s", line)
    if not self._enabled:
      return
    if self._bar is not None:
      self._bar.write(line)
    else:
      print(line, flush=True)

  def interval(
    self, step: int, values: Mapping[str, float], eta: str, note: str = ""
  ) -> None:
    """Shows the metrics of the last interval, and a note on it."""
    numbers = "  ".join(f"{k} {_number(v)}" for k, v in values.items())
    line = (
      f"{_bar(step, self._total)} step {step:,}/{self._total:,}"
      f"  {numbers}  eta {eta}" + (f"  {note}" if note else "")
    )
    if self._bar is None:
      self.say(line)
      return
    RUN_LOGGER.info("%s", line)
    shown = {k: v for k, v in values.items() if k in _SHOWN}
    self._bar.set_postfix(shown, refresh=False)

  def close(self) -> None:
    """Closes the progress bar."""
    if self._bar is not None:
      self._bar.close()


def _bar(step: int, total: int) -> str:
  full = _BAR_WIDTH * step // max(total, 1)
  drawn = "#" * full + "-" * (_BAR_WIDTH - full)
  return f"{100 * step // max(total, 1):3d}% [{drawn}]"


def _number(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
