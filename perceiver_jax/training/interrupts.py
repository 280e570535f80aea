"""When a run should stop before its end: preemption, Ctrl-C, a time limit."""

import contextlib
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

# What a shell sees; 75 is EX_TEMPFAIL of sysexits.h: try again.
EXIT_CODES = {PREEMPTED: 75, OUT_OF_TIME: 75, INTERRUPTED: 130}


class Interrupts:
  """Notices that a run should stop, at a step on which all processes agree.

  Args:
    max_seconds: of this process's life; 0 for no limit.
  """

  def __init__(self, max_seconds: float = 0.0):
    self._max_seconds = max_seconds
    self._start = time.monotonic()
    self._signal = ""
    self._alone = jax.process_count() == 1

  @contextlib.contextmanager
  def handled(self) -> Iterator[None]:
    """Inside, SIGTERM and the first SIGINT are noted instead of raised."""
    handlers = {signal.SIGTERM: self._note, signal.SIGINT: self._note}
    if not self._alone:
      # JAX's own SIGTERM handler tells all processes where to stop.
      handlers = {}
    old = {number: signal.signal(number, f) for number, f in handlers.items()}
    try:
      yield
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def reason(self, step: int) -> str:
    """Why to stop after `step`; "" to go on."""
    if self._alone:
      return self._signal or (OUT_OF_TIME if self._timed_out() else "")
    if multihost_utils.reached_preemption_sync_point(step):
      return PREEMPTED
    if not self._max_seconds:
      return ""
    # Clocks differ: the first process decides for all.
    late = multihost_utils.broadcast_one_to_all(np.asarray(self._timed_out()))
    return OUT_OF_TIME if bool(late) else ""

  def _timed_out(self) -> bool:
    elapsed = time.monotonic() - self._start
    return bool(self._max_seconds) and elapsed >= self._max_seconds

  def _note(self, number: int, _: FrameType | None) -> None:
    if number == signal.SIGTERM:
      self._signal = PREEMPTED
      return
    self._signal = INTERRUPTED
    # A second Ctrl-C stops at once, without saving.
    signal.signal(signal.SIGINT, signal.default_int_handler)
