"""Writes the log and the heartbeat of each process of a run.

Process p has two files in the workdir: `logs/process-p.log`, the end of its
log, and `logs/process-p.json`, a heartbeat that shows that it is alive and what
it does. A thread replaces them every few seconds, so that training does not
wait for a slow disk or bucket, nor for one that hangs.
"""

import collections
import contextlib
import datetime
import json
import logging
import os
import platform
import threading
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from perceiver_jax import files
from perceiver_jax.errors import DataTimeoutError, DivergedError, UserError

# The lines that a run prints. All processes log them, and the first one prints.
RUN_LOGGER = logging.getLogger("perceiver_jax.run")
RUN_LOGGER.setLevel(logging.INFO)
RUN_LOGGER.propagate = False
RUN_LOGGER.addHandler(logging.NullHandler())

# Values of a heartbeat's "doing", beside the sections of the run's timer.
STARTING, ENDED, FAILED = "starting", "ended", "failed"

# Seconds between two heartbeats. A bucket takes one write a second to a file.
INTERVAL = 10.0

_FOLDER = "logs"
_MAX_CHARACTERS = 2**16
# Types of the values of a heartbeat that are always there.
_TYPES = {
  "process": int, "num_processes": int, "pid": int, "host": str, "time": str,
  "step": int, "doing": str,
}  # fmt: skip
# Errors that are logged without a traceback.
_EXPLAINED = (UserError, DivergedError, DataTimeoutError, KeyboardInterrupt)
# Seconds that a process waits for its last lines to be written.
_PATIENCE = 3.0


class ProcessLog(logging.Handler):
  """Writes the log and the heartbeat of this process while it is open.

  The log has the lines of `RUN_LOGGER` and all warnings and errors. If an
  earlier process with the same number has left one, it is continued. After an
  error, one process of several goes on writing until it ends.

  Args:
    workdir: folder of the run.
    interval: seconds between two heartbeats.

  Attributes:
    step: number of steps taken.
    measured: latest measurements of speed and memory.
    doing: returns what the process does.
  """

  def __init__(self, workdir: Path, interval: float = INTERVAL):
    super().__init__()
    self.setFormatter(
      logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    self.step = 0
    self.measured: Mapping[str, float] = {}
    self.doing: Callable[[], str] = lambda: STARTING
    stem = _stem(workdir, jax.process_index())
    self._log = stem.with_suffix(".log")
    self._heartbeat = stem.with_suffix(".json")
    self._interval = interval
    self._about = {
      "process": jax.process_index(),
      "num_processes": jax.process_count(),
      "host": platform.node(),
      "pid": os.getpid(),
    }
    self._lines: collections.deque[str] = collections.deque()
    self._size = 0
    # Number of lines that were added, and how many of them are written.
    self._added, self._written = 0, 0
    self._is_open, self._wake = True, threading.Event()
    self._thread = threading.Thread(
      target=self._write_often, name="heartbeat", daemon=True
    )

  def __enter__(self) -> "ProcessLog":
    with contextlib.suppress(OSError, ValueError):
      self._keep(files.read_text(self._log))
    for logger in (logging.getLogger(), RUN_LOGGER):
      logger.addHandler(self)
    RUN_LOGGER.info("started: %s", describe(self._about))
    self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: types.TracebackType | None,
  ) -> None:
    if error is not None:
      is_explained = isinstance(error, _EXPLAINED)
      RUN_LOGGER.error(
        "%s: %s",
        type(error).__name__,
        error,
        exc_info=None if is_explained else (kind, error, traceback),
      )
    last = ENDED if error is None else FAILED
    self.doing = lambda: last
    if error is not None and jax.process_count() > 1:
      self.flush()
      return  # What follows tells whether another process is the cause.
    self._is_open = False
    self._wake.set()
    self._thread.join(_PATIENCE)
    for logger in (logging.getLogger(), RUN_LOGGER):
      logger.removeHandler(self)
    self.close()

  def emit(self, record: logging.LogRecord) -> None:
    """Adds a line to the log."""
    self._keep(self.format(record) + "\n")
    self._added += 1

  def flush(self) -> None:
    """Waits until the log is written, for 3 seconds at most."""
    added, end = self._added, time.monotonic() + _PATIENCE
    self._wake.set()
    while self._written < added and time.monotonic() < end:
      time.sleep(0.01)

  def _keep(self, text: str) -> None:
    """Adds text to the end of the log, and drops its beginning if too long."""
    lines = text.splitlines(keepends=True)
    self._lines.extend(lines)
    self._size += sum(map(len, lines))
    while self._size > _MAX_CHARACTERS:
      self._size -= len(self._lines.popleft())

  def _write_often(self) -> None:
    is_open = True
    while is_open:
      is_open = self._is_open
      self._wake.clear()
      # A full disk ends the run elsewhere, and others may answer again.
      with contextlib.suppress(Exception):
        self._write()
      if is_open:
        self._wake.wait(self._interval)

  def _write(self) -> None:
    self._log.parent.mkdir(parents=True, exist_ok=True)
    heartbeat = {
      **self._about,
      "time": datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
      "step": self.step,
      "doing": self.doing(),
      **self.measured,
    }
    files.write_text(self._heartbeat, json.dumps(heartbeat, indent=2) + "\n")
    if self._written < self._added:
      with self.lock:
        added, text = self._added, "".join(self._lines)
      files.write_text(self._log, text)
      self._written = added


def read_heartbeats(workdir: Path) -> list[dict[str, Any]]:
  """Reads the heartbeats of all processes of a run, in their order.

  Their times are by the clocks of different hosts, so don't compare them.

  Raises:
    UserError: there is none, or one can't be read.
  """
  heartbeats = []
  for path in (workdir / _FOLDER).glob("process-*.json"):
    try:
      heartbeat = files.read_json(path)
      if any(
        type(heartbeat[name]) is not kind for name, kind in _TYPES.items()
      ):
        raise TypeError("a value has another type")
    except (OSError, ValueError, LookupError, TypeError) as error:
      raise UserError(
        f"{path} is not a heartbeat ({error}); delete it"
      ) from error
    heartbeats.append(heartbeat)
  if not heartbeats:
    raise UserError(
      f"--workdir={workdir} has no heartbeats in {_FOLDER}/; give the --workdir"
      " of a run that has started to train"
    )
  return sorted(heartbeats, key=lambda heartbeat: heartbeat["process"])


def read_log(workdir: Path, process: int) -> list[str]:
  """Reads the lines of the log of a process; [] if there is none."""
  try:
    path = _stem(workdir, process).with_suffix(".log")
    return files.read_text(path).splitlines()
  except (OSError, ValueError):
    return []


def describe(heartbeat: Mapping[str, Any]) -> str:
  """Describes a process, as in "process 1 of 4, pid 7 on host-b"."""
  return (
    f"process {heartbeat['process']} of {heartbeat['num_processes']}, pid"
    f" {heartbeat['pid']} on {heartbeat['host']}"
  )


def _stem(workdir: Path, process: int) -> Path:
  return workdir / _FOLDER / f"process-{process}"
