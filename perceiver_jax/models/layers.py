"""Linear layers and LayerNorm, with backward passes of their own.

What autodiff makes of them is slow on a CPU: it copies each layer's gradient,
transposed, to multiply it with the inputs; it sums rows and columns with loops,
where products with ones are several times as fast; and it takes four means over
the channels for a norm's gradient, which needs two. `written` passes have none
of this. They cannot be differentiated forward (`jax.jvp`); for that, choose
`execution.use(backward="derived")`.
"""

import haiku as hk
import jax
from jax import ad_checkpoint
from jax import numpy as jnp

from perceiver_jax.models import execution
from perceiver_jax.models.typing import (
  Array,
  Float,
)

EPS = 1e-5  # Of every LayerNorm.


class Linear(hk.Module):
  """A biased linear layer with the papers' initialisation.

  That is variance scaling 1.0 over fan-in, truncated normal (Perceiver IO,
  app. E.1, and the authors' code).

  Args:
    size: D, output channels.
  """

  def __init__(self, size: int, name: str | None = None):
    super().__init__(name=name)
    self._size = size

  def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
    """Applies the layer; checkpoint policies know the result by its name."""
    out = linear(x, *self.parameters(x.shape[-1]))
    return ad_checkpoint.checkpoint_name(out, self.name)

  def parameters(
    self, input_channels: int
  ) -> tuple[Float[Array, "C D"], Float[Array, "D"]]:
    """Weights and bias."""
    init = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
    w = hk.get_parameter("w", (input_channels, self._size), init=init)
    return w, hk.get_parameter("b", (self._size,), init=jnp.zeros)


class LayerNorm(hk.Module):
  """LayerNorm over channels with learned scale and offset, eps 1e-5."""

  def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Normalises each element."""
    # Not by the method below, whose results precision policies would round.
    return layer_norm(x, *_norm_parameters(x.shape[-1]))

  def parameters(
    self, channels: int
  ) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    """Scale and offset, for a norm that is taken elsewhere."""
    return _norm_parameters(channels)


def _norm_parameters(channels: int) -> tuple[jax.Array, jax.Array]:
  scale = hk.get_parameter("scale", (channels,), init=jnp.ones)
  return scale, hk.get_parameter("offset", (channels,), init=jnp.zeros)


def linear(
  x: Float[Array, "*B C"], w: Float[Array, "C D"], b: Float[Array, "D"]
) -> Float[Array, "*B D"]:
  """`x @ w + b`."""
  if not _is_written():
    return _linear(x, w, b)
  return _linear_written(*_of_one_type(x, w, b))


def layer_norm(
  x: Float[Array, "*B C"], scale: Float[Array, "C"], offset: Float[Array, "C"]
) -> Float[Array, "*B C"]:
  """`x` with mean 0 and variance 1 over channels, scaled and offset."""
  if not _is_written():
    return _layer_norm(x, scale, offset)
  return _layer_norm_written(*_of_one_type(x, scale, offset))


def _is_written() -> bool:
  choice = execution.current().backward
  if choice == "auto":  # Elsewhere, neither was measured.
    return jax.default_backend() == "cpu"
  return choice == "written"


def _of_one_type(*args: jax.Array) -> list[jax.Array]:
  """So that each gradient has the type of what it is of."""
  dtype = jnp.result_type(*args)
  return [x.astype(dtype) for x in args]


def _linear(x, w, b):
  return x @ w + b


_linear_written = jax.custom_vjp(_linear)


def _linear_forward(x, w, b):
  return _linear(x, w, b), (x, w)


def _linear_backward(saved, grad):
  x, w = saved
  flat_x, flat_grad = _rows(x), _rows(grad)
  # Written so that XLA copies nothing to its transpose.
  dx = jax.lax.dot_general(flat_grad, w, (((1,), (1,)), ((), ())))
  dw = jax.lax.dot_general(flat_x, flat_grad, (((0,), (0,)), ((), ())))
  return dx.reshape(x.shape), dw, flat_grad.sum(0)


_linear_written.defvjp(_linear_forward, _linear_backward)


def _layer_norm(x, scale, offset):
  """As in Haiku's LayerNorm, which the authors' code uses."""
  mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  inverse = scale * jax.lax.rsqrt(variance + EPS)
  return inverse * (x - mean) + offset


@jax.custom_vjp
def _layer_norm_written(x, scale, offset):
  return _layer_norm_forward(x, scale, offset)[0]


def _layer_norm_forward(x, scale, offset):
  centred = x - x.mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPS)
  normalised = centred * inverse
  return normalised * scale + offset, (normalised, inverse, scale)


def _layer_norm_backward(saved, grad):
  normalised, inverse, scale = saved
  dnorm = grad * scale * inverse
  ones = jnp.ones((dnorm.shape[-1], 1), dnorm.dtype)
  mean = lambda x: jnp.matmul(x, ones, precision="highest") / len(ones)
  dx = dnorm - mean(dnorm) - normalised * mean(dnorm * normalised)
  return dx, _column_sums(grad * normalised), _column_sums(grad)


_layer_norm_written.defvjp(_layer_norm_forward, _layer_norm_backward)


def _column_sums(x: jax.Array) -> jax.Array:
  rows = _rows(x)
  ones = jnp.ones(len(rows), x.dtype)
  return jnp.matmul(ones, rows, precision="highest")


def _rows(x: jax.Array) -> jax.Array:
  return x.reshape(-1, x.shape[-1])
