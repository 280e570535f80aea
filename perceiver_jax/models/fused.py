"""Attention in one kernel: cuDNN's, for half precision on NVIDIA GPUs.

The kernel wants one width for queries, keys and values, a multiple of 8.
Narrower ones get zeros, which add nothing to a logit, and what they add to the
result is cut off. Shapes as in `attention`.
"""

import functools

import jax
from jax import numpy as jnp

_MULTIPLE = 8  # Of the width of a head.
_IMPLEMENTATION = "cudnn"


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

  Raises:
    ValueError: There is no such kernel here, or not for such arrays.
  """
  width = _width(q, v)
  if mask is not None:
    # It becomes a bias, which the kernel takes whole.
    full = (q.shape[0], q.shape[1], k.shape[1])
    mask = jnp.broadcast_to(mask, full)[:, None]
  try:
    out = jax.nn.dot_product_attention(
      *(_widened(x, width) for x in (q, k, v)),
      mask=mask,
      scale=q.shape[-1] ** -0.5,
      implementation=_IMPLEMENTATION,
    )[..., : v.shape[-1]]
  except (NotImplementedError, RuntimeError) as error:
    raise ValueError(
      f"execution.attention 'cudnn' is not possible here: {error}; choose"
      " 'auto'"
    ) from error
  if mask is not None:
    # Where nothing may be read, it takes the mean of everything.
    readable = mask.any(-1)[:, 0, :, None, None]
    out = jnp.where(readable, out, 0)
  return out


def fits(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None
) -> bool:
  """Whether the kernel takes such arrays here, and padding them pays.

  Padding must leave the products at most twice as large. What else the kernel
  can do depends on the card and its library: JAX is asked.
  """
  if jax.default_backend() != "gpu":
    return False
  if _width(q, v) > q.shape[-1] + v.shape[-1]:  # Twice the mean of both.
    return False
  arrays = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v))
  shape = None if mask is None else jax.ShapeDtypeStruct(mask.shape, mask.dtype)
  return _is_taken(*arrays, shape)


@functools.lru_cache
def _is_taken(q, k, v, mask) -> bool:
  def gradients(q, k, v, mask):
    loss = lambda *args: attend(*args, mask).astype(jnp.float32).sum()
    return jax.grad(loss, (0, 1, 2))(q, k, v)

  try:
    jax.eval_shape(gradients, q, k, v, mask)
  except ValueError:
    return False
  return True


def _width(q: jax.Array, v: jax.Array) -> int:
  """The width of a head that both fit into."""
  widest = max(q.shape[-1], v.shape[-1])
  return -(-widest // _MULTIPLE) * _MULTIPLE


def _widened(x: jax.Array, width: int) -> jax.Array:
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
