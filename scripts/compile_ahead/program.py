"""Compiles the programs of a run for given devices, and describes them."""

import hashlib
import math
import re
import time
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import evaluation, optimizer_sharding, train_program
from perceiver_jax.training import step as step_lib
from perceiver_jax.training.logs import run_summary
from scripts.compile_ahead import variants
from scripts.compile_ahead.chips import Chip

_NUM_STEPS = 1_000_000
_RESULT_NAME = re.compile(r'jax\.result_info = "[^"]*"')


class Lowered(NamedTuple):
  """A program before its compilation.

  Attributes:
    program: The result of `jax.jit(...).lower`.
    num_donated: Number of arrays of the state, which a train step donates.
    num_batch: Number of arrays of its batch.
    num_parameters: Number of the model's parameters.
    train_flops: Counted operations of a train step on all devices; 0 for
      another program.
    attention: How attention is computed, such as "xla 512 x 512".
    collectives: Kinds of collectives that the program may contain.
    held: Bytes a device that a run holds beside the program: the batches of
      queued steps, and during an evaluation the rest of the state.
  """

  program: Any
  num_donated: int
  num_batch: int
  num_parameters: int
  train_flops: float
  attention: list[str]
  collectives: tuple[str, ...]
  held: dict[str, int]

  @property
  def fingerprint(self) -> str:
    """Returns a checksum of the program and of what is held beside it.

    The names of the program's results don't matter.
    """
    text = _RESULT_NAME.sub("", self.program.as_text()) + str(self.held)
    return hashlib.sha256(text.encode()).hexdigest()


class Compiled(NamedTuple):
  """A compiled program, or why there is none.

  Attributes:
    seconds: Time to compile.
    cpu_seconds: The same in processor time, which other programs do not change.
    text: The compiled module; "" if the compiler refused it as too large.
    memory: Bytes a device: arguments, temporaries, code and outputs that are no
      arguments, and what a run holds beside the program.
    exceeds_by: Bytes by which all of this exceeds a device's memory; 0 if it
      fits.
  """

  seconds: float
  cpu_seconds: float
  text: str
  memory: dict[str, int]
  exceeds_by: int


def lower(
  config: ml_collections.ConfigDict, name: str, devices: list[Any]
) -> Lowered:
  """Lowers a program just as `experiments.train` would run it.

  Args:
    config: Config of the run; its data is not read, and `variants.complete`
      sets what the data would set.
    name: "train", "evaluate" or "init".
    devices: Devices from `chips.devices`.

  Raises:
    UserError: The config does not fit the devices.
  """
  config = variants.complete(config)
  config.execution.platform = "tpu" if devices[0].platform == "tpu" else "gpu"
  mesh = Mesh(np.array(devices), (step_lib.AXIS,))
  step_lib.check_batch_size(
    config.batch_size, mesh.size, config.num_microbatches
  )
  task = tasks.make_task(config, variants.metadata(config))
  task.num_eval_examples = lambda: variants.NUM_EVAL_EXAMPLES
  # Schedules only differ in their constants, so any long run will do.
  model, _, init, state, step = train_program.from_config(
    config, task, mesh, _NUM_STEPS
  )
  example = task.dummy_batch()
  num_donated = num_batch = 0
  held = {}
  collectives = ("all-reduce",)
  if name == "init":
    shardings = jax.tree.map(lambda x: x.sharding, state)
    fn = jax.jit(init, out_shardings=shardings)
    args = (_abstract(example, step_lib.replicated(mesh)),)
  elif name == "evaluate":
    fn = evaluation.make_eval_step(
      model, task, mesh, num_microbatches=config.num_microbatches
    )
    batch = _with_leading(task.dummy_eval_batch(), (config.batch_size,))
    batch = _abstract(batch, step_lib.batch_sharding(mesh))
    args = (state.eval_params, state.net_state, batch)
    held = {
      "rest of the state": _bytes_a_device(state) - _bytes_a_device(args[:2]),
      "queued batches": step_lib.STEPS_AHEAD * _bytes_a_device(batch),
    }
  else:
    batch = _train_batch(example, config.batch_size, mesh)
    fn, args = step, (optimizer_sharding.pmap_shapes(state), batch)
    num_donated, num_batch = map(len, map(jax.tree.leaves, args))
    if config.shard_optimizer_state:
      collectives += ("all-gather",)
    held = {"queued batches": step_lib.STEPS_AHEAD * _bytes_a_device(batch)}
  flops, attention = run_summary.trace_step(config, task, model, state, mesh)
  return Lowered(
    fn.lower(*args),
    num_donated,
    num_batch,
    run_summary.num_parameters(state.params),
    flops if name == "train" else 0.0,
    attention,
    collectives,
    held,
  )


def _train_batch(example, batch_size, mesh):
  """Returns the shapes and shardings of a batch for the train step."""
  batch = _with_leading(example, (mesh.size, batch_size // mesh.size))
  batch.pop("mask", None)  # Only evaluation batches have padding.
  return _abstract(batch, step_lib.batch_sharding(mesh))


def compile_program(lowered: Lowered, chip: Chip) -> Compiled:
  """Compiles a program, or finds out by how much it does not fit a chip."""
  start, cpu_start = time.perf_counter(), time.process_time()
  elapsed = lambda: (
    time.perf_counter() - start,
    time.process_time() - cpu_start,
  )
  try:
    compiled = lowered.program.compile()
  except jax.errors.JaxRuntimeError as error:
    excess = excess_bytes(str(error))
    if not excess:
      raise
    return Compiled(*elapsed(), "", {}, excess + sum(lowered.held.values()))
  seconds = elapsed()
  stats = compiled.memory_analysis()
  memory = {
    "arguments": stats.argument_size_in_bytes,
    "temporaries": stats.temp_size_in_bytes,
    "code": stats.generated_code_size_in_bytes,
    "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
    **lowered.held,
  }
  # A compiler refuses only what does not fit by itself, and that for GPUs
  # nothing.
  exceeds_by = max(0, sum(memory.values()) - int(chip.hbm_bytes))
  return Compiled(*seconds, compiled.as_text(), memory, exceeds_by)


def parts_that_may_fit(
  parts: int, examples: int, compiled: Compiled, chip: Chip
) -> int:
  """Returns the next number of microbatches to try; 0 if there is none.

  Temporaries shrink in proportion to a microbatch at best.

  Args:
    parts: Number of microbatches of a program that did not fit.
    examples: Examples of a device, which the number divides.
    compiled: That program.
    chip: The device.
  """
  factor = (chip.hbm_bytes + compiled.exceeds_by) / chip.hbm_bytes
  larger = range(math.ceil(parts * factor), examples + 1)
  return next((n for n in larger if examples % n == 0), 0)


def _with_leading(
  example: Any, leading: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """Repeats an example along new leading axes, without memory."""
  return {
    name: np.broadcast_to(value, (*leading, *value.shape[1:]))
    for name, value in example.items()
  }


def _abstract(batch: Any, sharding: Any) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    for name, value in batch.items()
  }


def _bytes_a_device(tree: Any) -> int:
  """Returns the bytes of a tree of abstract arrays on each of their devices."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def excess_bytes(message: str) -> int:
  """Returns the bytes that XLA says are missing, or 0 for another error."""
  size = r"([\d.]+)([KMGT]?)"
  if match := re.search(rf"[Ee]xceeded hbm capacity by {size}", message):
    return max(1, _num_bytes(match[1], match[2]))
  # Where the temporaries alone are larger than the memory.
  temporaries = rf"temporaries \({size}\) exceeds available HBM \({size}\)"
  if match := re.search(temporaries, message):
    return _num_bytes(match[1], match[2]) - _num_bytes(match[3], match[4])
  return 0


def _num_bytes(number: str, unit: str) -> int:
  units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  return int(float(number) * units[unit])
