"""Attention in chunks: the full matrix of logits never exists.

Softmax is taken online over chunks of keys, or chunk by chunk over queries,
whichever are more; the backward pass recomputes each chunk's logits from the
saved normalisers. Memory beside inputs and outputs is that of one chunk. Shapes
as in `attention`; logits are [B, H, N, M].
"""

import functools
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

MASKED_LOGIT = -1e30
# Logits held at once, over batch and heads: 16 MiB in float32, which stays in
# the cache of a CPU and keeps an accelerator busy.
_LOGITS = 2**22
_MULTIPLE = 128  # Chunks are multiples of it where they can be.


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None
) -> jax.Array:
  """The same as `attention.attend` but for the shape of its result.

  Args:
    q: [B, N, H, F].
    k: [B, M, H, F].
    v: [B, M, H, V].
    mask: Broadcastable to [B, N, M], True where a query may read a key.

  Returns:
    [B, N, H, V] in the dtype of `v`.
  """
  return _attend(q * q.shape[-1] ** -0.5, k, v, mask)


def chunk_size(length: int, logits_per_element: int) -> int:
  """Elements of a chunk, so that its logits are about `_LOGITS`.

  Args:
    length: Of the axis that is cut.
    logits_per_element: Batch x heads x length of the other axis.
  """
  size = max(1, _LOGITS // max(logits_per_element, 1))
  if size > _MULTIPLE:
    size -= size % _MULTIPLE
  return min(length, size)


def loop(length: int, chunk: int, body: Any, carry: Any) -> Any:
  """`carry = body(carry, start, size)` over [0, length) in chunks.

  Full chunks run in one compiled loop; what is left over has a body of its own,
  so that nothing is padded.
  """
  full = length // chunk
  if full == 1:
    carry = body(carry, 0, chunk)
  elif full:
    carry = lax.fori_loop(
      0, full, lambda i, c: body(c, i * chunk, chunk), carry
    )
  if rest := length - full * chunk:
    carry = body(carry, full * chunk, rest)
  return carry


def take(x: jax.Array, start: Any, size: int, axis: int = 1) -> jax.Array:
  """`size` elements of `x` from `start` on."""
  return lax.dynamic_slice_in_dim(x, start, size, axis)


def put(x: jax.Array, part: jax.Array, start: Any, axis: int = 1) -> jax.Array:
  """`x` with `part` written to it from `start` on."""
  return lax.dynamic_update_slice_in_dim(x, part, start, axis)


@jax.custom_vjp
def _attend(q, k, v, mask):
  return _forward(q, k, v, mask)[0]


def _forward(q, k, v, mask):
  """Result and log of the softmax's normaliser [B, H, N]."""
  if _cuts_queries(q, k):
    return _forward_queries(q, k, v, mask)
  return _forward_keys(q, k, v, mask)


def _cuts_queries(q, k):
  return q.shape[1] > k.shape[1]


def _logits(q, k, mask):
  logits = jnp.einsum(
    "bnhf,bmhf->bhnm", q, k, preferred_element_type=jnp.float32
  )
  return logits if mask is None else jnp.where(mask, logits, MASKED_LOGIT)


def _part(mask, start, size, axis):
  """The mask [B, 1, N, M] of a chunk of queries (2) or keys (3)."""
  if mask is None or mask.shape[axis] == 1:
    return mask
  return take(mask, start, size, axis)


def _forward_keys(q, k, v, mask):
  batch, n, heads, _ = q.shape
  length = k.shape[1]
  mask = None if mask is None else mask[:, None]

  def body(carry, start, size):
    top, total, acc = carry
    part = _part(mask, start, size, 3)
    logits = _logits(q, take(k, start, size), part)
    new_top = jnp.maximum(top, logits.max(-1))
    weights = jnp.exp(logits - new_top[..., None])
    if part is not None:
      weights = jnp.where(part, weights, 0.0)
    keep = jnp.exp(top - new_top)
    total = total * keep + weights.sum(-1)
    read = jnp.einsum(
      "bhnm,bmhv->bhnv",
      weights.astype(v.dtype),
      take(v, start, size),
      preferred_element_type=jnp.float32,
    )
    return new_top, total, acc * keep[..., None] + read

  shape = (batch, heads, n)
  start = (
    jnp.full(shape, -jnp.inf, jnp.float32),
    jnp.zeros(shape, jnp.float32),
    jnp.zeros((*shape, v.shape[-1]), jnp.float32),
  )
  chunk = chunk_size(length, batch * heads * n)
  top, total, acc = loop(length, chunk, body, start)
  total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
  out = (acc / total[..., None]).astype(v.dtype).swapaxes(1, 2)
  return out, top + jnp.log(total)


def _forward_queries(q, k, v, mask):
  batch, n, heads, _ = q.shape
  mask = None if mask is None else mask[:, None]

  def body(carry, start, size):
    out, norm = carry
    part = _part(mask, start, size, 2)
    logits = _logits(take(q, start, size), k, part)
    top = logits.max(-1)
    weights = jnp.exp(logits - top[..., None])
    if part is not None:
      weights = jnp.where(part, weights, 0.0)
    total = jnp.maximum(weights.sum(-1), jnp.finfo(jnp.float32).tiny)
    read = jnp.einsum(
      "bhnm,bmhv->bhnv",
      weights.astype(v.dtype),
      v,
      preferred_element_type=jnp.float32,
    )
    read = (read / total[..., None]).astype(v.dtype).swapaxes(1, 2)
    return put(out, read, start), put(norm, top + jnp.log(total), start, 2)

  start = (
    jnp.zeros((batch, n, heads, v.shape[-1]), v.dtype),
    jnp.zeros((batch, heads, n), jnp.float32),
  )
  chunk = chunk_size(n, batch * heads * k.shape[1])
  return loop(n, chunk, body, start)


def _attend_forward(q, k, v, mask):
  out, norm = _forward(q, k, v, mask)
  return out, (q, k, v, mask, out, norm)


def _attend_backward(saved, grad):
  q, k, v, mask, out, norm = saved
  # What every logit of a query shares: the sum of weight times its gradient.
  common = jnp.einsum(
    "bnhv,bnhv->bhn", grad, out, preferred_element_type=jnp.float32
  )
  mask = None if mask is None else mask[:, None]
  backward = _backward_queries if _cuts_queries(q, k) else _backward_keys
  dq, dk, dv = backward(q, k, v, mask, norm, common, grad)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


def _chunk_gradients(q, k, v, mask, norm, common, grad):
  """Gradients that one chunk adds to its queries, keys and values."""
  logits = _logits(q, k, mask)
  weights = jnp.exp(logits - norm[..., None])
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  dlogits = product("bnhv,bmhv->bhnm", grad, v) - common[..., None]
  dlogits *= weights
  if mask is not None:
    weights = jnp.where(mask, weights, 0.0)
    # Not by its weight: what is masked may overflow, and 0 x inf is NaN.
    dlogits = jnp.where(mask, dlogits, 0.0)
  dv = product("bhnm,bnhv->bmhv", weights.astype(grad.dtype), grad)
  dlogits = dlogits.astype(q.dtype)
  dq = product("bhnm,bmhf->bnhf", dlogits, k)
  dk = product("bhnm,bnhf->bmhf", dlogits, q)
  return dq, dk, dv


def _backward_keys(q, k, v, mask, norm, common, grad):
  def body(carry, start, size):
    dq, dk, dv = carry
    part = _part(mask, start, size, 3)
    more, dk_part, dv_part = _chunk_gradients(
      q, take(k, start, size), take(v, start, size), part, norm, common, grad
    )
    return (
      dq + more,
      put(dk, dk_part.astype(k.dtype), start),
      put(dv, dv_part.astype(v.dtype), start),
    )

  start = (
    jnp.zeros(q.shape, jnp.float32),
    jnp.zeros_like(k),
    jnp.zeros_like(v),
  )
  per_key = q.shape[0] * q.shape[1] * q.shape[2]
  return loop(k.shape[1], chunk_size(k.shape[1], per_key), body, start)


def _backward_queries(q, k, v, mask, norm, common, grad):
  def body(carry, start, size):
    dq, dk, dv = carry
    part = _part(mask, start, size, 2)
    dq_part, dk_more, dv_more = _chunk_gradients(
      take(q, start, size),
      k,
      v,
      part,
      take(norm, start, size, 2),
      take(common, start, size, 2),
      take(grad, start, size),
    )
    return put(dq, dq_part.astype(q.dtype), start), dk + dk_more, dv + dv_more

  start = (
    jnp.zeros_like(q),
    jnp.zeros(k.shape, jnp.float32),
    jnp.zeros(v.shape, jnp.float32),
  )
  per_query = q.shape[0] * q.shape[2] * k.shape[1]
  return loop(q.shape[1], chunk_size(q.shape[1], per_query), body, start)


_attend.defvjp(_attend_forward, _attend_backward)
