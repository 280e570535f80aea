"""Latents read a large input array without projecting, storing or copying it.

A single-head cross-attend computes logits (q W_q)(x W_k)^T. They equal
(q W_q W_k^T) x^T, since what the keys' bias adds is the same for all keys of a
query and cancels in the softmax; and A (x W_v) = (A x) W_v. So the inputs are
attended to as they are, and projections run over latents alone.

The inputs are LayerNorm([data, positions]) with positions that all examples
share. The norm's scale and offset are folded into what multiplies it from
outside; its statistics are taken per chunk, where data and positions meet: the
array [B, M, C] never exists. Where all examples have the same queries, as in a
first cross-attend, the positions' part of the logits is computed once for the
whole batch. The backward pass recomputes each chunk. Shapes: c data channels, P
position channels, C = c + P.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp

from perceiver_jax.models import (
  chunked,
  layers,
)


def read(
  query: jax.Array,
  data: jax.Array,
  positions: jax.Array | None,
  mask: jax.Array | None,
) -> jax.Array:
  """Softmax-weighted mean of the normalised inputs, for each query.

  Args:
    query: [1 or B, N, C], scaled and with everything folded in; 1 means that
      all examples share it.
    data: [B, M, c].
    positions: [M, P], or None where the data hold all channels.
    mask: [B, M], True at inputs that may be read.

  Returns:
    float32 [B, N, C]; zeros where an example has no input to read. The norm is
    without scale and offset.
  """
  if positions is None:
    positions = jnp.zeros((data.shape[1], 0), data.dtype)
  return _read(query, data, positions, mask)


class _Chunk(NamedTuple):
  """A chunk of m inputs.

  Attributes:
    data: [B, m, c].
    positions: [m, P].
    mean: float32 [B, m].
    scale: float32 [B, m], one over the standard deviation.
    mask: [B, 1, m] or None.
  """

  data: jax.Array
  positions: jax.Array
  mean: jax.Array
  scale: jax.Array
  mask: jax.Array | None

  def normalised(self) -> jax.Array:
    """[B, m, C], in the dtype of the data."""
    table = jnp.broadcast_to(
      self.positions, (*self.data.shape[:2], self.positions.shape[-1])
    )
    x = jnp.concatenate([self.data, table], -1).astype(jnp.float32)
    x = (x - self.mean[..., None]) * self.scale[..., None]
    return x.astype(self.data.dtype)


def _chunk(data, positions, mask, start, size) -> _Chunk:
  x = chunked.take(data, start, size)
  p = chunked.take(positions, start, size, 0)
  width = x.shape[-1] + p.shape[-1]
  wide_x, wide_p = x.astype(jnp.float32), p.astype(jnp.float32)
  mean = (wide_x.sum(-1) + wide_p.sum(-1)) / width
  deviation = ((wide_x - mean[..., None]) ** 2).sum(-1)
  if p.shape[-1]:
    # About the positions' own mean, once and not for each example.
    center = wide_p.mean(-1)
    deviation += ((wide_p - center[:, None]) ** 2).sum(-1)
    deviation += p.shape[-1] * (mean - center) ** 2
  scale = jax.lax.rsqrt(deviation / width + layers.EPS)
  if mask is not None:
    mask = chunked.take(mask, start, size)[:, None]
  return _Chunk(x, p, mean, scale, mask)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _logits(query: jax.Array, chunk: _Chunk) -> jax.Array:
  """float32 [B, N, m]."""
  if query.shape[0] < chunk.data.shape[0]:
    logits = _shared_logits(query[0], chunk)
  else:
    logits = _product("bnc,bmc->bnm", query, chunk.normalised())
  if chunk.mask is not None:
    logits = jnp.where(chunk.mask, logits, chunked.MASKED_LOGIT)
  return logits


def _shared_logits(query: jax.Array, chunk: _Chunk) -> jax.Array:
  """Logits of queries [N, C] that all examples share."""
  split = chunk.data.shape[-1]
  own = _product("nc,bmc->bnm", query[:, :split], chunk.data)
  shared = _product("nc,mc->nm", query[:, split:], chunk.positions)
  total = query.astype(jnp.float32).sum(-1)
  mean = total[:, None] * chunk.mean[:, None]
  return (own + shared - mean) * chunk.scale[:, None]


@jax.custom_vjp
def _read(query, data, positions, mask):
  return _forward(query, data, positions, mask)[0]


def _loop(query, data, body, carry):
  batch, length = data.shape[:2]
  size = chunked.chunk_size(length, batch * query.shape[1])
  return chunked.loop(length, size, body, carry)


def _forward(query, data, positions, mask):
  """The result and the log of the softmax's normaliser [B, N]."""
  batch, n = data.shape[0], query.shape[1]

  def body(carry, start, size):
    top, total, acc = carry
    chunk = _chunk(data, positions, mask, start, size)
    logits = _logits(query, chunk)
    new_top = jnp.maximum(top, logits.max(-1))
    weights = jnp.exp(logits - new_top[..., None])
    if chunk.mask is not None:
      weights = jnp.where(chunk.mask, weights, 0.0)
    keep = jnp.exp(top - new_top)
    more = _product(
      "bnm,bmc->bnc", weights.astype(data.dtype), chunk.normalised()
    )
    total = total * keep + weights.sum(-1)
    return new_top, total, acc * keep[..., None] + more

  start = (
    jnp.full((batch, n), -jnp.inf, jnp.float32),
    jnp.zeros((batch, n), jnp.float32),
    jnp.zeros((batch, n, query.shape[-1]), jnp.float32),
  )
  top, total, acc = _loop(query, data, body, start)
  total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
  return acc / total[..., None], top + jnp.log(total)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Wanted:
  """Whether the inputs need gradients: pixels and fixed positions do not."""

  inputs: bool


def _read_forward(query, data, positions, mask):
  wanted = _Wanted(data.perturbed or positions.perturbed)
  args = (query.value, data.value, positions.value)
  mask = None if mask is None else mask.value
  out, norm = _forward(*args, mask)
  return out, (*args, mask, out, norm, wanted)


def _read_backward(saved, grad):
  query, data, positions, mask, out, norm, wanted = saved
  grad = grad.astype(data.dtype)
  common = (grad * out).sum(-1)  # What all logits of a query share.
  shared = query.shape[0] < data.shape[0]

  def body(carry, start, size):
    dquery, ddata, dpositions = carry
    chunk = _chunk(data, positions, mask, start, size)
    weights = jnp.exp(_logits(query, chunk) - norm[..., None])
    if chunk.mask is not None:
      weights = jnp.where(chunk.mask, weights, 0.0)
    x = chunk.normalised()
    dweights = _product("bnc,bmc->bnm", grad, x)
    dlogits = weights * (dweights - common[..., None])
    dquery += _query_gradient(dlogits, x, chunk, shared)
    if wanted.inputs:
      dx = _product("bnm,bnc->bmc", weights.astype(x.dtype), grad)
      to_all = jnp.broadcast_to(query, (x.shape[0], *query.shape[1:]))
      dx += _product("bnm,bnc->bmc", dlogits.astype(x.dtype), to_all)
      dpart, dtable = _norm_gradient(dx, chunk)
      ddata = chunked.put(ddata, dpart.astype(data.dtype), start)
      dpositions = chunked.put(
        dpositions, dtable.astype(positions.dtype), start, 0
      )
    return dquery, ddata, dpositions

  dinputs = (None, None)
  if wanted.inputs:
    dinputs = (jnp.zeros_like(data), jnp.zeros_like(positions))
  start = (jnp.zeros(query.shape, jnp.float32), *dinputs)
  dquery, ddata, dpositions = _loop(query, data, body, start)
  return dquery.astype(query.dtype), ddata, dpositions, None


def _query_gradient(dlogits, x, chunk, shared):
  """[1 or B, N, C]; for shared queries, positions are multiplied once."""
  if not shared:
    return _product("bnm,bmc->bnc", dlogits.astype(x.dtype), x)
  scaled = dlogits * chunk.scale[:, None]
  own = _product("bnm,bmc->nc", scaled.astype(x.dtype), chunk.data)
  table = _product("nm,mc->nc", scaled.sum(0).astype(x.dtype), chunk.positions)
  mean = (scaled * chunk.mean[:, None]).sum((0, 2))
  return (jnp.concatenate([own, table], -1) - mean[:, None])[None]


def _norm_gradient(dx, chunk):
  """Gradients of data [B, m, c] and positions [m, P] through the norm."""
  x = chunk.normalised().astype(jnp.float32)
  dx = dx - dx.mean(-1, keepdims=True) - x * (dx * x).mean(-1, keepdims=True)
  dx = dx * chunk.scale[..., None]
  split = chunk.data.shape[-1]
  return dx[..., :split], dx[..., split:].sum(0)


_read.defvjp(_read_forward, _read_backward, symbolic_zeros=True)
