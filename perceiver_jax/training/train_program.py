"""Builds a config's model, state and train step."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import haiku as hk
import ml_collections
import optax
from jax.sharding import Mesh

from perceiver_jax.data.core.source import Batch
from perceiver_jax.training import optimizer_sharding, optimizers
from perceiver_jax.training import step as step_lib

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task


class TrainProgram(NamedTuple):
  """The functions of a run, and the shapes of its state.

  Attributes:
    model: see `step.model_of`.
    schedule: learning rate by step.
    init: see `step.make_init`.
    state: shapes and shardings of the state in a checkpoint; see
      `step.abstract_state`.
    step: the pmapped train step; see `step.make_train_step`.
  """

  model: hk.TransformedWithState
  schedule: optax.Schedule
  init: Callable[[Batch], step_lib.TrainState]
  state: step_lib.TrainState
  step: Any


def from_config(
  config: ml_collections.ConfigDict, task: "Task", mesh: Mesh, num_steps: int
) -> TrainProgram:
  """Returns the train program of a config, without compiling it.

  Args:
    config: config of the run.
    task: the task to train on.
    mesh: devices of the run; see `step.make_mesh`.
    num_steps: length of the run.

  Raises:
    UserError: the model or the optimizer can't be built from the config.
  """
  # Runs of older versions don't have this leaf.
  is_sharded = config.get("shard_optimizer_state", False)
  optimizer, schedule = optimizers.from_config(
    config.optimizer, num_steps, config.batch_size, mesh if is_sharded else None
  )
  model = step_lib.model_of(task, config.precision)
  init = step_lib.make_init(
    model, optimizer, config.seed, use_ema=bool(config.ema_decay)
  )
  state = step_lib.abstract_state(
    init, task.dummy_batch(), mesh, shard_optimizer_state=is_sharded
  )
  step = step_lib.make_train_step(
    model,
    task,
    optimizer,
    mesh,
    num_microbatches=config.num_microbatches,
    ema_decay=config.ema_decay,
    state_axes=optimizer_sharding.pmap_axes(state),
  )
  return TrainProgram(model, schedule, init, state, step)
