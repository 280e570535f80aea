"""Linear layers and LayerNorm with custom gradients.

The gradients that autodiff derives are slow on a CPU: each layer's gradient is
copied to its transpose for the product with the inputs; rows and columns are
summed with loops, where products with ones are several times as fast; and the
gradient of a norm takes four means over the channels, where two are enough. On
TPUs, sums are cheap where XLA fuses them with a product, but the two extra
means still cost time.

Shapes: C input channels, D output channels.
"""

import functools

import jax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from perceiver_jax.models.typing import Array, Float

EPS = 1e-5  # The epsilon of every LayerNorm.
# Checkpoint policies know the statistics of a LayerNorm with custom gradients
# by these names; where both are saved, a backward pass does not sum again.
STATISTICS = ("mean", "rstd")


def linear(
  x: Float[Array, "*B C"],
  w: Float[Array, "C D"],
  b: Float[Array, "D"],
  custom_gradients: bool = True,
) -> Float[Array, "*B D"]:
  """Returns `x @ w + b`.

  Args:
    x: Inputs.
    w: Weights.
    b: Biases.
    custom_gradients: Whether the backward pass is ours.
  """
  if not custom_gradients:
    return _linear(x, w, b)
  return _linear_custom(*_to_common_type(x, w, b))


def layer_norm(
  x: Float[Array, "*B C"],
  scale: Float[Array, "C"],
  offset: Float[Array, "C"],
  custom_gradients: bool = True,
  sum_by_product: bool = True,
) -> Float[Array, "*B C"]:
  """Returns `x` with mean 0 and variance 1 over channels, scaled and offset.

  Args:
    x: Inputs.
    scale: Multiplies the normalized inputs.
    offset: Is added to them.
    custom_gradients: Whether the backward pass is ours.
    sum_by_product: Whether our backward pass sums with products with ones.
  """
  if not custom_gradients:
    return _layer_norm(x, scale, offset)
  args = _to_common_type(x, scale, offset)
  return _layer_norm_custom(sum_by_product, *args)


def _to_common_type(*args: jax.Array) -> list[jax.Array]:
  """Casts arrays, so that each gradient has the type of its array."""
  dtype = jnp.result_type(*args)
  return [x.astype(dtype) for x in args]


def _linear(x, w, b):
  return x @ w + b


_linear_custom = jax.custom_vjp(_linear)


def _linear_forward(x, w, b):
  return _linear(x, w, b), (x, w)


def _linear_backward(saved, grad):
  x, w = saved
  flat_x, flat_grad = _rows(x), _rows(grad)
  # In this form XLA does not copy operands to their transposes.
  dx = jax.lax.dot_general(flat_grad, w, (((1,), (1,)), ((), ())))
  dw = jax.lax.dot_general(flat_x, flat_grad, (((0,), (0,)), ((), ())))
  return dx.reshape(x.shape), dw, flat_grad.sum(0)


_linear_custom.defvjp(_linear_forward, _linear_backward)


def _layer_norm(x, scale, offset):
  """Computes Haiku's LayerNorm, which the authors' code uses."""
  mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  inverse = scale * jax.lax.rsqrt(variance + EPS)
  return inverse * (x - mean) + offset


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer_norm_custom(sum_by_product, x, scale, offset):
  return _layer_norm_forward(sum_by_product, x, scale, offset)[0]


def _layer_norm_forward(sum_by_product, x, scale, offset):
  del sum_by_product  # These sums are equally fast.
  mean = checkpoint_name(x.mean(-1, keepdims=True), STATISTICS[0])
  centered = x - mean
  variance = (centered**2).mean(-1, keepdims=True)
  rstd = checkpoint_name(jax.lax.rsqrt(variance + EPS), STATISTICS[1])
  return centered * rstd * scale + offset, (x, mean, rstd, scale)


def _layer_norm_backward(sum_by_product, saved, grad):
  x, mean, rstd, scale = saved
  normalized = (x - mean) * rstd
  dnorm = grad * scale * rstd
  if sum_by_product:
    ones = jnp.ones((x.shape[-1], 1), x.dtype)
    row_means = lambda x: jnp.matmul(x, ones, precision="highest") / len(ones)
  else:
    row_means = functools.partial(jnp.mean, axis=-1, keepdims=True)
  dx = dnorm - row_means(dnorm) - normalized * row_means(dnorm * normalized)
  dscale = _column_sums(grad * normalized, sum_by_product)
  return dx, dscale, _column_sums(grad, sum_by_product)


_layer_norm_custom.defvjp(_layer_norm_forward, _layer_norm_backward)


def _column_sums(x: jax.Array, by_product: bool) -> jax.Array:
  rows = _rows(x)
  if not by_product:
    return rows.sum(0)
  ones = jnp.ones(len(rows), x.dtype)
  return jnp.matmul(ones, rows, precision="highest")


def _rows(x: jax.Array) -> jax.Array:
  return x.reshape(-1, x.shape[-1])
