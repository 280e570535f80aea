"""Ends the processes of a run with several if one of them is lost.

Without it, a process whose peer was killed would wait for minutes in a
collective and then be aborted by JAX. Each process writes a count to JAX's
coordination service every few seconds, and reads those of the others.
"""

import atexit
import contextlib
import ctypes
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

LOST = 75  # Exit status: "try again", as after a preemption.

_BEAT = 2.0  # Seconds between two counts.
# Seconds without a new count after which a process is lost. Counting takes
# Python's lock, which other code may hold for seconds.
_SILENCE = 20.0
# Number of beats for which the first process goes on after the loss of another.
_SERVICE_BEATS = 3
# Seconds that a process with an error leaves the others to end by themselves,
# since they may have the same error to report.
_GRACE = 8.0
_KEY = "perceiver_jax/processes/"
_ENDED, _DONE = "ended", "done"
# That of `training.logs.process_log`, which imports JAX.
_RUN_LOGGER = logging.getLogger("perceiver_jax.run")
_COMMUNICATION = re.compile(
  r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|[Cc]oordination|heartbeat"
)

_watch: "_Watch | None" = None


def watch() -> None:
  """Starts to watch the other processes; call it after JAX has found them."""
  global _watch
  from jax._src import distributed

  state = distributed.global_state
  if state.client is None or state.num_processes < 2:
    return
  _watch = _Watch(
    state.client,
    state.process_id,
    state.num_processes,
    state.coordinator_address,
  )
  _watch.start()


def wait_if_lost(error: BaseException) -> None:
  """Waits for the loss of a process that explains an error in communication.

  Such an error is raised seconds before it is known which process is lost.
  Returns if all processes are alive, or the error is of another kind.
  """
  if _watch is not None and _COMMUNICATION.search(str(error)):
    _wait_for_loss()


def watches() -> bool:
  """Returns whether there are other processes."""
  return _watch is not None


def leave(status: int) -> None:
  """Ends this process of several after an error; returns if it is the only one.

  JAX would wait for the other processes, which wait for this one.
  """
  if _watch is not None:
    _watch.leave(status)


class _Watch(threading.Thread):
  """Counts, and compares the counts of the other processes."""

  def __init__(self, client: Any, process: int, count: int, address: str):
    super().__init__(name="process watch", daemon=True)
    self._client, self._process, self._count = client, process, count
    self._address = address
    self._state = ""  # _ENDED or _DONE, after which there are no more counts.
    self._last: dict[int, tuple[str, float]] = {}
    self._lock = threading.Lock()
    # Runs before the one with which JAX waits for all processes.
    atexit.register(self._announce, _DONE)
    self._handle_abort()

  def run(self) -> None:
    """Counts until this process ends."""
    for beat in range(sys.maxsize):
      if self._state == _DONE:
        return
      try:
        if not self._state:
          self._write(str(beat))
        self._read()
      except Exception:  # The first process runs the service.
        if self._state or self._process == 0:
          return
        exit_at_once(LOST, self._message(0, "can't be reached"))
      time.sleep(_BEAT)

  def leave(self, status: int) -> NoReturn:
    """Ends this process when the others have ended, or after a while."""
    self._announce(_ENDED)
    end = time.monotonic() + _GRACE + 4 * _BEAT
    while time.monotonic() < end:
      states = [state for state, _ in list(self._last.values())]
      if len(states) == self._count - 1 and set(states) <= {_ENDED, _DONE}:
        break
      time.sleep(0.1)
    exit_at_once(status)

  def _announce(self, state: str) -> None:
    if not self._state:
      self._state = state
      with contextlib.suppress(Exception):
        self._write(state)

  def _write(self, value: str) -> None:
    with self._lock:
      if value in (_ENDED, _DONE) or not self._state:
        key = f"{_KEY}{self._process}"
        self._client.key_value_set(key, value, allow_overwrite=True)

  def _read(self) -> None:
    """Ends this process if another one is lost."""
    now = time.monotonic()
    for key, value in self._client.key_value_dir_get(_KEY):
      other = int(key.rpartition("/")[2])
      if other == self._process:
        continue
      if self._last.get(other, ("", 0.0))[0] != value:
        self._last[other] = value, now
      silent = now - self._last[other][1]
      if self._state or value == _DONE:
        continue
      if value == _ENDED and silent > _GRACE:
        self._end(other, "ended with an error")
      if value != _ENDED and silent > _SILENCE:
        self._end(other, "no longer responds")

  def _end(self, other: int, what: str) -> NoReturn:
    """Ends this process because another one is lost."""
    if self._process == 0:
      # Without its service the others would not learn which one is lost.
      time.sleep(_SERVICE_BEATS * _BEAT)
    exit_at_once(LOST, self._message(other, what))

  def _message(self, other: int, what: str) -> str:
    return (
      f"error: process {other} of {self._count} {what}, so process"
      f" {self._process} ends too: start all of them again to resume\n"
    )

  def _handle_abort(self) -> None:
    """Handles the aborts that the loss of another process causes.

    JAX aborts if the first process is lost, and Gloo, which connects CPUs, may
    do so after the loss of any.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)
    self._handler = handler  # The C library holds no reference.
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(ctypes.c_int(signal.SIGABRT), handler)

  def _on_abort(self, _: int) -> None:
    if self._process:
      host, _, port = self._address.rpartition(":")
      try:
        socket.create_connection((host.strip("[]"), int(port)), _BEAT).close()
      except OSError:
        exit_at_once(LOST, self._message(0, "can't be reached"))
    # The thread of this watch ends the process if another one is lost. If this
    # one ended before, the others would take it for the one that is lost.
    _wait_for_loss()
    # Something else aborts: returning lets it.


def _wait_for_loss() -> None:
  """Waits until the loss of another process would have ended this one."""
  time.sleep(_SILENCE + (2 + _SERVICE_BEATS) * _BEAT)


def exit_at_once(status: int, message: str = "") -> NoReturn:
  """Ends this process at once, without waiting for the others."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  if message:
    os.write(2, message.encode())
    if _RUN_LOGGER.handlers:  # Else Python would print it.
      with contextlib.suppress(Exception):
        _RUN_LOGGER.error("%s", message.strip())
        for handler in _RUN_LOGGER.handlers:
          handler.flush()
  for worker in multiprocessing.active_children():
    worker.kill()
  os._exit(status)
