"""Summarizes a run before it starts: devices, batch, FLOPs, parameters."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import haiku as hk
import jax
import ml_collections
from jax.sharding import Mesh

from perceiver_jax.models import flops
from perceiver_jax.models.ops import dot_product_attention
from perceiver_jax.training.step import TrainState

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task

# A backward pass costs twice a forward pass.
_PASSES = 3

# Peak bfloat16 operations per second of a device, from the vendors' data
# sheets (dense, without sparsity).
_PEAKS = {
  "TPU v3": 61.5e12,  # A device is one core, which is half of a chip.
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float:
  """Returns the peak operations per second of a device; 0 if unknown."""
  known = [name for name in _PEAKS if device_kind.startswith(name)]
  return _PEAKS[max(known, key=len)] if known else 0.0


def parameter_table(params: Any) -> list[tuple[str, tuple[int, ...], int]]:
  """Returns the name, shape and size of each parameter array."""
  return [
    (f"{module}/{name}", tuple(array.shape), math.prod(array.shape))
    for module, leaves in params.items()
    for name, array in leaves.items()
  ]


def num_parameters(params: Any) -> int:
  """Returns the number of parameters in a tree of arrays or shapes."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def grouped_parameters(params: Any, depth: int = 2) -> dict[str, int]:
  """Counts parameters by the first `depth` parts of their module's name."""
  groups: dict[str, int] = {}
  for module, leaves in params.items():
    parts = [p for p in module.split("/") if p != "~"]
    name = "/".join(parts[:depth])
    groups[name] = groups.get(name, 0) + num_parameters(leaves)
  return groups


class RunSummary(NamedTuple):
  """The properties of a run that are known before it starts.

  Attributes:
    devices: description of the devices.
    batch: description of how the batch is split.
    examples_per_epoch: number of training examples.
    batch_size: global number of examples in a step.
    flops_per_step: counted operations per step; see `models.flops`.
    peak_flops: operations per second of all devices; 0 if unknown.
    precision: precision of the computation.
    attention: description of how attention is computed.
    params: abstract parameters.
  """

  devices: str
  batch: str
  examples_per_epoch: int
  batch_size: int
  flops_per_step: float
  peak_flops: float
  precision: str
  attention: str
  params: Any


def summarize(
  config: ml_collections.ConfigDict,
  task: "Task",
  model: hk.TransformedWithState,
  abstract: TrainState,
  mesh: Mesh,
) -> RunSummary:
  """Summarizes a run without computing anything on a device."""
  flops_per_step, attention = trace_step(config, task, model, abstract, mesh)
  device = mesh.devices.flat[0]
  parts = config.num_microbatches
  return RunSummary(
    devices=f"{mesh.size} x {device.device_kind} ({device.platform}),"
    f" {jax.process_count()} process(es), jax {jax.__version__}",
    batch=f"{config.batch_size} = {mesh.size} device(s) x {parts}"
    f" microbatch(es) x {config.batch_size // mesh.size // parts}",
    examples_per_epoch=task.num_train_examples(),
    batch_size=config.batch_size,
    flops_per_step=flops_per_step,
    peak_flops=mesh.size * peak_flops(device.device_kind),
    precision=config.precision,
    attention=", ".join(attention),
    params=abstract.params,
  )


def trace_step(
  config: ml_collections.ConfigDict,
  task: "Task",
  model: hk.TransformedWithState,
  abstract: TrainState,
  mesh: Mesh,
) -> tuple[float, list[str]]:
  """Returns a train step's counted operations, and its attentions."""
  forward = lambda params, net_state, batch: model.apply(
    params, net_state, None, batch, False
  )[0]
  parts = config.num_microbatches
  each = config.batch_size // mesh.size // parts
  batch = {
    name: jax.ShapeDtypeStruct((each, *value.shape[1:]), value.dtype)
    for name, value in task.dummy_batch().items()
  }
  jaxpr = jax.make_jaxpr(forward)(abstract.params, abstract.net_state, batch)
  part = flops.count_jaxpr_flops(jaxpr.jaxpr)
  attention = dot_product_attention.implementations(jaxpr.jaxpr)
  return _PASSES * part * parts * mesh.size, attention


def text(
  run: RunSummary, num_steps: int, start: int, compiled: Any, seconds: float
) -> str:
  """Formats the summary of a run.

  Args:
    run: see `summarize`.
    num_steps: number of steps in the whole run.
    start: step from which it was resumed; 0 for a new run.
    compiled: compiled step, or None if training is complete.
    seconds: compile time in seconds.
  """
  epochs = num_steps * run.batch_size / run.examples_per_epoch
  rows = {
    "devices": run.devices,
    "batch": run.batch,
    "steps": f"{num_steps:,} = {epochs:.4g} epochs of"
    f" {run.examples_per_epoch:,} examples",
    "precision": run.precision,
    "attention": run.attention,
    "operations": f"{human(run.flops_per_step, 'FLOP')} a step, by count",
  }
  if compiled is not None:
    rows["memory"] = memory_text(compiled)
    rows["compiled in"] = f"{seconds:.1f} s"
  if start:
    rows["resumed from"] = f"step {start:,}"
  rows["parameters"] = f"{num_parameters(run.params):,}"
  groups = grouped_parameters(run.params)
  width = max(map(len, [*rows, *groups])) + 2
  lines = [f"  {name:<{width}}{value}" for name, value in rows.items()]
  lines += [f"    {name:<{width}}{n:>12,}" for name, n in groups.items()]
  return "\n".join(lines)


def human(number: float, unit: str = "") -> str:
  """Formats four significant digits with a prefix: '404.3 G'."""
  for prefix in ("", "k", "M", "G", "T", "P"):
    if abs(number) < 1000 or prefix == "P":
      return f"{number:.4g} {prefix}{unit}".rstrip()
    number /= 1000
  raise AssertionError


def memory_text(compiled: Any) -> str:
  """Describes the memory of a compiled step on one device."""
  stats = compiled.memory_analysis()
  if stats is None:
    return "unknown on this backend"
  parts = (
    ("arguments", stats.argument_size_in_bytes),
    ("temporary", stats.temp_size_in_bytes),
  )
  total = sum(size for _, size in parts)
  inner = ", ".join(f"{human(size, 'B')} {name}" for name, size in parts)
  return f"{human(total, 'B')} a device ({inner})"
