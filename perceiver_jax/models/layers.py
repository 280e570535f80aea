"""Linear layers and LayerNorm, as in the authors' code.

Shapes: C input channels, D output channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import haiku as hk
import jax
import numpy as np
from jax import ad_checkpoint
from jax import numpy as jnp

from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.ops import gradients
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Float


class Linear(hk.Module):
  """A biased linear layer with the papers' initialization.

  Weights start from variance scaling 1.0 over fan-in, truncated normal
  (Perceiver IO, app. E.1, and the authors' code).

  Args:
    size: D.
    execution: How it is computed.
  """

  def __init__(
    self,
    size: int,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._size = size
    self._custom_gradients = execution.uses_custom_linear_gradients

  def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
    """Applies the layer; checkpoint policies know the result by its name."""
    w, b = self.parameters(x.shape[-1])
    out = gradients.linear(x, w, b, self._custom_gradients)
    return ad_checkpoint.checkpoint_name(out, self.name)

  def parameters(
    self, input_channels: int
  ) -> tuple[Float[Array, "C D"], Float[Array, "D"]]:
    """Returns weights and bias."""
    init = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
    w = hk.get_parameter("w", (input_channels, self._size), init=init)
    return w, hk.get_parameter("b", (self._size,), init=jnp.zeros)


class LayerNorm(hk.Module):
  """LayerNorm over channels with learned scale and offset, epsilon 1e-5.

  Args:
    name: Name of the module.
    execution: How it is computed.
  """

  def __init__(self, name: str | None = None, execution: Execution = AUTO):
    super().__init__(name=name)
    self._custom_gradients = execution.uses_custom_norm_gradients
    self._sum_by_product = execution.target != "tpu"

  def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Normalizes each element."""
    # Not by the method below, whose results precision policies would round.
    scale, offset = _norm_parameters(x.shape[-1])
    return gradients.layer_norm(
      x, scale, offset, self._custom_gradients, self._sum_by_product
    )

  def parameters(
    self, channels: int
  ) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    """Returns scale and offset, for `DeferredNorm`."""
    return _norm_parameters(channels)


class DeferredNorm(NamedTuple):
  """A normalized input array that is only computed where it is needed.

  Attributes:
    inputs: The input array, not normalized.
    norm: Its LayerNorm.
  """

  inputs: InputArray
  norm: LayerNorm

  @property
  def shape(self) -> tuple[int, int, int]:
    """Returns the shape (B, M, C)."""
    return self.inputs.shape

  def array(self) -> jax.Array:
    """Returns the normalized array."""
    return self.norm(self.inputs.array())


def apply_to_same(
  layers: Sequence[Linear], x: jax.Array, execution: Execution
) -> list[jax.Array]:
  """Returns `[layer(x) for layer in layers]`.

  With `execution.fuse_qkv` this is one product with all their weights.
  """
  if not execution.fuses_qkv:
    return [layer(x) for layer in layers]
  parameters = [layer.parameters(x.shape[-1]) for layer in layers]
  ends = np.cumsum([b.shape[0] for _, b in parameters])
  w, b = (jnp.concatenate(x, -1) for x in zip(*parameters, strict=True))
  out = gradients.linear(x, w, b, execution.uses_custom_linear_gradients)
  return [
    ad_checkpoint.checkpoint_name(part, layer.name)
    for part, layer in zip(jnp.split(out, ends[:-1], -1), layers, strict=True)
  ]


def _norm_parameters(channels: int) -> tuple[jax.Array, jax.Array]:
  scale = hk.get_parameter("scale", (channels,), init=jnp.ones)
  return scale, hk.get_parameter("offset", (channels,), init=jnp.zeros)
