"""Attention with cuDNN's fused kernel, for half precision on NVIDIA GPUs.

The kernel needs queries, keys and values of one width, a multiple of 8.
Narrower ones are padded with zeros, which add nothing to a logit, and the
padding of the result is cut off. Shapes as in `dot_product_attention`.
"""

import functools

import jax
from jax import numpy as jnp

from perceiver_jax.models.ops import masks
from perceiver_jax.models.ops.masks import CausalMask, Mask

_WIDTH_MULTIPLE = 8
_IMPLEMENTATION = "cudnn"


def cudnn_attention(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask | None
) -> jax.Array:
  """Computes `plain_attention` in one kernel.

  Raises:
    ValueError: This device has no such kernel, or not for such arrays.
  """
  width = _width(q, v)
  mask = masks.as_array(mask)
  if mask is not None:
    # The mask becomes a bias, which the kernel does not broadcast.
    full = (q.shape[0], q.shape[1], k.shape[1])
    mask = jnp.broadcast_to(mask, full)[:, None]
  try:
    out = jax.nn.dot_product_attention(
      *(_pad(x, width) for x in (q, k, v)),
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
    # The kernel averages all values where every key is masked.
    attends = mask.any(-1)[:, 0, :, None, None]
    out = jnp.where(attends, out, 0)
  return out


def fits(q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask | None) -> bool:
  """Returns whether the kernel supports such arrays and padding is worth it.

  Padding may at most double the products. The kernel's other limits depend on
  the card and its library, so JAX is asked.
  """
  if _width(q, v) > q.shape[-1] + v.shape[-1]:
    return False
  if isinstance(mask, CausalMask):  # The kernel would take it as an array.
    return False
  arrays = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v))
  shape = None if mask is None else jax.ShapeDtypeStruct(mask.shape, mask.dtype)
  return _is_supported(*arrays, shape)


@functools.lru_cache
def _is_supported(q, k, v, mask) -> bool:
  def gradients(q, k, v, mask):
    loss = lambda *args: cudnn_attention(*args, mask).astype(jnp.float32).sum()
    return jax.grad(loss, (0, 1, 2))(q, k, v)

  try:
    jax.eval_shape(gradients, q, k, v, mask)
  except ValueError:
    return False
  return True


def _width(q: jax.Array, v: jax.Array) -> int:
  """Returns the padded width of a head."""
  widest = max(q.shape[-1], v.shape[-1])
  return -(-widest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


def _pad(x: jax.Array, width: int) -> jax.Array:
  """Pads the last axis with zeros."""
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))
