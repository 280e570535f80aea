"""Metrics as (sum, count) pairs, so that means are exact under any batching."""

from collections.abc import Mapping

import jax
import numpy as np
from jax import numpy as jnp

# The sum may be an array (a confusion matrix); the count is a scalar.
Metrics = Mapping[str, tuple[jax.Array, jax.Array]]


def weighted(values: jax.Array, weights: jax.Array) -> tuple:
  """(sum, count) of per-example values [b] under weights [b], in float32."""
  weights = weights.astype(jnp.float32)
  return jnp.sum(values.astype(jnp.float32) * weights), jnp.sum(weights)


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether the label is among the k largest logits, ties counted against it.

  Args:
    logits: [b, classes].
    labels: int [b].
    k: how many guesses are allowed.

  Returns:
    bool [b]; False where the label's logit is NaN.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=1)
  # Counting those at least as large, itself among them: a constant or NaN
  # prediction then never scores by accident.
  return jnp.sum(~(logits < own), axis=1) <= k


def psnr(decoded: jax.Array, truth: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio of each example, in decibels, of a peak of 1.

  Args:
    decoded: [b, ...].
    truth: the same.

  Returns:
    [b]; at most 100, where both are equal.
  """
  error = jnp.square(decoded.astype(jnp.float32) - truth)
  mean = error.mean(tuple(range(1, error.ndim)))
  return -10 * jnp.log10(jnp.maximum(mean, 1e-10))


def confusion(
  labels: jax.Array, predictions: jax.Array, weights: jax.Array, size: int
) -> jax.Array:
  """Counts [size, size] of examples, truth by prediction.

  Args:
    labels: int [b].
    predictions: int [b].
    weights: [b]; 0 leaves an example out.
    size: number of classes.
  """
  counts = jnp.zeros((size, size), jnp.float32)
  return counts.at[labels, predictions].add(weights.astype(jnp.float32))


def calibration(
  logits: jax.Array, labels: jax.Array, weights: jax.Array, bins: int = 15
) -> jax.Array:
  """Sums by confidence, the probability of the likeliest class.

  Args:
    logits: [b, classes].
    labels: int [b].
    weights: [b]; 0 leaves an example out.
    bins: equal intervals of confidence from 0 to 1, closed above.

  Returns:
    float32 [bins, 3]: weight, confidence, and weight of the examples that
    are right. Like `confusion`, to be added over batches.
  """
  confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(axis=1)
  right = in_top_k(logits, labels, 1).astype(jnp.float32)
  rows = jnp.stack([jnp.ones_like(confidence), confidence, right], axis=1)
  rows *= weights.astype(jnp.float32)[:, None]
  place = jnp.ceil(confidence * bins).astype(jnp.int32) - 1
  inside = jax.nn.one_hot(jnp.clip(place, 0, bins - 1), bins)
  # Not scattered: on a GPU the order of a scatter's sums, so their rounding,
  # changes from run to run.
  return jnp.sum(inside[:, :, None] * rows[:, None, :], axis=0)


def expected_calibration_error(table: np.ndarray) -> float:
  """Mean distance of confidence and accuracy, by bin (arXiv 1706.04599).

  Args:
    table: of `calibration`, on the host, with some weight in it.

  Returns:
    In [0, 1]; 0 is perfect.
  """
  weight, confidence, right = np.asarray(table, np.float64).T
  return float(np.abs(right - confidence).sum() / weight.sum())


def per_class_accuracy(confusion: np.ndarray) -> dict[int, float]:
  """Share of each class that is predicted as such (its recall).

  Args:
    confusion: of `confusion`, on the host.

  Returns:
    Accuracies by label; classes without examples are left out.
  """
  counts = np.asarray(confusion, np.float64)
  examples, right = counts.sum(axis=1), counts.diagonal()
  labels = np.flatnonzero(examples)
  return {int(i): float(right[i] / examples[i]) for i in labels}


def means(metrics: Metrics) -> dict[str, np.ndarray]:
  """Sums over counts, on the host; arrays (a confusion matrix) stay sums."""
  host = jax.tree.map(np.asarray, dict(metrics))
  return {
    name: total / count if total.ndim == 0 else total
    for name, (total, count) in host.items()
  }


def scalars(values: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Those of `means` that are numbers."""
  return {k: float(v) for k, v in values.items() if np.ndim(v) == 0}
