"""A lock in a bucket, whose holder shows regularly that it is alive.

Each holder creates an object with the next number, which the store lets only
one process do, and counts in it. An object whose count stands still belongs to
a process that was killed: creating the next one takes the lock over. Clocks of
different hosts are never compared.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from perceiver_jax import files
from perceiver_jax.buckets import store
from perceiver_jax.errors import UserError

_BEAT = 15.0  # Seconds between two counts.
_STALE = 60.0  # Seconds without a new count after which a holder is dead.
_POLL = 2.0


class BucketLock:
  """A lock that is held until `release`.

  Args:
    folder: folder of the lock's objects, in a bucket.
    what: what is locked, for messages, as in "--workdir=gs://runs/a".
    quiet: whether to wait for a sign of life without a warning.

  Raises:
    UserError: a live process holds the lock.
    OSError: the bucket can't be written to.
  """

  def __init__(self, folder: Path, what: str, quiet: bool = False):
    self._folder, self._what, self._taken = folder, what, ""
    self._quiet = quiet
    self._holder = {
      "process": os.getpid(),
      "host": platform.node(),
      "machine": _machine(),
      "token": uuid.uuid4().hex,
      "count": 0,
    }
    self._path = self._acquire()
    self._counted = time.monotonic()
    self._released = threading.Event()
    self._thread = threading.Thread(
      target=self._count, name="bucket lock", daemon=True
    )
    self._thread.start()

  def check(self) -> None:
    """Checks that the lock is still held.

    Raises:
      UserError: another process took it over while this one was suspended, or
        could not reach the bucket.
    """
    # The thread may not have noticed yet, after a suspension or an outage.
    if time.monotonic() - self._counted > 2 * _BEAT:
      with self._outage_reported():
        self._look()
    if self._taken:
      raise UserError(
        f"{self._what} was taken over by {self._taken}, since this run gave no"
        f" sign of life for {_STALE:.0f} seconds; wait for that run to end, or"
        " give another folder"
      )

  def release(self) -> None:
    """Releases the lock."""
    self._released.set()
    self._thread.join()
    if not self._taken:
      with contextlib.suppress(OSError):
        self._path.unlink(missing_ok=True)

  def _acquire(self) -> Path:
    """Returns the object that this process has created."""
    while True:
      numbers = self._numbers()
      last = numbers[-1] if numbers else 0
      if numbers and not self._is_dead(self._object(last)):
        continue  # It was released, and another run may have been quicker.
      path = self._object(last + 1)
      if not store.create(path, self._contents()):
        continue
      for number in numbers:
        with contextlib.suppress(OSError):
          self._object(number).unlink(missing_ok=True)
      return path

  def _is_dead(self, path: Path) -> bool:
    """Waits for a sign of life of the holder.

    Returns:
      True if it is dead, False if it has released the lock.

    Raises:
      UserError: it is alive.
    """
    first = _read(path)
    name = f"process {first.get('process')} on {first.get('host')}"
    if first and not _ended_here(first):
      if not self._quiet:
        logging.warning(
          "%s may be in use by %s; waiting up to %.0f seconds for a sign of"
          " life",
          self._what, name, _STALE,
        )  # fmt: skip
      end = time.monotonic() + _STALE
      while time.monotonic() < end and (now := _read(path)):
        if now != first:
          raise UserError(
            f"{self._what} is in use by another run ({name}); wait for it to"
            " end, or give another folder"
          )
        time.sleep(_POLL)
    if not _read(path):
      return False
    logging.warning(
      "%s was held by %s, which is dead; this run takes it over",
      self._what, name,
    )  # fmt: skip
    return True

  def _count(self) -> None:
    """Counts in the object until the lock is released or lost."""
    while not self._released.wait(_BEAT):
      start = time.monotonic()
      with self._outage_reported():
        self._look()
        if self._taken:
          return
        self._holder["count"] += 1
        files.write_bytes(self._path, self._contents())
        self._counted = start

  def _look(self) -> None:
    """Notes who has taken the lock over, if anyone has."""
    try:
      holder = _read(self._object(self._numbers()[-1]))
    except IndexError:
      self._taken = "a process that has ended"
      return
    if holder.get("token") != self._holder["token"]:
      self._taken = f"process {holder.get('process')} on {holder.get('host')}"

  @contextlib.contextmanager
  def _outage_reported(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      logging.warning("the lock of %s: %s", self._what, error)

  def _contents(self) -> bytes:
    return json.dumps(self._holder).encode()

  def _object(self, number: int) -> Path:
    return self._folder / f"{number:06d}"

  def _numbers(self) -> list[int]:
    try:
      names = [path.name for path in self._folder.iterdir()]
    except FileNotFoundError:
      return []
    return sorted(int(name) for name in names if name.isdecimal())


def _read(path: Path) -> dict[str, Any]:
  """Returns the holder in an object; {} if there is none."""
  try:
    holder = files.read_json(path)
  except FileNotFoundError:
    return {}
  except ValueError:
    return {"process": "?", "host": "?"}
  return holder if isinstance(holder, dict) else {}


def _ended_here(holder: dict[str, Any]) -> bool:
  """Returns whether a holder ran on this machine and has ended."""
  if not holder.get("machine") or holder["machine"] != _machine():
    return False
  try:
    os.kill(int(holder["process"]), 0)
  except ProcessLookupError:
    return True
  except (OSError, TypeError, ValueError):
    return False
  return False


def _machine() -> str:
  """Returns an identifier of this boot of the host, and of its container."""
  try:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return ""
