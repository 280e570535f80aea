"""Limits on the time and memory that parsing a file may take.

What a compressed file of some KB decompresses to has any size, so that a
damaged or malicious one could otherwise take hours or all memory.
"""

import contextlib
import resource
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from perceiver_jax.errors import UserError


class _TooSlowError(BaseException):
  """No `except Exception` of the parser catches it."""


@contextlib.contextmanager
def limits(max_seconds: float, max_memory_mb: float) -> Iterator[None]:
  """Limits the time and memory of a block, in the main thread of a process.

  Args:
    max_seconds: wall-clock time.
    max_memory_mb: memory beyond that in use at the start. Only Linux says how
      much that is; elsewhere there is no limit.

  Raises:
    UserError: the block takes more time, or it needs more memory and does not
      catch the MemoryError.
  """

  def stop(_: int, frame: types.FrameType | None) -> None:
    # Within the lines below, an error would leave the limits as they are.
    name = frame.f_globals.get("__name__") if frame else ""
    if name not in (__name__, contextlib.__name__, signal.__name__):
      raise _TooSlowError

  def report(unraisable: Any) -> None:
    # A destructor that is stopped goes on, and the next alarm stops the block.
    if unraisable.exc_type is not _TooSlowError:
      hook_before(unraisable)

  problem = None
  hook_before = sys.unraisablehook
  memory_before = resource.getrlimit(resource.RLIMIT_AS)
  handler_before = signal.signal(signal.SIGALRM, stop)
  try:
    size = Path("/proc/self/statm")
    if size.exists():
      in_use = int(size.read_text().split()[0]) * resource.getpagesize()
      limit = in_use + int(max_memory_mb * 1e6)
      resource.setrlimit(resource.RLIMIT_AS, (limit, memory_before[1]))
    sys.unraisablehook = report
    # Again and again, since a destructor would ignore the error.
    signal.setitimer(signal.ITIMER_REAL, max_seconds, min(max_seconds, 1))
    yield
  except _TooSlowError:
    problem = f"takes more than {max_seconds:g} s to read"
  except MemoryError:
    problem = f"takes more than {max_memory_mb:g} MB of memory to read"
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler_before)
    sys.unraisablehook = hook_before
    resource.setrlimit(resource.RLIMIT_AS, memory_before)
  # No alarm can come any more, not even while the error is created.
  if problem:
    raise UserError(problem)
