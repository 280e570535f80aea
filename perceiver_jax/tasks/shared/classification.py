"""Metrics and report of tasks that classify examples with one label each.

Shapes: b examples, P classes.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import optax

from perceiver_jax.data.core.source import Source, check_several_classes
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections

# Examples of each kind in a report.
NUM_SAMPLES = 12


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
    UserError: the data has a single class, or the model has another number of
      classes.
  """
  names = (metadata or {}).get("class_names")
  if names is None:
    source = read()
    names = source.class_names
    # With multi-hot labels, there may be examples without the only class.
    if len(names) < 2 and not np.ndim(source[0]["label"]):
      check_several_classes(
        names, f"the examples of source {config.data.source!r}"
      )
  if config.model.num_classes != len(names):
    raise UserError(
      f"config.model.num_classes is {config.model.num_classes} but the data"
      f" has {len(names)} classes; make them equal"
    )
  return tuple(names)


def describe_model(
  inputs: Mapping[str, str], activation: str = "softmax"
) -> base.ModelDescription:
  """Describes a model whose outputs are the logits of classes.

  Args:
    inputs: see `base.ModelDescription`.
    activation: the function from logits to probabilities.
  """
  logits = f"logits of the classes; their {activation} is the probabilities"
  return base.ModelDescription(inputs, {"logits": logits})


class ClassificationMetrics:
  """Metrics of tasks whose outputs are the logits of classes.

  To be inherited from before `tasks.base.Task`.
  """

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy, accuracies, confusion counts and calibration."""
    return evaluation_metrics(outputs.logits, batch)

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, dict[str, np.ndarray]]:
    """Adds the expected calibration error of each evaluation set."""
    error = metrics_lib.expected_calibration_error
    return {
      name: {**means, "calibration_error": error(means["calibration"])}
      for name, means in metrics.items()
    }

  def sample_indices(self, metrics: Mapping[str, np.ndarray]) -> list[int]:
    """Returns examples of all classes, and the most confident mistakes."""
    return choose_samples(metrics).interleaved()


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
  """Returns means, confusion counts, calibration, and all predictions.

  The means are cross-entropy and accuracies.
  """
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
    **_predictions(logits, batch),
  }


def _predictions(
  logits: jax.Array, batch: Batch
) -> dict[str, metrics_lib.PerExample]:
  """Returns the prediction for each example; the index of padding is -1."""
  confidence = jax.nn.softmax(logits.astype(np.float32)).max(-1)
  index = jax.numpy.where(batch["mask"] > 0, batch["index"], -1)
  values = {
    "example_index": index,
    "example_label": batch["label"],
    "example_prediction": logits.argmax(-1),
    "example_confidence": confidence,
  }
  return {name: metrics_lib.PerExample(x) for name, x in values.items()}


class Samples(NamedTuple):
  """Examples of an evaluation set for its report, as positions in the set.

  Attributes:
    spread: examples of the classes in turn.
    mistakes: the most confident wrong predictions, the most confident first.
  """

  spread: list[int]
  mistakes: list[int]

  def interleaved(self) -> list[int]:
    """Returns both kinds in turn, each example once.

    If memory limits their number, some of both remain.
    """
    pairs = itertools.zip_longest(self.spread, self.mistakes)
    both = [i for i in itertools.chain.from_iterable(pairs) if i is not None]
    return list(dict.fromkeys(both))

  def rows(self, batch: Batch) -> tuple[list[int], list[int]]:
    """Returns the rows of a batch with spread examples and with mistakes."""
    row = {int(index): i for i, index in enumerate(batch["index"])}
    spread, mistakes = ([row[i] for i in x if i in row] for x in self)
    return spread, mistakes


def choose_samples(metrics: Mapping[str, np.ndarray]) -> Samples:
  """Chooses examples of the whole evaluation set for its report.

  Args:
    metrics: `evaluation_metrics` of the set, on the host.
  """
  counts = metrics["example_index"] >= 0
  index, label, prediction, confidence = (
    metrics[f"example_{name}"][counts]
    for name in ("index", "label", "prediction", "confidence")
  )
  # The n-th example of every class comes before the next one of any. With many
  # classes, those of the first round are spread over all of them.
  order = np.argsort(label, kind="stable")
  starts = np.searchsorted(label[order], label[order])
  turn = np.arange(len(order)) - starts
  first = order[turn == 0]
  if len(first) > NUM_SAMPLES:
    chosen = np.linspace(0, len(first) - 1, NUM_SAMPLES).astype(int)
    spread = first[chosen]
  else:
    spread = order[np.argsort(turn, kind="stable")][:NUM_SAMPLES]
  wrong = np.flatnonzero(prediction != label)
  wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:NUM_SAMPLES]
  return Samples(index[spread].tolist(), index[wrong].tolist())


def sample_sections(
  samples: Sequence[Any],
  batch: Batch,
  metrics: Mapping[str, np.ndarray],
  section: Callable[..., sections.Section],
) -> list[sections.Section]:
  """Returns a section of samples of all classes and, if any, one of mistakes.

  Args:
    samples: what to show of each example of the batch.
    batch: the examples of `choose_samples`, or some of them.
    metrics: `evaluation_metrics` of the evaluation set, on the host.
    section: makes a section of samples with a title.
  """
  spread, mistakes = choose_samples(metrics).rows(batch)
  shown = [section([samples[i] for i in spread], sections.SAMPLES)]
  if mistakes:
    shown.append(section([samples[i] for i in mistakes], sections.MISTAKES))
  return shown


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
