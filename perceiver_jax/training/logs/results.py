"""What a finished run leaves for people: results.json and report.html."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import numpy as np

from perceiver_jax.tasks.base import Task
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training import (
  restore,
  workdir,
)
from perceiver_jax.training import step as step_lib
from perceiver_jax.training.logs import metric_writers, run_summary
from perceiver_jax.viz import report

_SHOWN_EXAMPLES = 12
# Numbers of the outputs of shown examples, attention included: 1 GiB. One
# example of the ImageNet model with 8 cross-attends has 205 million.
_MOST_NUMBERS = 2**28

Evaluation = Mapping[str, Mapping[str, np.ndarray]]


def flat_scalars(evaluation: Evaluation) -> dict[str, float]:
  """Numbers of an evaluation as 'data set/metric'."""
  return {
    f"{name}/{metric}": value
    for name, values in evaluation.items()
    for metric, value in metrics_lib.scalars(values).items()
  }


def show(
  task: Task, model: hk.TransformedWithState, state: step_lib.TrainState
) -> tuple[Any, Any]:
  """Outputs with attention, and their batch, for some held-out examples."""
  datasets = task.eval_data(
    global_batch=_SHOWN_EXAMPLES, process_index=0, process_count=1
  )
  iterator = iter(next(iter(datasets.values())))
  batch = next(iterator)
  iterator.close()
  real = batch["mask"] > 0
  batch = {name: value[real] for name, value in batch.items()}
  params, net_state = restore.local_params(state)
  apply = jax.jit(
    lambda p, s, b: model.apply(p, s, None, b, False, return_attention=True)[0]
  )
  one = {name: value[:1] for name, value in batch.items()}
  each = sum(
    x.size
    for x in jax.tree.leaves(jax.eval_shape(apply, params, net_state, one))
  )
  count = max(1, _MOST_NUMBERS // each)
  batch = {name: value[:count] for name, value in batch.items()}
  return jax.device_get(apply(params, net_state, batch)), batch


def write(
  folder: Path,
  config: Any,
  task: Task,
  model: hk.TransformedWithState,
  state: step_lib.TrainState,
  evaluation: Evaluation,
  facts: Mapping[str, Any],
  sinks: metric_writers.MetricWriters,
) -> dict[str, Any]:
  """Writes both files.

  Args:
    folder: the run's workdir.
    config: of the run.
    task: of the run.
    model: of the run.
    state: the final state.
    evaluation: means by data set, of the final state.
    facts: what else to state: steps, seconds, best checkpoint.
    sinks: where the task's pictures go.

  Returns:
    What `results.json` holds.
  """
  scores = flat_scalars(evaluation)
  found = {
    "task": config.task,
    "metrics": scores,
    "published": dict(task.published),
    "parameters": run_summary.num_parameters(state.params),
    **facts,
    "versions": workdir.versions(),
  }
  outputs, batch = show(task, model, state)
  for name, picture in task.pictures(outputs, batch).items():
    sinks.image(facts["steps"], name, picture)
  fields = task.report(outputs, batch, next(iter(evaluation.values())))
  primary = {task.primary_metric: scores[task.primary_metric]}
  page = report.Report(
    title=folder.name,
    summary={**primary, **scores, **_plain(found, facts)},
    published=task.published or None,
    records=metric_writers.read_metrics(folder / "metrics.jsonl"),
    config=config.to_dict(),
    versions=found["versions"],
    parameters=run_summary.parameter_table(state.params),
    **fields,
  )
  # The report first: results.json says that a run is complete.
  report.write_report(folder / "report.html", page)
  metric_writers.write_json(folder / "results.json", found)
  return found


def _plain(found: Mapping[str, Any], facts: Mapping[str, Any]) -> dict:
  """The facts that fit in a line of the report's head."""
  simple = {k: v for k, v in facts.items() if not isinstance(v, Mapping)}
  return {"parameters": found["parameters"], **simple}
