"""Cross-attention whose larger side is not projected.

With one head, logits (q W_q)(x W_k)^T are also (q W_q W_k^T) x^T, and A (x W_v)
is also (A x) W_v. So the key and value projections of a large input array can
be absorbed into its few queries and their results, and likewise the query and
output projections of many queries into few keys and values. Biases of keys add
the same number to all logits of a query and cancel in the softmax.

Shapes: B batch, N queries, M inputs; C = c + P input channels, of which P are
position encodings that all examples share.
"""

import functools
from typing import NamedTuple

import jax
from jax import numpy as jnp

from perceiver_jax.models.ops import masks, online_softmax
from perceiver_jax.models.ops.dot_product_attention import named_scope
from perceiver_jax.models.ops.gradients import EPS
from perceiver_jax.models.ops.masks import Mask
from perceiver_jax.models.ops.online_softmax import product

# Two arrays: weights and bias, or scale and offset.
Parameters = tuple[jax.Array, jax.Array]


def cheapest(
  *,
  num_queries: int,
  query_channels: int,
  num_inputs: int,
  input_channels: int,
  qk_channels: int,
  v_channels: int,
  output_channels: int,
) -> str:
  """Returns where projections are absorbed for the fewest multiply-adds.

  Returns:
    "queries": those of keys and values into queries and results; "keys": those
    of queries and outputs into keys and values; or "nowhere".
  """
  n, e, m, c = num_queries, query_channels, num_inputs, input_channels
  f, v, g = qk_channels, v_channels, output_channels
  costs = {
    "nowhere": n * e * f + m * c * (f + v) + n * m * (f + v) + n * v * g,
    "queries": n * e * f + n * f * c + 2 * n * m * c + n * c * v + n * v * g,
    "keys": m * c * (f + v) + m * (f * (e + 1) + v * g) + n * m * (e + 1 + g),
  }
  return min(costs, key=costs.get)


def attend_unprojected(
  queries: jax.Array,
  data: jax.Array,
  positions: jax.Array | None,
  norm: Parameters,
  key: Parameters,
  value: Parameters,
  mask: Mask | None,
  target: str = "cpu",
) -> jax.Array:
  """Attends with one head to inputs whose keys and values are never computed.

  Equal to `plain_attention(queries, key(x), value(x), mask)`, where x is
  `norm([data, positions])`.

  Args:
    queries: [B, N, F], or [1, N, F] if all examples share them, as in a first
      cross-attend.
    data: [B, M, c].
    positions: [M, P], or None where the data have all channels.
    norm: Scale and offset of a LayerNorm, each [C].
    key: Weights [C, F] and bias of the key projection.
    value: Weights [C, V] and bias of the value projection.
    mask: An array [#B, #N, #M], True where a query may attend to an input, or a
      `CausalMask`.
    target: Platform that is compiled for; see `Execution.target`.

  Returns:
    [B, N, V]; zeros for a query that may attend to no input.
  """
  scale, offset = (x.astype(queries.dtype) for x in norm)
  (w_k, _), (w_v, b_v) = key, value
  # The offset of the norm adds the same number to all logits of a query too.
  q = (queries * queries.shape[-1] ** -0.5 @ w_k.T) * scale
  data = data.astype(q.dtype)
  if positions is not None:
    positions = positions.astype(q.dtype)
  with named_scope("unprojected", q.shape[1], data.shape[1]):
    x = attend_to_normalized(q, data, positions, mask, target)
  out = (x.astype(q.dtype) * scale + offset) @ w_v + b_v
  if mask is None:
    return out
  attends = masks.as_array(mask).any(-1)
  return jnp.where(attends[..., None], out, 0)


def absorb_into_keys(
  keys: jax.Array,
  values: jax.Array,
  w_q: jax.Array,
  b_q: jax.Array,
  w_o: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Absorbs the query and output projections of one head into keys and values.

  `output(attention(query(x), keys, values))` is
  `attention(append_one(x), *absorb_into_keys(...)) + b_o`.

  Args:
    keys: [B, M, F].
    values: [B, M, V].
    w_q: Weights of the query projection [D, F].
    b_q: Its bias [F].
    w_o: Weights of the output projection [V, G].

  Returns:
    Keys [B, M, D + 1] and values [B, M, G].
  """
  # The bias of the queries adds a number to each key's logits: one channel
  # more. Logits are divided by the root of the width of the keys.
  keys_of_inputs = jnp.concatenate([keys @ w_q.T, (keys @ b_q)[..., None]], -1)
  ratio = keys_of_inputs.shape[-1] / keys.shape[-1]
  return keys_of_inputs * ratio**0.5, values @ w_o


def append_one(queries: jax.Array) -> jax.Array:
  """Appends the channel that multiplies the bias in `absorb_into_keys`."""
  ones = jnp.ones((*queries.shape[:-1], 1), queries.dtype)
  return jnp.concatenate([queries, ones], -1)


def attend_to_normalized(
  queries: jax.Array,
  data: jax.Array,
  positions: jax.Array | None,
  mask: Mask | None,
  target: str = "cpu",
) -> jax.Array:
  """Returns, for each query, the attention-weighted mean of normalized inputs.

  The inputs are LayerNorm([data, positions]) without scale and offset. They are
  normalized chunk by chunk, so the array [B, M, C] never exists.

  Args:
    queries: [B, N, C], scaled, with the key projection absorbed; or [1, N, C]
      if all examples share them, as in a first cross-attend. The logits of the
      positions are then computed once for the whole batch.
    data: [B, M, c].
    positions: [M, P], or None where the data have all channels.
    mask: An array [#B, #N, #M], True where a query may attend to an input, or a
      `CausalMask`.
    target: Platform that is compiled for; see `Execution.target`.

  Returns:
    float32 [B, N, C]; zeros for a query that may attend to no input.
  """
  if positions is None:
    positions = jnp.zeros((data.shape[1], 0), data.dtype)
  out = online_softmax.chunked_attention(
    _score, queries, (data, positions[None]), mask, target=target
  )
  return out[:, 0]


class _Inputs(NamedTuple):
  """A chunk of inputs with the statistics of their norm.

  Attributes:
    data: [B, M, c].
    positions: [1, M, P].
    mean: float32 [B, M].
    inverse: float32 [B, M], one over the standard deviation.
  """

  data: jax.Array
  positions: jax.Array
  mean: jax.Array
  inverse: jax.Array


def _score(
  queries: jax.Array, keys: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Scores a chunk for `online_softmax`; the values are the inputs."""
  inputs = _statistics(*keys)
  normalized = _normalize(inputs)
  if queries.shape[0] < normalized.shape[0]:
    logits = _shared_logits(queries, normalized, inputs)
  else:
    logits = product("bnc,bmc->bnm", queries, normalized)
  return logits[:, None], normalized[:, None]


def _statistics(data: jax.Array, positions: jax.Array) -> _Inputs:
  """Returns a chunk with mean and standard deviation over all C channels."""
  x, p = data.astype(jnp.float32), positions.astype(jnp.float32)
  # Gradients pass through `_normalize` alone.
  x, p = map(jax.lax.stop_gradient, (x, p))
  width = x.shape[-1] + p.shape[-1]
  mean = (x.sum(-1) + p.sum(-1)) / width
  deviation = ((x - mean[..., None]) ** 2).sum(-1)
  if p.shape[-1]:
    # Taken about the positions' own mean once, instead of for each example.
    center = p.mean(-1)
    deviation += ((p - center[..., None]) ** 2).sum(-1)
    deviation += p.shape[-1] * (mean - center) ** 2
  return _Inputs(data, positions, mean, jax.lax.rsqrt(deviation / width + EPS))


@jax.custom_vjp
def _normalize(inputs: _Inputs) -> jax.Array:
  """Returns the normalized inputs [B, M, C], in the dtype of the data."""
  data, positions = inputs.data, inputs.positions
  # Faster than broadcasting the positions and concatenating, on CPUs too.
  pad = lambda x, *width: jnp.pad(x, ((0, 0), (0, 0), width))
  x = pad(data, 0, positions.shape[-1]) + pad(positions, data.shape[-1], 0)
  x = x.astype(jnp.float32)
  x = (x - inputs.mean[..., None]) * inputs.inverse[..., None]
  return x.astype(data.dtype)


def _normalize_forward(inputs):
  normalized = _normalize(inputs)
  return normalized, (normalized, inputs)


def _normalize_backward(saved, grad):
  normalized, inputs = saved
  x, grad = normalized.astype(jnp.float32), grad.astype(jnp.float32)
  mean = functools.partial(jnp.mean, axis=-1, keepdims=True)
  dx = (grad - mean(grad) - x * mean(grad * x)) * inputs.inverse[..., None]
  split = inputs.data.shape[-1]
  return (
    _Inputs(
      dx[..., :split].astype(inputs.data.dtype),
      dx[..., split:].sum(0, keepdims=True).astype(inputs.positions.dtype),
      jnp.zeros_like(inputs.mean),
      jnp.zeros_like(inputs.inverse),
    ),
  )


_normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def _shared_logits(
  queries: jax.Array, normalized: jax.Array, inputs: _Inputs
) -> jax.Array:
  """Returns the logits [B, N, M] of queries [1, N, C] that all examples share.

  They are products of queries and normalized inputs, but positions are
  multiplied once, not for each example.
  """
  split = inputs.data.shape[-1]
  q, q_positions = queries[0, :, :split], queries[0, :, split:]
  own = _einsum("nc,bmc->bnm", q, inputs.data)
  shared = _einsum("nc,mc->nm", q_positions, inputs.positions[0])
  total = queries[0].astype(jnp.float32).sum(-1)
  mean = total[:, None] * inputs.mean[:, None]
  return (own + shared - mean) * inputs.inverse[:, None]


def _shared_logits_forward(queries, normalized, inputs):
  return _shared_logits(queries, normalized, inputs), (queries, inputs)


def _shared_logits_backward(saved, grad):
  queries, inputs = saved
  dtype = queries.dtype
  scaled = grad * inputs.inverse[:, None]
  own = _einsum("bnm,bmc->nc", scaled.astype(dtype), inputs.data)
  shared = _einsum(
    "nm,mc->nc", scaled.sum(0).astype(dtype), inputs.positions[0]
  )
  mean = (scaled * inputs.mean[:, None]).sum((0, 2))
  dqueries = jnp.concatenate([own, shared], -1) - mean[:, None]
  dnormalized = _einsum("bnm,nc->bmc", grad.astype(dtype), queries[0])
  return (
    dqueries[None].astype(dtype),
    dnormalized.astype(inputs.data.dtype),
    jax.tree.map(jnp.zeros_like, inputs),
  )


_shared_logits.defvjp(_shared_logits_forward, _shared_logits_backward)

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
