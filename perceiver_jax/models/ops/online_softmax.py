"""Online softmax: weighted means of values without holding all logits.

FlashAttention's algorithm (arXiv 2205.14135, 2307.08691) in plain JAX; m, l,
alpha and delta are its names. Keys, or queries if there are more of them, are
taken in chunks. The backward pass recomputes the logits of each chunk from the
saved log-sum-exp, so memory beyond arguments and results is that of one chunk.

Every kind of attention is described by a function that scores one chunk:

    score(queries, keys) -> logits [B, H, N, M], values [B, H, M, V]

Queries and keys are pytrees of arrays with the sequence on axis 1. The batch
size of queries may be 1 where all examples share them.

Shapes: B batch, H heads, N queries, M keys, V value channels per head.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from perceiver_jax.models.ops import masks
from perceiver_jax.models.ops.masks import Mask

MASKED_LOGIT = -1e30
# Logits held at once, over batch and heads: 16 MiB in float32, which stay in
# the cache of a CPU and keep an accelerator busy.
CHUNK_LOGITS = 2**22
# On TPUs, up to this many logits are faster whole, and the forward pass over
# more of them in larger chunks (docs/tpu.md).
TPU_WHOLE_LOGITS = 2**26
TPU_FORWARD_LOGITS = 2**24
_CHUNK_MULTIPLE = 128
# Checkpoint policies know the result and its log-sum-exp by these names; where
# both are saved, a backward pass does not attend again.
RESULTS = ("attention", "log_sum_exp")

_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

Score = Callable[[Any, Any], tuple[jax.Array, jax.Array]]


class Softmax(NamedTuple):
  """The state of an online softmax after some keys, in float32.

  Attributes:
    m: The largest logit [B, H, N].
    l: The sum of `exp(logit - m)` [B, H, N].
    acc: The sum of values weighted by `exp(logit - m)` [B, H, N, V].
  """

  m: jax.Array
  l: jax.Array
  acc: jax.Array


def update(
  state: Softmax | None,
  logits: jax.Array,
  values: jax.Array,
  mask: jax.Array | None = None,
  sum_by_product: bool = False,
) -> Softmax:
  """Adds a chunk of keys to an online softmax.

  Args:
    state: The state after the keys before; None at the first chunk.
    logits: Scaled logits [B, H, N, M].
    values: [B, H, M, V].
    mask: Broadcastable to the logits, True where a query may attend to a key.
    sum_by_product: Whether `l` is one more channel of the product with the
      values, which on TPUs is faster than a sum over the last axis.
  """
  if mask is not None:
    logits = jnp.where(mask, logits, MASKED_LOGIT)
  m = logits.max(-1)
  if state is not None:
    m = jnp.maximum(state.m, m)
  # The maximum only limits the range; the result does not depend on it.
  m = lax.stop_gradient(m)
  p = jnp.exp(logits - m[..., None])
  if mask is not None:
    p = jnp.where(mask, p, 0.0)
  channels = values.shape[-1]
  if sum_by_product:
    ones = jnp.ones((*values.shape[:-1], 1), values.dtype)
    values = jnp.concatenate([values, ones], -1)
  acc = _einsum("bhnm,bhmv->bhnv", p.astype(values.dtype), values)
  l = acc[..., channels] if sum_by_product else p.sum(-1)
  acc = acc[..., :channels]
  if state is not None:
    alpha = jnp.exp(state.m - m)
    l += alpha * state.l
    acc += alpha[..., None] * state.acc
  return Softmax(m, l, acc)


def finalize(state: Softmax) -> tuple[jax.Array, jax.Array]:
  """Returns the mean of the values [B, H, N, V] and log-sum-exp [B, H, N].

  A query with no key to attend to gets zeros.
  """
  l = jnp.where(state.l > 0, state.l, 1.0)
  return state.acc / l[..., None], state.m + jnp.log(l)


def chunked_attention(
  score: Score,
  queries: Any,
  keys: Any,
  mask: Mask | None,
  *,
  dtype: Any = jnp.float32,
  target: str = "cpu",
) -> jax.Array:
  """Returns the softmax-weighted mean of values for each query.

  Equal to `finalize(update(None, *score(queries, keys), array))[0]`, in value
  and gradient, with the mask as an array.

  Args:
    score: Scores a chunk; a function of the module level, without closure.
    queries: Arrays [B or 1, N, ...].
    keys: Arrays [B or 1, M, ...].
    mask: An array [#B, #N, #M], True where a query may attend to a key, or a
      `CausalMask`.
    dtype: Type of the result, which the backward pass keeps.
    target: Platform that is compiled for, which decides how to cut and to sum;
      see `Execution.target`.

  Returns:
    [B, H, N, V].
  """
  return _attend(score, _Options(dtype, target), queries, keys, mask)


class _Options(NamedTuple):
  """The type of the result, and the platform that is compiled for."""

  dtype: Any
  target: str


def chunk_size(
  length: int, logits_per_element: int, target: str, *, backward: bool = False
) -> int:
  """Returns the size of a chunk.

  Args:
    length: Length of the axis that is cut into chunks.
    logits_per_element: Batch x heads x length of the other axis.
    target: Platform that is compiled for.
    backward: Whether the chunks are those of the backward pass.
  """
  limit = CHUNK_LOGITS
  if target == "tpu":
    if length * logits_per_element <= TPU_WHOLE_LOGITS:
      return length
    limit = CHUNK_LOGITS if backward else TPU_FORWARD_LOGITS
  size = max(1, limit // max(logits_per_element, 1))
  if size > _CHUNK_MULTIPLE:
    size -= size % _CHUNK_MULTIPLE
  return min(length, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Computes an einsum of two arrays that sums in float32.

  The backward pass rounds the incoming gradient to the type of the operands, so
  that in bfloat16 all products are of bfloat16.
  """
  return _einsum(spec, x, y)


def _product_forward(spec, x, y):
  return product(spec, x, y), (x, y)


def _product_backward(spec, saved, grad):
  x, y = saved
  grad = grad.astype(x.dtype)
  operands, out = spec.split("->")
  x_spec, y_spec = operands.split(",")
  dx = _einsum(f"{out},{y_spec}->{x_spec}", grad, y)
  dy = _einsum(f"{out},{x_spec}->{y_spec}", grad, x)
  return dx.astype(x.dtype), dy.astype(y.dtype)


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(score, options, queries, keys, mask):
  return _forward(score, options, queries, keys, mask)[0].astype(options.dtype)


def _forward(score, options, queries, keys, mask):
  """Returns the result and the log-sum-exp."""
  logits, values = jax.eval_shape(score, queries, keys)
  *shape, num_keys = logits.shape
  batch, heads, num_queries = shape
  add = functools.partial(update, sum_by_product=options.target == "tpu")
  if num_queries > num_keys:

    def over_queries(carry, start, size):
      out, lse = carry
      chunk_logits, chunk_values = score(_slice(queries, start, size), keys)
      state = add(
        None, chunk_logits, chunk_values, masks.chunk(mask, start, size, 1)
      )
      chunk_out, chunk_lse = finalize(state)
      return _write(out, chunk_out, start, 2), _write(lse, chunk_lse, start, 2)

    start = (
      jnp.zeros((*shape, values.shape[-1]), jnp.float32),
      jnp.zeros(shape, jnp.float32),
    )
    size = chunk_size(num_queries, batch * heads * num_keys, options.target)
    return _loop(num_queries, size, over_queries, start)

  def over_keys(state, start, size):
    chunk_logits, chunk_values = score(queries, _slice(keys, start, size))
    chunk_mask = masks.chunk(mask, start, size, 2)
    return add(state, chunk_logits, chunk_values, chunk_mask)

  start = Softmax(
    m=jnp.full(shape, -jnp.inf, jnp.float32),
    l=jnp.zeros(shape, jnp.float32),
    acc=jnp.zeros((*shape, values.shape[-1]), jnp.float32),
  )
  size = chunk_size(num_keys, batch * heads * num_queries, options.target)
  return finalize(_loop(num_keys, size, over_keys, start))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Needed:
  """Records if gradients of the keys are needed; those of pixels are not."""

  keys: bool


def _attend_forward(score, options, queries, keys, mask):
  needed = _Needed(any(x.perturbed for x in jax.tree.leaves(keys)))
  queries, keys, mask = jax.tree.map(lambda x: x.value, (queries, keys, mask))
  out, lse = _forward(score, options, queries, keys, mask)
  out = checkpoint_name(out.astype(options.dtype), RESULTS[0])
  lse = checkpoint_name(lse, RESULTS[1])
  return out, (queries, keys, mask, out, lse, needed)


def _attend_backward(score, options, saved, grad):
  queries, keys, mask, out, lse, needed = saved
  grad = grad.astype(jnp.float32)
  delta = (grad * out).sum(-1)

  def chunk_gradients(queries, keys, mask, lse, delta, grad):
    """Returns what one chunk adds to the gradients of queries and keys."""
    if needed.keys:
      (logits, values), pullback = jax.vjp(score, queries, keys)
    else:
      (logits, values), pullback = jax.vjp(lambda q: score(q, keys), queries)
    if mask is not None:
      logits = jnp.where(mask, logits, MASKED_LOGIT)
    grad = grad.astype(values.dtype)
    p = jnp.exp(logits - lse[..., None])
    dlogits = p * (_einsum("bhnv,bhmv->bhnm", grad, values) - delta[..., None])
    if mask is not None:
      # Masked logits may have overflowed, and 0 x inf is NaN.
      p, dlogits = jnp.where(mask, p, 0.0), jnp.where(mask, dlogits, 0.0)
    dvalues = _einsum("bhnm,bhnv->bhmv", p.astype(values.dtype), grad)
    return pullback((dlogits, dvalues.astype(values.dtype)))

  batch, heads, num_queries = lse.shape
  num_keys = jax.tree.leaves(keys)[0].shape[1]
  add = lambda x, more: jax.tree.map(jnp.add, x, more)

  def over_queries(carry, start, size):
    dqueries, dkeys = carry
    dchunk, *more = chunk_gradients(
      _slice(queries, start, size),
      keys,
      masks.chunk(mask, start, size, 1),
      *(_slice(x, start, size, 2) for x in (lse, delta, grad)),
    )
    return _write(dqueries, dchunk, start), add(dkeys, more)

  def over_keys(carry, start, size):
    dqueries, dkeys = carry
    more, *dchunk = chunk_gradients(
      queries,
      _slice(keys, start, size),
      masks.chunk(mask, start, size, 2),
      lse,
      delta,
      grad,
    )
    return add(dqueries, more), _write(dkeys, dchunk, start)

  # What is summed over chunks is summed in float32.
  zeros = functools.partial(jax.tree.map, jnp.zeros_like)
  sums = functools.partial(
    jax.tree.map, lambda x: jnp.zeros(x.shape, jnp.float32)
  )
  dkeys = [keys] if needed.keys else []
  if num_queries > num_keys:
    size = chunk_size(
      num_queries, batch * heads * num_keys, options.target, backward=True
    )
    start = zeros(queries), sums(dkeys)
    dqueries, dkeys = _loop(num_queries, size, over_queries, start)
  else:
    size = chunk_size(
      num_keys, batch * heads * num_queries, options.target, backward=True
    )
    start = sums(queries), zeros(dkeys)
    dqueries, dkeys = _loop(num_keys, size, over_keys, start)
  cast = functools.partial(jax.tree.map, lambda x, y: x.astype(y.dtype))
  dkeys = cast(dkeys[0], keys) if needed.keys else jax.tree.map(_none, keys)
  return cast(dqueries, queries), dkeys, jax.tree.map(_none, mask)


def _none(_: Any) -> None:
  """Returns None, which stands for a gradient of zero."""


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


def _loop(length: int, size: int, body: Any, carry: Any) -> Any:
  """Runs `carry = body(carry, start, size)` over [0, length) in chunks.

  All full chunks share one compiled loop. The rest is compiled separately, so
  that nothing is padded.
  """
  full = length // size
  if full == 1:
    carry = body(carry, 0, size)
  elif full:
    carry = lax.fori_loop(0, full, lambda i, c: body(c, i * size, size), carry)
  if rest := length - full * size:
    carry = body(carry, full * size, rest)
  return carry


def _slice(tree: Any, start: Any, size: int, axis: int = 1) -> Any:
  """Returns `size` elements of each array from `start` on."""
  take = lambda x: lax.dynamic_slice_in_dim(x, start, size, axis)
  return jax.tree.map(take, tree)


def _write(tree: Any, part: Any, start: Any, axis: int = 1) -> Any:
  """Returns arrays into which `part` is written from `start` on."""
  put = lambda x, y: lax.dynamic_update_slice_in_dim(
    x, y.astype(x.dtype), start, axis
  )
  return jax.tree.map(put, tree, part)
