"""Lists, ranks, deletes and quarantines the checkpoints of a directory.

Only manifests are read. Only checkpoints that a newer one has superseded, and
the remains of a failed save, are deleted.
"""

import contextlib
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints import manifest as manifest_lib

_UNFINISHED = ".orbax-checkpoint-tmp"
_QUARANTINE_DIRECTORY = "checkpoints_quarantine"


class CheckpointFolder:
  """Lists, ranks, removes and quarantines the checkpoints of one directory.

  Args:
    directory: where the checkpoints are; local, relative or gs://.
    best_metric: metric that ranks checkpoints, or '' for none.
    best_mode: 'max' or 'min'.
    read_only: never write, move or delete anything.

  Raises:
    UserError: if the directory can't be made.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    best_metric: str,
    best_mode: str,
    read_only: bool,
  ):
    path = epath.Path(directory)
    self.path = path if "://" in str(directory) else path.resolve()
    self._best_metric, self._best_mode = best_metric, best_mode
    self._read_only = read_only
    if not read_only:
      self._make()

  def __truediv__(self, step: int) -> epath.Path:
    return self.path / str(step)

  def steps(self) -> list[int]:
    """Returns the steps that have a finished checkpoint, ascending."""
    if not self.path.exists():
      return []
    paths = [p for p in self.path.iterdir() if p.name.isdecimal()]
    return sorted(int(path.name) for path in paths if path.is_dir())

  def agreed_steps(self) -> list[int]:
    """Returns the `steps()` of the first process in all processes.

    File systems may show different listings to different machines.
    """
    steps = self.steps()
    count = from_first_process(len(steps))
    padded = (steps + [0] * count)[:count]
    return from_first_process(padded)

  def best_first(self) -> list[int]:
    """Returns the steps that have the metric, the best and newest first."""
    values = {}
    for step in self.steps() if self._best_metric else ():
      value = self._metric(step)
      if value is not None:
        values[step] = value if self._best_mode == "max" else -value
    return sorted(values, key=lambda s: (values[s], s), reverse=True)

  def remove_superseded(self, keep_latest: int, keep_best: int) -> None:
    """Deletes all but the latest and the best checkpoints.

    Args:
      keep_latest: how many of the newest are kept, at least 1.
      keep_best: how many of the best are also kept.
    """
    if jax.process_index() != 0:
      return
    steps = self.steps()
    kept = {*steps[-keep_latest:], *self.best_first()[:keep_best]}
    for step in steps:
      if step not in kept:
        _remove(self / step)

  def remove_unfinished(self, step: int) -> None:
    """Deletes the remains of a failed save of `step` if possible.

    The disk is probably full. Any remains are quarantined at the next start.
    """
    if jax.process_index() != 0:
      return
    for _ in range(5):
      left = list(self.path.glob(f"{step}{_UNFINISHED}*"))
      if not left:
        return
      for path in left:
        with contextlib.suppress(OSError):
          path.rmtree()
      time.sleep(0.1)  # other files of this save may still be being written

  def quarantine(self, damaged: dict[int, str], instead: str) -> None:
    """Reports damaged checkpoints and, unless read-only, quarantines them.

    Unfinished checkpoints of a killed process are quarantined too, unless
    read-only: another process may still be writing them.

    Args:
      damaged: the reason for each step that can't be read.
      instead: what happens instead, for the message.

    Raises:
      UserError: if a directory can't be moved.
    """
    if jax.process_index() == 0:
      for step, why in damaged.items():
        self._quarantine(self / step, f"can't be read: {why}", instead)
      for path in () if self._read_only else self._unfinished():
        self._quarantine(path, "was never finished", instead)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("checkpoints quarantined")

  def _make(self) -> None:
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"can't make {self.path}: {manifest_lib.one_line(error)}; "
        "give another --workdir"
      ) from error

  def _metric(self, step: int) -> float | None:
    try:
      manifest = manifest_lib.read_manifest(self / step)
    except manifest_lib.UnreadableError:
      return None
    value = manifest.metrics.get(self._best_metric)
    return value if value is not None and np.isfinite(value) else None

  def _unfinished(self) -> list[epath.Path]:
    return sorted(self.path.glob(f"*{_UNFINISHED}*"))

  def _quarantine(self, path: epath.Path, why: str, instead: str) -> None:
    step = path.name.partition(_UNFINISHED)[0]
    moved = ""
    if not self._read_only:
      moved = f"; moved to {_move_to_quarantine(path, step)}"
    logging.warning(
      "the checkpoint of step %s %s; %s%s", step, why, instead, moved
    )


def _move_to_quarantine(path: epath.Path, step: str) -> epath.Path:
  aside = path.parent.parent / _QUARANTINE_DIRECTORY
  number = 1
  while (target := aside / f"{step}-{number}").exists():
    number += 1
  try:
    aside.mkdir(exist_ok=True)
    path.rename(target)
  except OSError as error:
    raise UserError(
      f"can't move the unreadable checkpoint {path} to {target}: "
      f"{manifest_lib.one_line(error)}; move it away by hand"
    ) from error
  return target


def _remove(path: epath.Path) -> None:
  try:
    path.rmtree()
  except OSError as error:
    reason = manifest_lib.one_line(error)
    logging.warning("can't remove the old checkpoint %s: %s", path, reason)


def from_first_process(value: Any) -> Any:
  """Returns the first process's number or list of numbers to all of them."""
  if jax.process_count() == 1:
    return value
  return multihost_utils.broadcast_one_to_all(np.asarray(value)).tolist()


def in_all_processes(flag: bool) -> bool:
  """Returns whether `flag` is true in every process."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).all())
