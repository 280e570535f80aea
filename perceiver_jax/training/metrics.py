"""Metrics as (sum, count) pairs, so that means are exact under any batching."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

# The sum may be an array (a confusion matrix); the count is a scalar. An
# evaluation may also have entries `PerExample`.
Metrics = Mapping[str, Any]


class PerExample(NamedTuple):
  """Values of each example, which an evaluation keeps instead of summing.

  Attributes:
    values: [b, ...]; small, since those of all examples are held in memory.
  """

  values: jax.Array


def weighted(values: jax.Array, weights: jax.Array) -> tuple:
  """Returns the weighted sum of values [b] and the sum of weights [b]."""
  weights = weights.astype(jnp.float32)
  return jnp.sum(values.astype(jnp.float32) * weights), jnp.sum(weights)


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns true where the label is among the k largest logits.

  Ties count against the label.

  Args:
    logits: [b, classes].
    labels: int [b].
    k: number of predictions allowed.

  Returns:
    bool [b]; False where the label's logit is NaN.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  # Count the logits that are at least as large, the label's own included, so
  # that constant or NaN logits are never correct by accident.
  return jnp.sum(~(logits < own), axis=1) <= k


def psnr(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """Returns the peak signal-to-noise ratio of each example, in decibels.

  The peak is 1.

  Args:
    prediction: [b, ...].
    target: [b, ...].

  Returns:
    [b]; at most 100, reached where prediction and target are equal.
  """
  error = jnp.square(prediction.astype(jnp.float32) - target)
  mean = error.mean(tuple(range(1, error.ndim)))
  return -10 * jnp.log10(jnp.maximum(mean, 1e-10))


def confusion(
  labels: jax.Array, predictions: jax.Array, weights: jax.Array, size: int
) -> jax.Array:
  """Returns the confusion matrix [size, size]: labels by predictions.

  Args:
    labels: int [b].
    predictions: int [b].
    weights: [b]; an example with weight 0 is ignored.
    size: number of classes.
  """
  counts = jnp.zeros((size, size), jnp.float32)
  return counts.at[labels, predictions].add(weights.astype(jnp.float32))


def calibration(
  logits: jax.Array, labels: jax.Array, weights: jax.Array, bins: int = 15
) -> jax.Array:
  """Sums weight, confidence and correctness in bins of confidence.

  The confidence is the probability of the predicted class.

  Args:
    logits: [b, classes].
    labels: int [b].
    weights: [b]; an example with weight 0 is ignored.
    bins: number of equal intervals of (0, 1], each closed above.

  Returns:
    float32 [bins, 3]: sums of weight, of confidence, and of the weight of
    correct examples. Add them over batches, as for `confusion`.
  """
  confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(axis=1)
  correct = in_top_k(logits, labels, 1).astype(jnp.float32)
  rows = jnp.stack([jnp.ones_like(confidence), confidence, correct], axis=1)
  rows *= weights.astype(jnp.float32)[:, None]
  bin_index = jnp.ceil(confidence * bins).astype(jnp.int32) - 1
  in_bin = jax.nn.one_hot(jnp.clip(bin_index, 0, bins - 1), bins)
  # A scatter-add would round differently from run to run on a GPU, where the
  # order of its additions varies.
  return jnp.sum(in_bin[:, :, None] * rows[:, None, :], axis=0)


def expected_calibration_error(table: np.ndarray) -> float:
  """Returns the expected calibration error (arXiv 1706.04599).

  This is the mean absolute difference of confidence and accuracy over bins,
  weighted by the number of examples in a bin.

  Args:
    table: from `calibration`, on the host; its total weight is positive.

  Returns:
    In [0, 1]; 0 is perfect.
  """
  weight, confidence, correct = np.asarray(table, np.float64).T
  return float(np.abs(correct - confidence).sum() / weight.sum())


def per_class_accuracy(confusion: np.ndarray) -> dict[int, float]:
  """Returns the recall of each class.

  Args:
    confusion: from `confusion`, on the host.

  Returns:
    Accuracies by label; classes without examples are left out.
  """
  counts = np.asarray(confusion, np.float64)
  examples, correct = counts.sum(axis=1), counts.diagonal()
  labels = np.flatnonzero(examples)
  return {int(i): float(correct[i] / examples[i]) for i in labels}


def means(metrics: Metrics) -> dict[str, np.ndarray]:
  """Divides sums by counts on the host; sums that are arrays stay sums."""
  host = jax.tree.map(np.asarray, dict(metrics))
  return {
    name: total / count if total.ndim == 0 else total
    for name, (total, count) in host.items()
  }


def scalars(values: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Returns the scalar entries of `means`."""
  return {k: float(v) for k, v in values.items() if np.ndim(v) == 0}
