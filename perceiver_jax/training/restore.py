"""Restores a trained model from a workdir, for evaluation and prediction."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from perceiver_jax.errors import UserError
from perceiver_jax.training import step as step_lib
from perceiver_jax.training import train_program, workdir
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task


class Restored(NamedTuple):
  """A model with the parameters of one checkpoint.

  Attributes:
    model: see `step.model_of`.
    state: training state on `mesh`; its parameters are replicated.
    step: step of the checkpoint.
    mesh: mesh of all devices.
  """

  model: hk.TransformedWithState
  state: step_lib.TrainState
  step: int
  mesh: Mesh


def abstract_state(
  config: ml_collections.ConfigDict, task: "Task", mesh: Mesh
) -> step_lib.TrainState:
  """Returns the shapes and shardings of the training state of a config."""
  # The state's structure does not depend on the length of the schedule.
  num_steps = max(config.optimizer.get("warmup_steps", 0) + 1, 2)
  return train_program.from_config(config, task, mesh, num_steps).state


def restore(
  config: ml_collections.ConfigDict, task: "Task", folder: Path, which: str
) -> Restored:
  """Restores a checkpoint without touching the folder.

  Args:
    config: config of the run.
    task: task of the run.
    folder: the run's workdir.
    which: "latest", "best" or a step.

  Raises:
    UserError: there is no such checkpoint, or none can be read.
  """
  mesh = step_lib.make_mesh()
  abstract = abstract_state(config, task, mesh)
  checkpointer = Checkpointer(
    folder / workdir.CHECKPOINTS,
    best_metric=task.primary_metric,
    best_mode=task.primary_mode,
    read_only=True,
  )
  try:
    if which == "latest":
      restored = checkpointer.restore_latest(abstract)
    elif which == "best":
      restored = checkpointer.restore_best(abstract)
    else:
      restored = checkpointer.restore(_step(which), abstract)
  finally:
    checkpointer.close()
  if restored is None:
    raise UserError(
      f"--workdir={folder} has no checkpoint yet; train first, or give"
      " another --workdir"
    )
  model = step_lib.model_of(task, config.precision)
  return Restored(model, restored.state, restored.step, mesh)


def predictor(restored: Restored, **options: Any) -> Callable[[Any], Any]:
  """Returns a function from a batch to model outputs, as NumPy arrays.

  It runs in this process alone.

  Args:
    restored: result of `restore`.
    **options: options of the task's `forward`.
  """
  # Avoid capturing `restored`, so that its optimizer state can be freed.
  variables = jax.device_put(local_params(restored.state))
  model = restored.model
  apply = jax.jit(
    lambda variables, batch: model.apply(
      *variables, None, batch, False, **options
    )[0]
  )
  return lambda batch: jax.device_get(apply(variables, batch))


def split_predictor(restored: Restored) -> Callable[[Any], Any]:
  """Returns `predictor`, with batches split over this process's devices."""
  mesh = Mesh(np.array(restored.mesh.local_devices), (step_lib.AXIS,))
  model = restored.model

  @functools.cache
  def variables():
    return jax.device_put(
      local_params(restored.state), step_lib.replicated(mesh)
    )

  apply = jax.jit(lambda v, b: model.apply(*v, None, b, False)[0])

  def predict(batch):
    size = len(next(iter(batch.values())))
    # Repeats the last example, so that all devices have the same number.
    order = np.minimum(np.arange(size + -size % mesh.size), size - 1)
    full = {name: np.asarray(value)[order] for name, value in batch.items()}
    placed = step_lib.place_batch(full, mesh)
    outputs = jax.device_get(apply(variables(), placed))
    return jax.tree.map(lambda x: x[:size], outputs)

  return predict


def local_params(state: step_lib.TrainState) -> tuple[Any, Any]:
  """Returns the parameters to evaluate and the net state as local arrays."""
  take = lambda x: np.asarray(x.addressable_data(0))
  return jax.tree.map(take, (state.eval_params, state.net_state))


def _step(which: str) -> int:
  if not which.isdecimal():
    raise UserError(f"--checkpoint={which}: give latest, best or a step")
  return int(which)
