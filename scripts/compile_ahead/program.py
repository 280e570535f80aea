"""Compiles the programs of a run for given devices, and describes them."""

import re
import time
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from experiments import evaluate_weights
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import evaluation, optimizers
from perceiver_jax.training import step as step_lib
from perceiver_jax.training.logs import run_summary


class Compiled(NamedTuple):
  """A compiled program, or why there is none.

  Attributes:
    seconds: Time to compile.
    text: The compiled module; "" if it does not fit.
    memory: Bytes a device: arguments, temporaries, code and outputs that are no
      arguments.
    exceeds_by: Bytes by which the program exceeds a device's memory; 0 if it
      fits.
    train_flops: Counted operations of a train step on all devices.
    attention: How attention is computed, such as "xla 512 x 512".
  """

  seconds: float
  text: str
  memory: dict[str, int]
  exceeds_by: int
  train_flops: float
  attention: list[str]


def compile_program(
  config: ml_collections.ConfigDict, name: str, devices: list[Any]
) -> Compiled:
  """Compiles a program just as `experiments.train` would run it.

  Args:
    config: Config of the run; its data is not read.
    name: "train", "evaluate" or "init".
    devices: Devices from `chips.devices`.

  Raises:
    UserError: The config does not fit the devices.
  """
  config = config.copy_and_resolve_references()
  config.execution.platform = "tpu"
  mesh = Mesh(np.array(devices), (step_lib.AXIS,))
  step_lib.check_batch_size(
    config.batch_size, mesh.size, config.num_microbatches
  )
  spec = config.model.to_dict()
  task = tasks.make_task(config, evaluate_weights.unnamed_classes(spec))
  # Schedules only differ in their constants.
  optimizer, _ = optimizers.from_config(config.optimizer, 1000, 1)
  model = step_lib.model_of(task, config.precision)
  example = task.dummy_batch()
  init = step_lib.make_init(
    model, optimizer, config.seed, use_ema=bool(config.ema_decay)
  )
  state = step_lib.abstract_state(init, example, mesh)
  if name == "init":
    fn = jax.jit(init, out_shardings=step_lib.replicated(mesh))
    args = (_abstract(example, step_lib.replicated(mesh)),)
  elif name == "evaluate":
    fn = evaluation.make_eval_step(model, task, mesh)
    args = (
      state.eval_params,
      state.net_state,
      _abstract(
        {
          name: np.broadcast_to(value, (config.batch_size, *value.shape[1:]))
          for name, value in example.items()
        },
        step_lib.batch_sharding(mesh),
      ),
    )
  else:
    fn = step_lib.make_train_step(
      model,
      task,
      optimizer,
      mesh,
      num_microbatches=config.num_microbatches,
      ema_decay=config.ema_decay,
    )
    share = config.batch_size // mesh.size
    split = {
      name: np.broadcast_to(value, (mesh.size, share, *value.shape[1:]))
      for name, value in example.items()
      if name != "mask"  # Only evaluation batches have padding.
    }
    args = (state, _abstract(split, step_lib.batch_sharding(mesh)))
  flops, attention = run_summary.trace_step(config, task, model, state, mesh)
  return _compile(fn.lower(*args), flops, attention)


def _compile(
  lowered: Any, train_flops: float, attention: list[str]
) -> Compiled:
  start = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    excess = excess_bytes(str(error))
    if not excess:
      raise
    seconds = time.perf_counter() - start
    return Compiled(seconds, "", {}, excess, train_flops, attention)
  seconds = time.perf_counter() - start
  stats = compiled.memory_analysis()
  memory = {
    "arguments": stats.argument_size_in_bytes,
    "temporaries": stats.temp_size_in_bytes,
    "code": stats.generated_code_size_in_bytes,
    "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
  }
  return Compiled(
    seconds, compiled.as_text(), memory, 0, train_flops, attention
  )


def _abstract(batch: Any, sharding: Any) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    for name, value in batch.items()
  }


def excess_bytes(message: str) -> int:
  """Returns the bytes that XLA says are missing, or 0 for another error."""
  size = r"([\d.]+)([KMG]?)"
  if match := re.search(rf"[Ee]xceeded hbm capacity by {size}", message):
    return max(1, _num_bytes(match[1], match[2]))
  # Where the temporaries alone are larger than the memory.
  temporaries = rf"temporaries \({size}\) exceeds available HBM \({size}\)"
  if match := re.search(temporaries, message):
    return _num_bytes(match[1], match[2]) - _num_bytes(match[3], match[4])
  return 0


def _num_bytes(number: str, unit: str) -> int:
  units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
  return int(float(number) * units[unit])
