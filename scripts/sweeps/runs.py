"""Trains the runs of a sweep, each in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def train(folder: Path, flags: Sequence[str]) -> int:
  """Trains a run, or continues it.

  Args:
    folder: Its workdir.
    flags: The other flags of `experiments.train`.

  Returns:
    The exit status; one of `STOPPED` if the run saved and stopped early.
  """
  command = [
    sys.executable, "-m", "experiments.train", f"--workdir={folder}", *flags,
  ]  # fmt: skip
  print(" ".join(command[1:]), flush=True)
  return _wait(subprocess.Popen(command))


def check_same(folder: Path, flags: Sequence[str]) -> None:
  """Saves the flags of a new run, or checks those of an existing one.

  They are beside the folder, in FOLDER.json, since a run may fail before it
  creates its workdir.

  Args:
    folder: Workdir of the run.
    flags: Flags of `experiments.train`; the first is --config=FILE:VARIANT.

  Raises:
    UserError: The run was made with other flags.
  """
  # The config's own path may have moved.
  wanted = [flags[0].rpartition(":")[2], *flags[1:]]
  path = folder.with_name(f"{folder.name}.json")
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    metric_writers.write_json(path, {"flags": wanted})
  saved = json.loads(path.read_text(encoding="utf-8"))["flags"]
  if saved != wanted:
    raise UserError(
      f"{folder} belongs to another sweep, with {' '.join(saved)}; give"
      " another --out"
    )


def _wait(process: subprocess.Popen) -> int:
  """Waits for a run, and passes on a request to save and stop."""
  stop = lambda *_: process.send_signal(signal.SIGTERM)
  before = signal.signal(signal.SIGTERM, stop)
  try:
    return process.wait()
  except KeyboardInterrupt:  # The terminal interrupts the run too.
    return process.wait()
  finally:
    signal.signal(signal.SIGTERM, before)
