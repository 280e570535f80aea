"""Limits the wait for a batch, and names the examples that take long to read.

A file in a network mount that does not answer can't be read, and the thread
that tries to can't be stopped. So other threads watch it.
"""

import contextlib
import os
import signal
import threading
import time
import types
from collections.abc import Iterator

from absl import logging

from perceiver_jax import files
from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.errors import DataTimeoutError

# Share of the limit on the wait for a batch after which a warning names an
# example that is still being read.
_WARNING_SHARE = 0.1
# How often a thread looks for such examples during this time.
_LOOKS = 4

_lock = threading.Lock()
# When each thread of this process began to read which example.
_reads: dict[int, tuple[float, int]] = {}
_watch: threading.Thread | None = None


class TimedSource:
  """The examples of a source, with warnings of those that take long to read.

  Each process that reads from it, or from a copy, watches its own threads.

  Args:
    source: the examples.
    max_seconds: limit on the wait for a batch. The warning comes after a tenth.
  """

  def __init__(self, source: Source, max_seconds: float):
    self._source = source
    self._warning_seconds = max_seconds * _WARNING_SHARE

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    _start_watch(self._warning_seconds)
    with watched(index):
      return self._source[index]


@contextlib.contextmanager
def watched(index: int) -> Iterator[None]:
  """Lets warnings name an example that takes long to read in this block.

  A `TimedSource` reads each example in one; a transform that reads files needs
  its own. Blocks of a thread do not nest.
  """
  thread = threading.get_ident()
  files.last_opened.pop(thread, None)
  _reads[thread] = time.monotonic(), index
  try:
    yield
  finally:
    del _reads[thread]


@contextlib.contextmanager
def limited_wait(max_seconds: float) -> Iterator[None]:
  """Limits the time of a block that waits for data.

  Only the main thread can be interrupted: in others there is no limit.

  Args:
    max_seconds: the limit; 0 for none.

  Raises:
    DataTimeoutError: the block takes more time.
  """
  if not max_seconds or threading.current_thread() != threading.main_thread():
    yield
    return

  def stop(_: int, __: types.FrameType | None) -> None:
    raise DataTimeoutError(_message(max_seconds))

  before = signal.signal(signal.SIGALRM, stop)
  try:
    # Again and again, since a destructor would ignore the error.
    signal.setitimer(signal.ITIMER_REAL, max_seconds, 1)
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _message(max_seconds: float) -> str:
  reads = "; ".join(text for _, _, text in _slow_reads(max_seconds / 2))
  # Worker processes log their own warnings.
  reads = f": {reads}" if reads else "; see the warnings above, if any"
  return (
    f"no batch of data for {max_seconds:g} s{reads}. Start it again to"
    " resume, or set config.data_timeout_seconds to more"
  )


def _start_watch(seconds: float) -> None:
  """Starts this process's thread that warns, if there is none."""
  global _watch
  if _watch is not None and _watch.is_alive():
    return
  with _lock:
    if _watch is None or not _watch.is_alive():
      _watch = threading.Thread(
        target=_warn_of_slow_reads, args=(seconds,), daemon=True
      )
      _watch.start()


def _warn_of_slow_reads(seconds: float) -> None:
  warned: dict[int, float] = {}
  while True:
    time.sleep(seconds / _LOOKS)
    for thread, start, text in _slow_reads(seconds):
      if warned.get(thread) != start:
        warned[thread] = start
        logging.warning("%s", text)


def _slow_reads(seconds: float) -> list[tuple[int, float, str]]:
  """Returns thread, start and description of reads that take longer."""
  now = time.monotonic()
  return [
    (thread, start, _description(thread, index, now - start))
    for thread, (start, index) in list(_reads.items())
    if now - start > seconds
  ]


def _description(thread: int, index: int, seconds: float) -> str:
  path = files.last_opened.get(thread)
  file = f", from {path!r}," if path else ""
  return (
    f"process {os.getpid()} has been reading example {index:,}{file} for"
    f" {seconds:.0f} s"
  )
