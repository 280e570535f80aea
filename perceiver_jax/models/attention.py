"""Scaled dot-product attention over separately sized queries, keys, values.

Shapes: B batch, N queries, M keys, H heads, F query/key width per head, V value
width per head. F and V may differ, and any width works (261 and 322 occur).
"""

import jax
from jax import numpy as jnp

from perceiver_jax.models.typing import Array, Bool, Float

# Finite, so that a fully masked row stays free of NaN in both directions.
_MASKED_LOGIT = -1e30


def attention_weights(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  mask: Bool[Array, "#B #N #M"] | None = None,
) -> Float[Array, "B H N M"]:
  """Softmax of scaled dot products, in float32 whatever the inputs are.

  Args:
    q: Queries.
    k: Keys.
    mask: True where a query may read a key.

  Returns:
    Weights that sum to one over keys; a fully masked row is all zeros.
  """
  logits = jnp.einsum(
    "bnhf,bmhf->bhnm", q, k, preferred_element_type=jnp.float32
  )
  logits *= q.shape[-1] ** -0.5
  if mask is None:
    return jax.nn.softmax(logits)
  mask = mask[:, None]
  weights = jax.nn.softmax(jnp.where(mask, logits, _MASKED_LOGIT))
  return jnp.where(mask, weights, 0.0)


def attend(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  v: Float[Array, "B M H V"],
  mask: Bool[Array, "#B #N #M"] | None = None,
) -> Float[Array, "B N H*V"]:
  """Multi-head attention with heads concatenated (Perceiver IO, app. E.1).

  Args:
    q: Queries.
    k: Keys.
    v: Values, of any width.
    mask: True where a query may read a key; a query that may read none gets
      zeros.

  Returns:
    The weighted values of each query, in the dtype of `v`.
  """
  weights = attention_weights(q, k, mask).astype(v.dtype)
  out = jnp.einsum("bhnm,bmhv->bnhv", weights, v)
  return out.reshape(*out.shape[:2], -1)
