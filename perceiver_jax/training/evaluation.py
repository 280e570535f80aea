"""Exact evaluation: every example counts once, on any number of devices."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.core.source import Batch, check_class_names
from perceiver_jax.errors import UserError
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training import restore
from perceiver_jax.training import step as step_lib

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task

EvalStep = Callable[[Any, Any, Batch], metrics_lib.Metrics]

# Name of the sum of the masks. Its count is 0, so it is not one of the means.
_NUM_EXAMPLES = "num_examples"


class Evaluation(NamedTuple):
  """The result of an evaluation.

  Attributes:
    means: means of the metrics by data set.
    num_examples: number of examples that count, by data set.
    unreadable: number of examples that can't be read, by data set.
  """

  means: dict[str, dict[str, np.ndarray]]
  num_examples: dict[str, int]
  unreadable: dict[str, int]


def make_eval_step(
  model: hk.TransformedWithState,
  task: "Task",
  mesh: Mesh,
  *,
  num_microbatches: int = 1,
) -> EvalStep:
  """Returns a jitted `(params, net_state, batch) -> metrics`.

  Its metrics are sums and counts over the global batch, and `PerExample` values
  of the whole of it.

  Args:
    model: from `step.model_of`.
    task: computes the metrics.
    mesh: devices over which the batch is sharded by `step.place_batch`.
    num_microbatches: number of equal parts into which each device's share of
      the batch is split. They are processed sequentially. If it does not divide
      the share, there are more parts.
  """

  def forward(params, net_state, batch):
    apply = lambda part: model.apply(params, net_state, None, part, False)[0]
    return _map_microbatches(apply, batch, num_microbatches)

  # Attention chooses its chunks by the batch of one device, as in training.
  # Chunks of the global batch would be gathered by every device.
  forward = jax.shard_map(
    forward,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(step_lib.AXIS)),
    out_specs=PartitionSpec(step_lib.AXIS),
    check_vma=False,
  )

  def eval_step(params, net_state, batch):
    outputs = forward(params, net_state, batch)
    count = jnp.sum(batch["mask"]), jnp.zeros(())
    return {**task.metrics(outputs, batch), _NUM_EXAMPLES: count}

  return jax.jit(eval_step, out_shardings=step_lib.replicated(mesh))


def _map_microbatches(fn, batch, min_parts):
  """Applies `fn` to the examples of a batch, in `min_parts` parts or more."""
  size = len(batch["mask"])
  parts = next(
    n for n in range(min(min_parts, size), size + 1) if size % n == 0
  )
  if parts == 1:
    return fn(batch)
  split = lambda x: x.reshape(parts, size // parts, *x.shape[1:])
  join = lambda x: x.reshape(size, *x.shape[2:])
  return jax.tree.map(join, jax.lax.map(fn, jax.tree.map(split, batch)))


def _sum_metrics(
  eval_step: EvalStep,
  state: step_lib.TrainState,
  batches: Iterable[Batch],
  mesh: Mesh,
) -> tuple[metrics_lib.Metrics, dict[str, np.ndarray]]:
  """Returns the sums and counts, and the values of each example in order."""
  sums, per_example = None, []
  ahead, pending = step_lib.num_steps_ahead(), collections.deque()
  for batch in batches:
    placed = step_lib.place_batch(batch, mesh)
    metrics = eval_step(state.eval_params, state.net_state, placed)
    batch_sums, values = _split(metrics)
    per_example.append(values)
    sums = batch_sums if sums is None else add(sums, batch_sums)
    pending.append(sums)
    if len(pending) > ahead:
      jax.block_until_ready(pending.popleft())
  if sums is None:
    raise UserError("empty dataset: nothing to evaluate on")
  return sums, jax.tree.map(lambda *x: np.concatenate(x), *per_example)


def _split(
  metrics: metrics_lib.Metrics,
) -> tuple[metrics_lib.Metrics, dict[str, jax.Array]]:
  """Separates pairs of sum and count from the values of each example."""
  is_kept = lambda value: isinstance(value, metrics_lib.PerExample)
  pairs = {k: value for k, value in metrics.items() if not is_kept(value)}
  return pairs, {k: v.values for k, v in metrics.items() if is_kept(v)}


def _means(sums: metrics_lib.Metrics) -> dict[str, np.ndarray]:
  # A metric of a rare kind (fast pixels, for example) may have a count of 0.
  counted = {k: pair for k, pair in sums.items() if np.asarray(pair[1]) > 0}
  return metrics_lib.means(counted)


def batch_size(config: ml_collections.ConfigDict, mesh: Mesh) -> int:
  """Returns the batch size, rounded up to a multiple of the devices."""
  return -(-config.batch_size // mesh.size) * mesh.size


@jax.jit
def add(a: metrics_lib.Metrics, b: metrics_lib.Metrics) -> metrics_lib.Metrics:
  """Adds two sets of metrics with the same names."""
  return jax.tree.map(jnp.add, a, b)


def evaluate_all(
  eval_step: EvalStep,
  state: step_lib.TrainState,
  datasets: Mapping[str, Any],
  mesh: Mesh,
  *,
  show_progress: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
  """Evaluates on each dataset; returns the means by dataset name."""
  means, _ = evaluate_and_count(
    eval_step, state, datasets, mesh, show_progress=show_progress
  )
  return means


def evaluate_and_count(
  eval_step: EvalStep,
  state: step_lib.TrainState,
  datasets: Mapping[str, Any],
  mesh: Mesh,
  *,
  show_progress: bool = False,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, int]]:
  """Evaluates on each dataset, and counts its examples.

  Args:
    eval_step: from `make_eval_step`.
    state: training state; its `eval_params` are evaluated.
    datasets: this process's part of each dataset, by name.
    mesh: the mesh given to `make_eval_step`.
    show_progress: whether to show a progress bar.

  Returns:
    The means of the metrics and the number of examples that count, each by
    dataset name.

  Raises:
    UserError: a dataset is empty.
  """
  means, num_examples = {}, {}
  for name, dataset in datasets.items():
    # Closing stops the processes that read, also after an interrupt.
    with contextlib.closing(iter(dataset)) as batches:
      bar = tqdm(batches, f"evaluate {name}".removesuffix(" eval"),
                 dataset.num_batches(), leave=False,
                 disable=not show_progress)  # fmt: skip
      sums, per_example = _sum_metrics(eval_step, state, bar, mesh)
    means[name] = {**_means(sums), **per_example}
    num_examples[name] = int(sums[_NUM_EXAMPLES][0])
  return means, num_examples


def evaluate_task(
  task: "Task",
  config: ml_collections.ConfigDict,
  restored: restore.Restored,
  *,
  show_progress: bool = False,
) -> Evaluation:
  """Evaluates a model on the held-out data of its task.

  Args:
    task: the task.
    config: config of the evaluation.
    restored: the model with its parameters.
    show_progress: whether to show a progress bar.

  Returns:
    The finalized metrics and the numbers of examples.

  Raises:
    UserError: `num_microbatches` is invalid, or a dataset is empty or has
      other classes than the task.
  """
  parts = config.num_microbatches
  check_leaf("num_microbatches", parts, parts >= 1, "1 or more")
  if benchmarks := task.benchmarks(restore.split_predictor(restored)):
    return Evaluation(
      {
        name: benchmark.evaluate(show_progress=show_progress)
        for name, benchmark in benchmarks.items()
      },
      {name: len(benchmark) for name, benchmark in benchmarks.items()},
      dict.fromkeys(benchmarks, 0),
    )
  _check_classes(task)
  mesh = restored.mesh
  means, num_examples = evaluate_and_count(
    make_eval_step(restored.model, task, mesh, num_microbatches=parts),
    restored.state,
    task.eval_datasets(
      global_batch=batch_size(config, mesh),
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    ),
    mesh,
    show_progress=show_progress,
  )
  return Evaluation(
    task.finalize_metrics(means),
    num_examples,
    {
      name: len(source) - num_examples[name]
      for name, source in task.eval_sources().items()
    },
  )


def _check_classes(task: "Task") -> None:
  """Checks that the data has the classes that the task knows.

  A run stores its classes, and its data may have changed since.

  Raises:
    UserError: they differ in name or order.
  """
  if known := task.metadata().get("class_names"):
    for source in task.eval_sources().values():
      check_class_names(known, source.class_names, "the data")
