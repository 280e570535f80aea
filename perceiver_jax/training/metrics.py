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
