"""Starts runs on images in a folder, and watches them."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.torture import task

_ROOT = Path(__file__).parents[2]
# Seconds that a run may take to do what is waited for.
_PATIENCE = 400.0
_IMAGES_PER_CLASS = 12
# Prefixes of metrics that differ between equal runs.
_MEASURED = ("speed/", "memory/")
_LEAVES = {
  "task": f"{task.__name__}:{task.FaultyImages.__name__}",
  "data.source": "image_folder",
  "checkpoint.every_steps": 4,
  "log.every_steps": 1,
  "log.tensorboard": False,
  "eval_every_steps": 50,
}


class UnexpectedError(Exception):
  """A run did something else than it should."""


class Lab:
  """Runs with the same config and data.

  Args:
    folder: Folder for the data and everything else that runs share.
    num_steps: Length of the runs.
  """

  def __init__(self, folder: Path, num_steps: int):
    self.num_steps = num_steps
    self.images, self._faults = folder / "images", folder / "faults"
    self._faults.mkdir(parents=True)
    _write_digits(self.images)
    self._environment = os.environ | {
      task.VARIABLE: str(self._faults),
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "XLA_FLAGS": "",
    }

  def fault(self, name: str) -> Path:
    """Returns the file whose existence is a fault of the data."""
    return self._faults / name

  def start(
    self,
    workdir: Path,
    leaves: Sequence[str] = (),
    images: Path | None = None,
    max_file_bytes: int = 0,
  ) -> "Run":
    """Starts or resumes a run.

    Args:
      workdir: Its folder.
      leaves: More leaves, as LEAF=VALUE.
      images: Folder of the images, if they were moved.
      max_file_bytes: Limit on the size of files, like that of a full disk; 0
        for none.
    """
    shared = _LEAVES | {
      "num_steps": self.num_steps,
      "data.source_args.image_folder.directory": images or self.images,
    }
    return Run(
      [
        *(sys.executable, "-m", "experiments.train", f"--workdir={workdir}"),
        "--config=configs/digits.py:smoke",
        *(f"--config.{leaf}={value}" for leaf, value in shared.items()),
        *(f"--config.{leaf}" for leaf in leaves),
      ],
      workdir,
      self._environment,
      max_file_bytes,
    )


class Run:
  """A process that trains."""

  def __init__(
    self,
    command: Sequence[str],
    workdir: Path,
    environment: dict[str, str],
    max_file_bytes: int,
  ):
    self.workdir = workdir
    workdir.parent.mkdir(parents=True, exist_ok=True)
    if max_file_bytes:  # Half-written programs would slow other runs down.
      environment = environment | {"JAX_COMPILATION_CACHE_DIR": ""}
    self._errors = workdir.with_name(f"{workdir.name}.stderr")
    with self._errors.open("w") as errors:
      self.process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=errors,
      )
    if max_file_bytes:
      limits = (max_file_bytes, max_file_bytes)
      resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)

  def errors(self) -> str:
    """Returns what the run has written to stderr."""
    return self._errors.read_text(errors="replace")

  def wait_for(self, condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds.

    Raises:
      UnexpectedError: The run ends before, or takes too long.
    """
    end = time.monotonic() + _PATIENCE
    while not condition():
      if self.process.poll() is not None:
        raise UnexpectedError(
          f"waiting for {what}, the run ended with status"
          f" {self.process.returncode}: {self.errors()[-2000:]}"
        )
      if time.monotonic() > end:
        self.end(signal.SIGKILL)
        raise UnexpectedError(f"no {what} in {_PATIENCE:g} s")
      time.sleep(0.005)

  def advance(self, steps: int) -> None:
    """Waits until a number of further steps is recorded."""
    # A run that resumes from an earlier step removes the records after it.
    before = _lines(self.workdir)
    self.wait_for(lambda: self._started_at(before), "start")
    target = last_step(self.workdir) + steps
    self.wait_for(lambda: last_step(self.workdir) >= target, f"step {target}")

  def end(self, signal_number: int | None = None) -> int:
    """Sends a signal if one is given; returns the status when it has ended.

    Raises:
      UnexpectedError: It does not end.
    """
    if signal_number is not None:
      self.process.send_signal(signal_number)
    try:
      return self.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired as error:
      self.process.kill()
      self.process.wait()
      raise UnexpectedError(
        f"the run did not end in {_PATIENCE:g} s"
      ) from error

  def expect(self, status: int, text: str = "") -> None:
    """Waits for the end.

    Raises:
      UnexpectedError: The status is another, or stderr lacks a text.
    """
    actual = self.end()
    if actual != status or text not in self.errors():
      raise UnexpectedError(
        f"status {actual}, not {status}, or no {text!r} in:"
        f" {self.errors()[-2000:]}"
      )

  def _started_at(self, before: bytes) -> bool:
    return _lines(self.workdir) != before


def last_step(workdir: Path) -> int:
  """Returns the last step that is recorded; 0 if there is none."""
  lines = _lines(workdir).rpartition(b"\n")[0].splitlines()
  return json.loads(lines[-1])["step"] if lines else 0


def records(workdir: Path) -> list[dict[str, float]]:
  """Returns the recorded metrics without speed and memory."""
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(_MEASURED)}
    for line in _lines(workdir).splitlines()
  ]


def checkpoints(workdir: Path) -> list[Path]:
  """Returns the folders of complete checkpoints, the oldest first."""
  folder = workdir / "checkpoints"
  found = [p for p in folder.glob("*") if p.name.isdecimal()]
  return sorted(found, key=lambda path: int(path.name))


def is_saving(workdir: Path) -> bool:
  """Returns whether a checkpoint is being written."""
  names = (path.name for path in (workdir / "checkpoints").glob("*"))
  return any(not name.isdecimal() for name in names)


def _lines(workdir: Path) -> bytes:
  try:
    return (workdir / "metrics.jsonl").read_bytes()
  except FileNotFoundError:
    return b""


def _write_digits(folder: Path) -> None:
  """Writes some of scikit-learn's digits as images."""
  from sklearn import datasets

  from perceiver_jax.viz import image_layout

  images, labels = datasets.load_digits(return_X_y=True)
  for label in range(10):
    mine = images[labels == label].reshape(-1, 8, 8)
    for number, image in enumerate(mine[: 2 * _IMAGES_PER_CLASS]):
      split = ("train", "test")[number % 2]
      target = folder / split / str(label)
      target.mkdir(parents=True, exist_ok=True)
      gray = (image * 255 / 16).astype("uint8")[..., None]
      (target / f"{number:03d}.png").write_bytes(image_layout.png_bytes(gray))


def differences(run: Path, other: Path) -> list[str]:
  """Returns what differs between two finished runs."""
  name = "model.safetensors"
  different = []
  if (run / name).read_bytes() != (other / name).read_bytes():
    different.append("parameters")
  if records(run) != records(other):
    different.append("metrics")
  return different
