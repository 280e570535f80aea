"""Scaled dot-product attention over separately sized queries, keys, values.

Shapes: B batch, N queries, M keys, H heads, F query/key width per head, V value
width per head. F and V may differ, and any width works (261 and 322 occur).
"""

import jax
from jax import numpy as jnp

from perceiver_jax.models import (
  chunked,
  execution,
  fused,
)
from perceiver_jax.models.typing import (
  Array,
  Bool,
  Float,
)

# Above so many logits, "auto" never holds them all.
_MOST_LOGITS = 2**24


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
  # Finite, so that a fully masked row stays free of NaN in both directions.
  weights = jax.nn.softmax(jnp.where(mask, logits, chunked.MASKED_LOGIT))
  return jnp.where(mask, weights, 0.0)


def attend(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  v: Float[Array, "B M H V"],
  mask: Bool[Array, "#B #N #M"] | None = None,
) -> Float[Array, "B N H*V"]:
  """Multi-head attention with heads concatenated (Perceiver IO, app. E.1).

  How it is computed is chosen by `execution.Execution.attention`.

  Args:
    q: Queries.
    k: Keys.
    v: Values, of any width.
    mask: True where a query may read a key; a query that may read none gets
      zeros.

  Returns:
    The weighted values of each query, in the dtype of `v`.
  """
  implementation = chosen(q, k, v, mask)
  execution.note(f"{implementation} {q.shape[1]} x {k.shape[1]}")
  if implementation == "chunked":
    out = chunked.attend(q, k, v, mask)
  elif implementation == "cudnn":
    out = fused.attend(q, k, v, mask)
  elif implementation == "head_major":
    out = _head_major(q, k, v, mask)
  else:
    weights = attention_weights(q, k, mask).astype(v.dtype)
    out = jnp.einsum("bhnm,bmhv->bnhv", weights, v)
  return out.reshape(*out.shape[:2], -1)


def chosen(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  v: Float[Array, "B M H V"],
  mask: Bool[Array, "#B #N #M"] | None = None,
) -> str:
  """The implementation in force for such arrays."""
  choice = execution.current().attention
  if choice != "auto":
    return choice
  if fused.fits(q, k, v, mask):
    return "cudnn"
  logits = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1]
  return "chunked" if logits > _MOST_LOGITS else "head_major"


def _head_major(q, k, v, mask):
  """Heads before elements, so that each head's product is one block of memory.

  Rows are divided by their sums after the product with the values, which are
  fewer numbers than the weights.
  """
  q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
  logits = jnp.einsum(
    "bhnf,bhmf->bhnm", q, k, preferred_element_type=jnp.float32
  )
  if mask is not None:
    mask = mask[:, None]
    logits = jnp.where(mask, logits, chunked.MASKED_LOGIT)
  # The largest logit is subtracted for the range alone; it has no gradient.
  top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  weights = jnp.exp(logits - top)
  if mask is not None:
    weights = jnp.where(mask, weights, 0.0)
  total = weights.sum(-1)
  total = jnp.where(total > 0, total, 1.0)  # A fully masked row reads zeros.
  out = jnp.einsum(
    "bhnm,bhmv->bhnv",
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  return (out / total[..., None]).astype(v.dtype).swapaxes(1, 2)
