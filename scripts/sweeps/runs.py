"""Trains the runs of a sweep, each in a process of its own."""

import errno
import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.buckets import lock as lock_lib
from perceiver_jax.errors import UserError
from perceiver_jax.training.logs import metric_writers

# Exit statuses of a run that stopped after saving; see `experiments.launch`.
STOPPED = (75, 130)


def is_finished(folder: Path) -> bool:
  """Returns whether the run in a folder wrote its results."""
  return (folder / "results.json").exists()


def results(folder: Path) -> dict[str, Any]:
  """Returns the contents of `results.json` of a finished run."""
  return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def last_step(folder: Path) -> int:
  """Returns the last step whose metrics a run has written, or 0."""
  path = folder / "metrics.jsonl"
  records = metric_writers.read_metrics(path) if path.is_file() else []
  return int(max((record["step"] for record in records), default=0))


def command(folder: Path, flags: Sequence[str]) -> list[str]:
  """Returns the words of the command that trains a run, or continues it."""
  return [
    sys.executable, "-m", "experiments.train", f"--workdir={folder}", *flags,
  ]  # fmt: skip


def start(
  folder: Path,
  flags: Sequence[str],
  claim: "AnyClaim",
  environment: Mapping[str, str],
  log: TextIO | None,
) -> subprocess.Popen:
  """Starts to train a run, or to continue it.

  Args:
    folder: Its workdir.
    flags: The other flags of `experiments.train`.
    claim: The claim on it, which the process keeps too: if this one is killed,
      another does not take a run that still trains.
    environment: Variables to add to the environment.
    log: File of its output; None for that of this process.
  """
  words = command(folder, flags)
  print(shlex.join(words[1:]), flush=True)
  return subprocess.Popen(
    words,
    env=os.environ | environment,
    pass_fds=claim.descriptors(),
    stdout=log,
    stderr=log and subprocess.STDOUT,
  )


class Claim:
  """The right to train a run, held by one process at a time.

  Attributes:
    status: Exit status with which another process released it, or 0.
  """

  def __init__(self, file: TextIO):
    self._file = file
    file.seek(0)
    text = file.read().strip()
    self.status = int(text) if text.lstrip("-").isdecimal() else 0
    self._write("")

  def descriptors(self) -> tuple[int, ...]:
    """Returns the descriptor that holds the lock."""
    return (self._file.fileno(),)

  def release(self, status: int) -> None:
    """Gives the run free, and tells others how it ended."""
    self._write(str(status))
    self._file.close()

  def _write(self, text: str) -> None:
    self._file.seek(0)
    self._file.truncate()
    self._file.write(text)
    self._file.flush()


class BucketClaim:
  """A claim on a run in a bucket; see `Claim`.

  The process that trains the run does not keep it, but locks the workdir.
  """

  def __init__(self, path: Path):
    self._lock = lock_lib.BucketLock(path, str(path), quiet=True)
    self._status = path / "status"
    text = "0"
    if self._status.exists():
      text = self._status.read_text().strip()
      self._status.unlink(missing_ok=True)
    self.status = int(text) if text.lstrip("-").isdecimal() else 0

  def descriptors(self) -> tuple[int, ...]:
    """Returns (), since no file of this machine is locked."""
    return ()

  def release(self, status: int) -> None:
    """Releases the run, and tells others how it ended."""
    files.write_text(self._status, str(status))
    self._lock.release()


AnyClaim = Claim | BucketClaim


def claim(folder: Path) -> AnyClaim | None:
  """Returns the claim on a run; None if another process has it.

  Its lock is on a file beside the folder, FOLDER.claim.
  """
  path = folder.with_name(f"{folder.name}.claim")
  if files.is_remote(folder):
    try:
      return BucketClaim(path)
    except UserError:
      return None
  path.parent.mkdir(parents=True, exist_ok=True)
  file = path.open("a+", encoding="utf-8")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  except OSError as error:
    # Some mounts of buckets have no locks: then nothing else may join.
    if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
      raise
  return Claim(file)


def check_sweep(out: Path, sweep: Mapping[str, Any]) -> None:
  """Saves what a new sweep is, or checks that of an existing one.

  Args:
    out: Folder of the sweep.
    sweep: Names of its runs, under "runs", and what else makes it up.

  Raises:
    UserError: The folder has another sweep, or can't be written.
  """
  saved = _saved(out / "runs.json", sweep)
  if saved == json.loads(json.dumps(sweep)):
    return
  before, now = set(saved.get("runs", ())), set(sweep["runs"])
  changes = [f"+ {name}" for name in sorted(now - before)]
  changes += [f"- {name}" for name in sorted(before - now)]
  shown = "; ".join(changes[:3]) or "its order or search"
  raise UserError(
    f"--out={out} has another sweep ({shown}{'; ...' * (len(changes) > 3)});"
    " give another --out"
  )


def check_same(folder: Path, flags: Sequence[str]) -> None:
  """Saves the flags of a new run, or checks those of an existing one.

  They are beside the folder, in FOLDER.json, since a run may fail before it
  creates its workdir.

  Args:
    folder: Workdir of the run.
    flags: Flags of `experiments.train`; the first is --config=FILE:VARIANT.

  Raises:
    UserError: The run was made with other flags, or the folder can't be
      written.
  """
  # The config's own path may have moved.
  wanted = [flags[0].rpartition(":")[2], *flags[1:]]
  path = folder.with_name(f"{folder.name}.json")
  saved = _saved(path, {"flags": wanted}).get("flags")
  if saved != wanted:
    raise UserError(
      f"{folder} belongs to another sweep, with {' '.join(saved or [])}; give"
      " another --out"
    )


def _saved(path: Path, new: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the contents of a file of a sweep, written first if it is missing.

  Raises:
    UserError: The file is damaged, or can't be written.
  """
  if not path.exists():
    with outputs.writing(path, "another --out"):
      path.parent.mkdir(parents=True, exist_ok=True)
      metric_writers.write_json(path, new)
  try:
    return dict(files.read_json(path))
  except (OSError, TypeError, ValueError) as error:
    raise UserError(
      f"{path} is damaged ({error}); delete it to take what is there for this"
      " sweep, or give another --out"
    ) from error
