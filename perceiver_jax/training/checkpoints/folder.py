"""Lists, ranks, deletes and quarantines the checkpoints of a directory.

Only manifests are read. Only checkpoints that a newer one has superseded, and
the remains of a failed save, are deleted.
"""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from perceiver_jax import files
from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints import manifest as manifest_lib

_QUARANTINE_DIRECTORY = "checkpoints_quarantine"


class CheckpointFolder:
  """A directory with one checkpoint for each saved step.

  Args:
    directory: where the checkpoints are; local, relative or gs://.
    read_only: never write, move or delete anything.

  Raises:
    UserError: if the directory can't be made, or is in a bucket that Orbax
      can't use.
  """

  def __init__(self, directory: epath.PathLike, *, read_only: bool = False):
    files.check_takes_checkpoints(directory, "--workdir")
    path = epath.Path(directory)
    self.path = path if files.is_remote(path) else path.resolve()
    self._read_only = read_only
    if read_only:
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"can't make {self.path}: {manifest_lib.one_line(error)}; "
        "give another --workdir"
      ) from error

  def __truediv__(self, step: int) -> epath.Path:
    return self.path / str(step)

  def steps(self) -> list[int]:
    """Returns the steps that have a finished checkpoint, ascending."""
    return sorted(ocp.utils.checkpoint_steps(self.path))

  def agreed_steps(self) -> list[int]:
    """Returns the `steps()` of the first process in all processes.

    File systems may show different listings to different machines.
    """
    steps = self.steps()
    count = from_first_process(len(steps))
    return from_first_process((steps + [0] * count)[:count])

  def best_first(
    self, metric: str, mode: str
  ) -> tuple[list[int], dict[int, Exception]]:
    """Ranks the steps by a metric.

    Args:
      metric: name of the metric.
      mode: 'max' or 'min'.

    Returns:
      The steps that have the metric, the best and newest first, and the error
      for each step that can't be read.
    """
    sign = 1 if mode == "max" else -1
    ranks, unreadable = {}, {}
    for step in self.steps():
      try:
        metrics = manifest_lib.read_manifest(self / step).metrics
      except (
        manifest_lib.UnreadableError,
        manifest_lib.UnavailableError,
      ) as error:
        unreadable[step] = error
        continue
      if np.isfinite(value := metrics.get(metric, np.nan)):
        ranks[step] = sign * value, step
    return sorted(ranks, key=ranks.get, reverse=True), unreadable

  def keep_only(self, kept: Iterable[int]) -> None:
    """Deletes the checkpoints of all other steps, if it can."""
    if jax.process_index() != 0:
      return
    for step in {*self.steps()} - {*kept}:
      try:
        (self / step).rmtree()
      except OSError as error:
        reason = manifest_lib.one_line(error)
        logging.warning(
          "can't remove the old checkpoint %s: %s", self / step, reason
        )

  def remove_unfinished(self, step: int) -> None:
    """Deletes the remains of a failed save of `step` if possible.

    The disk is probably full. Any remains are quarantined at the next start.
    """
    if jax.process_index() != 0:
      return
    for _ in range(5):
      remains = [path for path in self._unfinished() if _step(path) == step]
      if not remains:
        return
      for path in remains:
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
      for step, reason in damaged.items():
        self._quarantine(self / step, f"can't be read: {reason}", instead)
      for path in () if self._read_only else self._unfinished():
        self._quarantine(path, "was never finished", instead)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("checkpoints quarantined")

  def _unfinished(self) -> list[epath.Path]:
    paths = ocp.path.step.all_temporary_paths(self.path)
    return sorted(path.get() for path in paths)

  def _quarantine(self, path: epath.Path, reason: str, instead: str) -> None:
    moved = ""
    if not self._read_only:
      moved = f"; moved to {_move_to_quarantine(path)}"
    logging.warning(
      "the checkpoint of step %s %s; %s%s", _step(path), reason, instead, moved
    )


def _step(path: epath.Path) -> int:
  return ocp.utils.step_from_checkpoint_name(path.name)


def _move_to_quarantine(path: epath.Path) -> epath.Path:
  quarantine = path.parent.parent / _QUARANTINE_DIRECTORY
  number = 1
  while (target := quarantine / f"{_step(path)}-{number}").exists():
    number += 1
  try:
    quarantine.mkdir(exist_ok=True)
    files.move_folder(path, target)
  except OSError as error:
    raise UserError(
      f"can't move the unreadable checkpoint {path} to {target}: "
      f"{manifest_lib.one_line(error)}; move it away by hand"
    ) from error
  return target


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
