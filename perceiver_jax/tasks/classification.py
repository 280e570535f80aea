"""Metrics and report of tasks that classify examples with one label each.

Shapes: b examples, P classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from perceiver_jax.data.core.source import Source
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections


def class_names(
  config: ml_collections.ConfigDict,
  metadata: Mapping[str, Any] | None,
  read: Callable[[], Source],
) -> tuple[str, ...]:
  """Returns the names of the classes, by label.

  Args:
    config: config of the run.
    metadata: stored metadata of the task, or None.
    read: returns a source, for tasks without metadata.

  Raises:
    UserError: the model has another number of classes.
  """
  stored = (metadata or {}).get("class_names")
  names = read().class_names if stored is None else stored
  if config.model.num_classes != len(names):
    raise UserError(
      f"config.model.num_classes is {config.model.num_classes} but the data"
      f" has {len(names)} classes; make them equal"
    )
  return tuple(names)


def mean_metrics(logits: jax.Array, batch: Batch, losses: jax.Array) -> Metrics:
  """Returns loss and accuracies.

  Args:
    logits: [b, P].
    batch: "label" [b] and, in evaluation, "mask" [b].
    losses: the loss of each example [b].
  """
  weights = batch.get("mask", np.ones(logits.shape[0], np.float32))
  correct = lambda k: metrics_lib.in_top_k(logits, batch["label"], k)
  metrics = {
    "loss": metrics_lib.weighted(losses, weights),
    "accuracy": metrics_lib.weighted(correct(1), weights),
  }
  if logits.shape[-1] > 5:
    metrics["top_5_accuracy"] = metrics_lib.weighted(correct(5), weights)
  return metrics


def evaluation_metrics(logits: jax.Array, batch: Batch) -> Metrics:
  """Returns cross-entropy, accuracies, confusion counts and calibration."""
  label, mask = batch["label"], batch["mask"]
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  metrics = mean_metrics(logits, batch, losses)
  count = metrics["loss"][1]
  confusion = metrics_lib.confusion(
    label, logits.argmax(-1), mask, logits.shape[-1]
  )
  calibration = metrics_lib.calibration(logits, label, mask)
  return {
    **metrics,
    "confusion": (confusion, count),
    "calibration": (calibration, count),
  }


def finalize_metrics(
  metrics: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, np.ndarray]]:
  """Adds the expected calibration error of each evaluation set."""
  error = metrics_lib.expected_calibration_error
  return {
    name: {**means, "calibration_error": error(means["calibration"])}
    for name, means in metrics.items()
  }


def report_sections(
  metrics: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> list[sections.Section]:
  """Returns confusion matrix, accuracy per class and calibration."""
  confusion = metrics["confusion"]
  accuracy = metrics_lib.per_class_accuracy(confusion)
  return [
    sections.confusion_matrix(confusion, class_names),
    sections.class_accuracy(accuracy, confusion, class_names),
    sections.calibration(
      metrics["calibration"], float(metrics["calibration_error"])
    ),
  ]
