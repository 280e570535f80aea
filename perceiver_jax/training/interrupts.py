"""Handles preemption, Ctrl-C and the time limit of a run."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

PREEMPTED = "preempted"
INTERRUPTED = "interrupted"
OUT_OF_TIME = "out of time"

# Exit status; 75 is EX_TEMPFAIL of sysexits.h, which means "try again".
EXIT_CODES = {PREEMPTED: 75, OUT_OF_TIME: 75, INTERRUPTED: 130}

_WHEN = "stopping after this step, and its evaluation if one is due"


class Interrupts:
  """Decides whether a run should stop early, consistently on all processes.

  Args:
    max_seconds: time limit from construction; 0 for no limit.
  """

  def __init__(self, max_seconds: float = 0.0):
    self._max_seconds = max_seconds
    self._start = time.monotonic()
    self._signal = ""
    self._single_process = jax.process_count() == 1

  @contextlib.contextmanager
  def handled(self) -> Iterator[None]:
    """Records and reports SIGTERM and the first SIGINT instead of raising."""
    # With several processes, JAX's own SIGTERM handler makes them agree on a
    # step at which to stop, so it must stay installed.
    numbers = (signal.SIGTERM, signal.SIGINT) if self._single_process else ()
    old = {number: signal.signal(number, self._record) for number in numbers}
    try:
      yield
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def reason(self, step: int) -> str:
    """Returns the reason to stop after `step`, or "" to continue.

    All processes must call this at the same steps.
    """
    if self._single_process:
      return self._signal or (OUT_OF_TIME if self._timed_out() else "")
    if multihost_utils.reached_preemption_sync_point(step):
      return PREEMPTED
    if not self._max_seconds:
      return ""
    # Clocks differ between hosts, so the first process decides.
    late = multihost_utils.broadcast_one_to_all(np.asarray(self._timed_out()))
    return OUT_OF_TIME if bool(late) else ""

  def _timed_out(self) -> bool:
    elapsed = time.monotonic() - self._start
    return bool(self._max_seconds) and elapsed >= self._max_seconds

  def _record(self, number: int, _: FrameType | None) -> None:
    if number == signal.SIGTERM:
      if not self._signal:
        _say(f"{PREEMPTED}: {_WHEN}")
      self._signal = PREEMPTED
      return
    self._signal = INTERRUPTED
    _say(f"{INTERRUPTED}: {_WHEN}; Ctrl-C again stops at once without saving")
    # A second Ctrl-C stops immediately, without saving.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _say(line: str) -> None:
  """Prints a line on stderr from a signal handler.

  `print` would raise an error if the signal came while it was printing.
  """
  with contextlib.suppress(OSError):
    os.write(2, f"\n{line}\n".encode())
