"""Scaled dot-product attention, as defined and as computed.

Shapes: B batch, N queries, M keys, H heads, F query/key width per head, V value
width per head. F and V may differ, and any width works (261 and 322 occur).
"""

import functools
from typing import Any

import jax
from jax import numpy as jnp

from perceiver_jax.models.ops import cudnn, masks, online_softmax
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.masks import Mask
from perceiver_jax.models.typing import Array, Float

# "auto" never holds more logits than this at once.
_MAX_LOGITS = 2**24
# 64 MiB in float32, which fit into the vector memory of a TPU's core.
_TPU_GROUP_LOGITS = 2**24
_SCOPE = "dot_product_attention_"


def attention_logits(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  mask: Mask | None = None,
) -> Float[Array, "B H N M"]:
  """Returns the scaled dot products of queries and keys, in float32.

  Args:
    q: Queries.
    k: Keys.
    mask: True where a query may attend to a key; elsewhere the logit is
      `online_softmax.MASKED_LOGIT`.
  """
  logits = jnp.einsum(
    "bnhf,bmhf->bhnm", q, k, preferred_element_type=jnp.float32
  )
  logits *= q.shape[-1] ** -0.5
  if mask is None:
    return logits
  mask = masks.as_array(mask)
  # Finite, so that a fully masked row stays free of NaN in both directions.
  return jnp.where(mask[:, None], logits, online_softmax.MASKED_LOGIT)


def attention_weights(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  mask: Mask | None = None,
) -> Float[Array, "B H N M"]:
  """Returns the softmax of scaled dot products, in float32.

  Args:
    q: Queries.
    k: Keys.
    mask: True where a query may attend to a key.

  Returns:
    Weights that sum to one over keys; a fully masked row is all zeros.
  """
  mask = masks.as_array(mask)
  weights = jax.nn.softmax(attention_logits(q, k, mask))
  return weights if mask is None else jnp.where(mask[:, None], weights, 0.0)


def plain_attention(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  v: Float[Array, "B M H V"],
  mask: Mask | None = None,
) -> Float[Array, "B N H V"]:
  """Returns the weighted mean of values: the definition of attention."""
  weights = attention_weights(q, k, mask).astype(v.dtype)
  return jnp.einsum("bhnm,bmhv->bnhv", weights, v)


def dot_product_attention(
  q: Float[Array, "B N H F"],
  k: Float[Array, "B M H F"],
  v: Float[Array, "B M H V"],
  mask: Mask | None = None,
  execution: Execution = AUTO,
) -> Float[Array, "B N H*V"]:
  """Computes `plain_attention` and concatenates its heads (IO, app. E.1).

  Args:
    q: Queries.
    k: Keys.
    v: Values, of any width.
    mask: True where a query may attend to a key; a query that may attend to
      none gets zeros.
    execution: How it is computed.

  Returns:
    The attended values of each query, in the dtype of `v`.
  """
  implementation = execution.attention
  if implementation == "auto":
    implementation = _choose(q, k, v, mask, execution.target)
  attend = {
    "plain": plain_attention,
    "xla": _xla_attention,
    "chunked": functools.partial(_chunked_attention, target=execution.target),
    "cudnn": cudnn.cudnn_attention,
  }[implementation]
  with named_scope(implementation, q.shape[1], k.shape[1]):
    out = attend(q, k, v, mask)
  return out.reshape(*out.shape[:2], -1)


def named_scope(implementation: str, num_queries: int, num_keys: int) -> Any:
  """Names an attention in profiles, and for `implementations`."""
  return jax.named_scope(f"{_SCOPE}{implementation}_{num_queries}x{num_keys}")


def implementations(jaxpr: Any) -> list[str]:
  """Returns the attentions of a program, such as "chunked 512 x 50176"."""
  names: dict[str, None] = {}

  def visit(jaxpr):
    for eqn in jaxpr.eqns:
      for scope in str(eqn.source_info.name_stack).split("/"):
        if scope.startswith(_SCOPE):
          kind, _, sizes = scope[len(_SCOPE) :].rpartition("_")
          names[f"{kind} {sizes.replace('x', ' x ')}"] = None
      for inner in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
      ):
        if hasattr(inner, "eqns"):
          visit(getattr(inner, "jaxpr", inner))

  visit(jaxpr)
  return list(names)


def _choose(q, k, v, mask, platform: str) -> str:
  """Returns the implementation that "auto" stands for."""
  if platform == "gpu" and cudnn.fits(q, k, v, mask):
    return "cudnn"
  if platform == "tpu":  # Its results are saved for the backward pass.
    return "chunked"
  logits = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1]
  return "chunked" if logits > _MAX_LOGITS else "xla"


def _xla_attention(q, k, v, mask):
  """Attends with heads before elements, so that each head is contiguous.

  Rows are divided by their sums after the product with the values, which are
  fewer numbers than the weights.
  """
  q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
  logits = jnp.einsum(
    "bhnf,bhmf->bhnm", q, k, preferred_element_type=jnp.float32
  )
  mask = None if mask is None else masks.as_array(mask)[:, None]
  state = online_softmax.update(None, logits, v, mask)
  return _unsplit(online_softmax.finalize(state)[0], v.dtype)


def _chunked_attention(q, k, v, mask, target="cpu"):
  """Attends with an online softmax; the full matrix of logits never exists."""
  score = _score
  if target == "tpu":
    score = _scaled_score
  else:
    q = q * q.shape[-1] ** -0.5
  attend = functools.partial(
    online_softmax.chunked_attention, score, dtype=v.dtype, target=target
  )
  group = _group_size(q, k, mask) if target == "tpu" else 0
  if not group:
    return _unsplit(attend(q, (k, v), mask), v.dtype)
  batch, _, heads, _ = q.shape

  def split(x):
    """Reshapes [B, L, H, C] to [groups, 1, L, heads of a group, C]."""
    x = x.swapaxes(1, 2)
    return x.reshape(-1, 1, group, *x.shape[2:]).swapaxes(2, 3)

  def attend_group(group):
    number, q, k, v = group
    example = number * batch // num_groups
    return attend(q, (k, v), masks.of_example(mask, example))

  num_groups = batch * heads // group
  groups = jnp.arange(num_groups), *map(split, (q, k, v))
  out = jax.lax.map(attend_group, groups)
  return _unsplit(out.reshape(batch, heads, *out.shape[3:]), v.dtype)


def _group_size(q, k, mask):
  """Returns how many heads a TPU attends with at a time.

  The logits of a group fit into its vector memory, or the group is one head, of
  which keys or queries are then taken in chunks. Without a mask, it is faster
  to hold some more logits (docs/tpu.md), and a group may have heads of several
  examples. 0: all heads at a time.
  """
  all_heads = q.shape[0] * q.shape[2]
  per_head = q.shape[1] * k.shape[1]
  whole = online_softmax.TPU_WHOLE_LOGITS if mask is None else _TPU_GROUP_LOGITS
  if all_heads * per_head <= whole:
    return 0
  divided = all_heads if mask is None else q.shape[2]
  most = max(1, min(_TPU_GROUP_LOGITS // per_head, divided))
  return next(size for size in range(most, 0, -1) if divided % size == 0)


def _score(
  q: jax.Array, keys_values: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  k, v = keys_values
  logits = online_softmax.product("bnhf,bmhf->bhnm", q, k)
  return logits, v.swapaxes(1, 2)


def _scaled_score(
  q: jax.Array, keys_values: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Scores a chunk and scales the logits.

  On TPUs, scaling after the product is free by the compiler's estimate.
  """
  logits, values = _score(q, keys_values)
  return logits * q.shape[-1] ** -0.5, values


def _unsplit(out: jax.Array, dtype: Any) -> jax.Array:
  """Returns [B, H, N, V] as [B, N, H, V] of a type."""
  return out.astype(dtype).swapaxes(1, 2)
