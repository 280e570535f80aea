"""Saves the whole state of a run and restores it exactly.

    directory/<step>/state   the arrays, one entry for each leaf of the state
    directory/<step>/extras  the manifest: data position, extras, checksums

Orbax writes a checkpoint under a temporary name and renames it when it is
complete. This module adds checksums (`manifest`): a damaged checkpoint is
reported, quarantined and never used, and an old checkpoint is deleted only once
a newer one is complete. With several processes, all of them must make the same
calls in the same order.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints import folder as folder_lib
from perceiver_jax.training.checkpoints import manifest as manifest_lib

_T = TypeVar("_T")


class Restored(NamedTuple):
  """A restored checkpoint.

  Attributes:
    step: step at which it was saved.
    state: tree of arrays, as described by the abstract state.
    extras: the extras given to `save`, after a JSON round trip.
  """

  step: int
  state: Any
  extras: dict[str, Any]


class Checkpointer:
  """Saves and restores checkpoints in one directory.

  Args:
    directory: where the checkpoints are; local, relative or gs://.
    keep_latest: how many of the newest checkpoints are kept, at least 1.
    keep_best: how many of the best checkpoints are also kept.
    best_metric: metric that ranks checkpoints, or '' for none.
    best_mode: 'max' or 'min'.
    read_only: never write, move or delete anything.

  Raises:
    UserError: if an argument is out of range or the directory can't be made.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    *,
    keep_latest: int = 2,
    keep_best: int = 1,
    best_metric: str = "",
    best_mode: str = "max",
    read_only: bool = False,
  ):
    if keep_latest < 1 or keep_best < 0 or best_mode not in ("max", "min"):
      raise UserError(
        f"keep_latest={keep_latest}, keep_best={keep_best}, best_mode="
        f"{best_mode!r}: need keep_latest >= 1, keep_best >= 0 and best_mode "
        "'max' or 'min'; change the checkpoint leaves of the config"
      )
    manifest_lib.quiet_orbax()
    self._folder = folder_lib.CheckpointFolder(directory, read_only=read_only)
    self._keep_latest, self._keep_best = keep_latest, keep_best
    self._best_metric, self._best_mode = best_metric, best_mode
    self._read_only = read_only
    self._saving: int | None = None
    # Create directories before `save` returns. Otherwise a missing permission
    # would leave Orbax waiting for a thread that has already failed.
    options = ocp.AsyncOptions(create_directories_asynchronously=False)
    self._handler = ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(async_options=options)
    )
    self._orbax = ocp.AsyncCheckpointer(self._handler, async_options=options)

  def steps(self) -> list[int]:
    """Returns the steps that have a finished checkpoint, ascending."""
    return self._folder.steps()

  def best_step(self) -> int | None:
    """Returns the step with the best metric, None if no step has it.

    Raises:
      UserError: if a checkpoint that may be the best can't be read now.
    """
    best, unreadable = self._best_first()
    for error in unreadable.values():
      if isinstance(error, manifest_lib.UnavailableError):
        raise error
    return next(iter(best), None)

  def save(
    self,
    step: int,
    state: Any,
    data_iterator: Any,
    extras: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Saves a checkpoint asynchronously, returning once arrays are copied.

    An existing checkpoint of the same step is kept unchanged, because a run
    always has the same state at the same step.

    Args:
      step: number of finished training steps.
      state: tree of arrays, replicated or sharded over all devices.
      data_iterator: iterator whose `get_state()` is JSON-able and the same in
        all processes (see `data.pipeline`), or None.
      extras: JSON-able data, the same in all processes.
      metrics: evaluation metrics at this step, if any.

    Raises:
      UserError: if this save, or an earlier one that was still being written,
        failed.
    """
    if self._read_only:
      raise ValueError("this Checkpointer is read-only")
    self.wait()
    if step in self._folder.agreed_steps():
      return
    items = _make_items(state, data_iterator, extras, metrics or {})
    try:
      self._orbax.save(self._folder / step, args=ocp.args.Composite(**items))
    except Exception as error:
      raise self._save_failed(step, error) from error
    self._saving = step

  def wait(self) -> None:
    """Waits until the last save is durable, then removes superseded ones.

    Raises:
      UserError: if it could not be written.
    """
    if self._saving is None:
      return
    step, self._saving = self._saving, None
    try:
      self._orbax.wait_until_finished()
    except Exception as error:
      raise self._save_failed(step, error) from error
    latest = self.steps()[-self._keep_latest :]
    best, unreadable = self._best_first()
    # A step that can't be read may be the best one.
    self._folder.keep_only({*latest, *best[: self._keep_best], *unreadable})

  def restore_latest(
    self, abstract_state: Any, data_iterator: Any = None
  ) -> Restored | None:
    """Restores the newest readable checkpoint.

    Each newer one that can't be read is reported and, unless read-only, set
    aside in `checkpoints_quarantine` next to the directory, so that its step
    can be saved again.

    Args:
      abstract_state: tree of `jax.ShapeDtypeStruct` with shardings.
      data_iterator: iterator to be set to the stored position.

    Returns:
      The checkpoint, or None if none was ever finished.

    Raises:
      UserError: if there are checkpoints but none can be read, if one can't
        be read now but may be intact, or if one belongs to another model or
        data pipeline. In all cases nothing is moved.
    """
    self.wait()
    damaged: dict[int, str] = {}
    for step in reversed(self._folder.agreed_steps()):
      try:
        restored = self._restore(step, abstract_state, data_iterator)
      except manifest_lib.UnreadableError as error:
        damaged[step] = str(error)
        continue
      self._folder.quarantine(damaged, f"step {step} is used instead")
      return restored
    if damaged:
      reasons = "; ".join(f"step {s}: {why}" for s, why in damaged.items())
      raise UserError(
        f"no checkpoint in {self._folder.path} can be read ({reasons}); put "
        "back a good copy, or use another --workdir to start afresh"
      )
    self._folder.quarantine({}, "no checkpoint was finished before")
    return None

  def restore(
    self, step: int, abstract_state: Any, data_iterator: Any = None
  ) -> Restored:
    """Restores the checkpoint of one step, see `restore_latest`.

    Raises:
      UserError: if it does not exist, can't be read or does not fit.
    """
    self.wait()
    if step not in self._folder.agreed_steps():
      raise UserError(f"no checkpoint of step {step}: {self._choices(step)}")
    try:
      return self._restore(step, abstract_state, data_iterator)
    except manifest_lib.UnreadableError as error:
      raise UserError(
        f"the checkpoint {self._folder / step} can't be read: {error}; "
        f"{self._choices(step)}"
      ) from error

  def restore_best(
    self, abstract_state: Any, data_iterator: Any = None
  ) -> Restored:
    """Restores the checkpoint with the best metric, see `restore_latest`.

    Raises:
      UserError: if no checkpoint has the metric, or as `restore` does.
    """
    self.wait()
    step = self.best_step()
    step = folder_lib.from_first_process(-1 if step is None else step)
    if step < 0:
      raise UserError(
        f"no checkpoint with the metric {self._best_metric!r}: "
        f"{self._choices(step)}"
      )
    return self.restore(step, abstract_state, data_iterator)

  def close(self) -> None:
    """Waits for the last save and ends the writing threads.

    Raises:
      UserError: if the last save could not be written.
    """
    try:
      self.wait()
    finally:
      try:
        self._orbax.close()
      except Exception as error:  # Of a save whose error is reported already.
        logging.info("after a failed save: %s", manifest_lib.one_line(error))

  def _best_first(self) -> tuple[list[int], dict[int, Exception]]:
    return self._folder.best_first(self._best_metric, self._best_mode)

  def _choices(self, step: int) -> str:
    others = ", ".join(str(s) for s in self.steps() if s != step)
    return f"{self._folder.path} has step {others or '(none)'}; choose another"

  def _restore(
    self, step: int, abstract_state: Any, data_iterator: Any
  ) -> Restored:
    """Restores one step; raises `UnreadableError` in all processes or none."""
    path, abstract = self._folder / step, manifest_lib.flatten(abstract_state)
    manifest, leaves = _read_in_all_processes(
      lambda: self._read(path, abstract)
    )
    # The processes exchange the parts of sharded arrays for their checksums.
    _read_in_all_processes(lambda: manifest_lib.check_values(manifest, leaves))
    state = jax.tree.unflatten(
      jax.tree.structure(abstract_state), [leaves[name] for name in abstract]
    )
    if data_iterator is not None:
      _set_position(data_iterator, manifest.data, str(self._folder / step))
    return Restored(step, state, manifest.extras)

  def _read(
    self, path: epath.Path, abstract: dict[str, Any]
  ) -> tuple[manifest_lib.Manifest, dict[str, Any]]:
    manifest = manifest_lib.read_manifest(path)
    manifest_lib.check_fits(manifest, abstract, f"the checkpoint {path}")
    return manifest, self._read_leaves(path, abstract)

  def _read_leaves(
    self, path: epath.Path, abstract: dict[str, Any]
  ) -> dict[str, Any]:
    items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    try:
      # `AsyncCheckpointer.restore` would then wait for all processes, also for
      # one that can't read its part.
      return self._handler.restore(path, args=items)["state"]
    except (jax.errors.JaxRuntimeError, MemoryError):
      raise  # an error of the machine, not of the checkpoint
    except Exception as error:
      manifest_lib.check_is_damage(error, path)
      raise manifest_lib.UnreadableError(
        manifest_lib.read_reason(error)
      ) from error

  def _save_failed(self, step: int, error: Exception) -> UserError:
    self._folder.remove_unfinished(step)
    steps = self.steps()
    last = f"is step {steps[-1]}" if steps else "does not exist yet"
    return UserError(
      f"the checkpoint of step {step} could not be written to "
      f"{self._folder.path}: {manifest_lib.one_line(error)}; the last good one "
      f"{last}; free space there or give another --workdir"
    )


def _read_in_all_processes(read: Callable[[], _T]) -> _T:
  """Calls a function, and raises `UnreadableError` in all processes or none."""
  error = None
  try:
    result = read()
  except manifest_lib.UnreadableError as unreadable:
    error = unreadable
  if not folder_lib.in_all_processes(error is None):
    raise error or manifest_lib.UnreadableError("unreadable in another process")
  return result


def _make_items(
  state: Any,
  data_iterator: Any,
  extras: Mapping[str, Any],
  metrics: Mapping[str, float],
) -> dict[str, Any]:
  leaves = manifest_lib.flatten(state)
  data = None if data_iterator is None else data_iterator.get_state()
  # Every process takes part in gathering what is sharded for its checksum.
  manifest = manifest_lib.make_manifest(leaves, extras, metrics, data)
  return {
    "state": ocp.args.StandardSave(leaves),
    manifest_lib.MANIFEST_ITEM: ocp.args.JsonSave(manifest),
  }


def _set_position(data_iterator: Any, position: Any, where: str) -> None:
  try:
    data_iterator.set_state(position)
  except Exception as error:
    raise UserError(
      f"the data position in {where} does not fit this data pipeline: "
      f"{manifest_lib.one_line(error)}; use the data settings it was saved "
      "with or another --workdir"
    ) from error
