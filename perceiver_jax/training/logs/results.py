"""Writes the results of a finished run."""

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import haiku as hk
import jax
import ml_collections
import numpy as np

from perceiver_jax import weights as weights_lib
from perceiver_jax.data.core.subset import Subset
from perceiver_jax.training import evaluation as evaluation_lib
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training import restore, workdir
from perceiver_jax.training import step as step_lib
from perceiver_jax.training import versions as versions_lib
from perceiver_jax.training.logs import metric_writers, run_summary
from perceiver_jax.training.logs.run_log import RunLog
from perceiver_jax.viz import report

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task

_NUM_SAMPLES = 12
# Limits the outputs of samples, attention included, to 1 GiB of float32. One
# example of the ImageNet model with 8 cross-attends has 205 million numbers.
_MAX_OUTPUT_SIZE = 2**28

Evaluation = Mapping[str, Mapping[str, np.ndarray]]


def flat_scalars(evaluation: Evaluation) -> dict[str, float]:
  """Returns the scalars of an evaluation by 'data set/metric'."""
  return {
    f"{name}/{metric}": value
    for name, values in evaluation.items()
    for metric, value in metrics_lib.scalars(values).items()
  }


def sample_outputs(
  task: "Task",
  model: hk.TransformedWithState,
  state: step_lib.TrainState,
  metrics: Mapping[str, np.ndarray],
) -> tuple[Any, Any]:
  """Returns outputs, with attention logits, and their held-out examples.

  Args:
    task: chooses the examples by `Task.sample_indices`.
    model: model of the run.
    state: state whose parameters are evaluated.
    metrics: metrics of the first evaluation set.
  """
  batch = _sample_batch(task, metrics)
  real = batch["mask"] > 0
  batch = {name: value[real] for name, value in batch.items()}
  params, net_state = restore.local_params(state)
  apply = jax.jit(
    lambda p, s, b: model.apply(
      p, s, None, b, False, return_attention="logits"
    )[0]
  )
  one = {name: value[:1] for name, value in batch.items()}
  outputs = jax.eval_shape(apply, params, net_state, one)
  size = sum(x.size for x in jax.tree.leaves(outputs))
  count = max(1, _MAX_OUTPUT_SIZE // size)
  batch = {name: value[:count] for name, value in batch.items()}
  return jax.device_get(apply(params, net_state, batch)), batch


def _sample_batch(
  task: "Task", metrics: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the chosen held-out examples in one batch."""
  indices = np.array(task.sample_indices(metrics), np.int32)
  shard = {"process_index": 0, "process_count": 1}
  if len(indices):
    source = next(iter(task.eval_sources().values()))
    dataset = task.eval_dataset(
      Subset(source, indices.tolist()), global_batch=len(indices), **shard
    )
  else:
    datasets = task.eval_datasets(global_batch=_NUM_SAMPLES, **shard)
    dataset = next(iter(datasets.values()))
  with contextlib.closing(iter(dataset)) as batches:
    batch = next(batches)
  if len(indices):
    batch = {**batch, "index": indices[batch["index"]]}
  return batch


def example_images(
  task: "Task",
  restored: restore.Restored,
  evaluation: Evaluation,
) -> dict[str, np.ndarray]:
  """Returns images of some held-out examples, uint8 [h, w, 3], by name.

  Args:
    task: the task.
    restored: the model with its parameters.
    evaluation: its metrics by data set.
  """
  benchmarks = task.benchmarks(restore.split_predictor(restored))
  if benchmarks:
    images = [benchmark.images() for benchmark in benchmarks.values()]
    return dict(itertools.chain.from_iterable(x.items() for x in images))
  metrics = next(iter(evaluation.values()))
  outputs, batch = sample_outputs(task, restored.model, restored.state, metrics)
  return task.summary_images(outputs, batch)


def write_evaluation(
  path: Path,
  config: ml_collections.ConfigDict,
  task: "Task",
  evaluated: evaluation_lib.Evaluation,
  facts: Mapping[str, Any],
) -> None:
  """Writes the JSON file of an evaluation.

  Args:
    path: the file.
    config: config of the evaluation.
    task: task of the evaluation.
    evaluated: the metrics, and the numbers of examples.
    facts: what was evaluated.
  """
  versions = versions_lib.versions()
  metric_writers.write_json(
    path,
    {
      **facts,
      "task": config.task,
      "metrics": flat_scalars(evaluated.means),
      "num_examples": evaluated.num_examples,
      "unreadable": evaluated.unreadable,
      "unit": task.eval_unit,
      "device": versions["devices"],
      "versions": versions,
    },
  )


def write(
  folder: Path,
  config: ml_collections.ConfigDict,
  task: "Task",
  model: hk.TransformedWithState,
  state: step_lib.TrainState,
  evaluation: Evaluation,
  log: RunLog,
  *,
  best_step: int,
  seconds: Mapping[str, float],
) -> dict[str, Any]:
  """Writes the results, the weights, the report and the summary images.

  These are `results.json`, `model.safetensors`, `report.html` and the images of
  `Task.summary_images`.

  Args:
    folder: the run's workdir.
    config: config of the run.
    task: task of the run.
    model: model of the run.
    state: the final state.
    evaluation: metrics of the final state by data set.
    log: receives the summary images.
    best_step: step of the best checkpoint.
    seconds: wall time of the run by section; see `WallTimer`.

  Returns:
    The contents of `results.json`.

  Raises:
    UserError: the folder can't be written to.
  """
  metrics = flat_scalars(evaluation)
  summary = {
    **_sizes(config, task, state),
    "best_step": best_step,
    "train_seconds": round(sum(seconds.values()), 1),
  }
  results = {
    "task": config.task,
    "metrics": metrics,
    "published": dict(task.published),
    **summary,
    "seconds": dict(seconds),
    "versions": workdir.read_versions(folder),
  }
  _export(folder, config, state)
  held_out = next(iter(evaluation.values()))
  outputs, batch = sample_outputs(task, model, state, held_out)
  for name, image in task.summary_images(outputs, batch).items():
    log.image(summary["steps"], name, image)
  primary = {task.primary_metric: metrics[task.primary_metric]}
  page = report.Report(
    title=folder.name,
    summary={**primary, **metrics, **summary},
    published=task.published or None,
    records=metric_writers.read_metrics(folder / "metrics.jsonl"),
    sections=task.report_sections(outputs, batch, held_out),
    config=config.to_dict(),
    versions=results["versions"],
    parameters=run_summary.parameter_table(state.params),
  )
  with workdir.writing(folder):
    report.write_report(folder / "report.html", page)
    # Write results.json last, because it marks a run as complete.
    metric_writers.write_json(folder / "results.json", results)
  return results


def _sizes(
  config: ml_collections.ConfigDict, task: "Task", state: step_lib.TrainState
) -> dict[str, float]:
  """Returns the number of parameters, and the length of the run."""
  steps = int(state.step)
  epochs = steps * config.batch_size / task.num_train_examples()
  return {
    "parameters": run_summary.num_parameters(state.params),
    "steps": steps,
    "epochs": round(epochs, 2),
  }


def _export(
  folder: Path, config: ml_collections.ConfigDict, state: step_lib.TrainState
) -> None:
  params, net_state = restore.local_params(state)
  weights = weights_lib.Weights(config.model.to_dict(), params, net_state)
  weights_lib.save(folder / weights_lib.EXPORT, weights)
