"""PointNet as an encoder and a decoder: a baseline on point clouds.

Qi et al., "PointNet" (arXiv 1612.00593), with the sizes of its classifier. Left
out are the T-nets, which learn a linear transform of the coordinates and one of
the features, dropout, and BatchNorm: the loss of an example then depends
neither on the other examples of its batch nor on padding. Shapes as in
`perceiver_jax.models`.
"""

from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import layers
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.online_softmax import MASKED_LOGIT
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class PointNetEncoder(hk.Module):
  """An MLP that all elements share, and the maximum over elements.

  Args:
    hidden_sizes: Widths of its layers, each followed by a ReLU.
    execution: How it is computed.
  """

  def __init__(
    self,
    hidden_sizes: Sequence[int] = (64, 64, 64, 128, 1024),
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._hidden_sizes = tuple(hidden_sizes)
    self._execution = execution

  def __call__(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: jax.Array | None = None,
  ) -> tuple[Float[Array, "B 1 D"], list[Float[Array, "B 1 1 M"]]]:
    """Returns one latent, the pooled features; zeros for an empty cloud.

    The attention to an element is the share of the features whose maximum it
    is; the elements with any are the critical points of the paper.

    Raises:
      ValueError: `initial_latents` are given.
    """
    if initial_latents is not None:
      raise ValueError("PointNet has no latents to start from: leave them out")
    x = as_input_array(inputs).zero_padding(input_mask).array()
    x = _mlp(x, self._hidden_sizes, self._execution)
    if input_mask is not None:
      # Features are not negative, so a zero never changes a maximum.
      x = jnp.where(input_mask[..., None], x, 0)
    attention = []
    if return_attention:
      attention = [_shares_of_maxima(x, input_mask, return_attention)]
    return x.max(axis=1, keepdims=True), attention


class PointNetDecoder(hk.Module):
  """The classifier of PointNet: an MLP on its single latent.

  Args:
    num_classes: Number of logits.
    hidden_sizes: Widths of the hidden layers.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_classes: int,
    hidden_sizes: Sequence[int] = (512, 256),
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_classes = num_classes
    self._hidden_sizes = tuple(hidden_sizes)
    self._execution = execution

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B P"], None]:
    """Returns class logits, and no attention."""
    del inputs, input_mask, queries, return_attention
    x = _mlp(latents.mean(axis=1), self._hidden_sizes, self._execution)
    return layers.Linear(self._num_classes, self._execution, "output")(x), None


@hk.transparent
def _mlp(x: jax.Array, sizes: Sequence[int], execution: Execution) -> jax.Array:
  """Applies linear layers, each followed by a ReLU."""
  for i, size in enumerate(sizes):
    x = jax.nn.relu(layers.Linear(size, execution, f"hidden_{i}")(x))
  return x


def _shares_of_maxima(
  x: jax.Array, mask: jax.Array | None, what: ReturnAttention
) -> jax.Array:
  """Returns weights or logits [B, 1, 1, M] of features [B, M, D]."""
  real = jnp.ones(x.shape[:2], bool) if mask is None else mask
  first = jnp.where(real[..., None], x, -1).argmax(axis=1)  # [B, D]
  counts = jax.nn.one_hot(first, x.shape[1]).mean(axis=1)
  weights = jnp.where(real, counts, 0)[:, None, None]
  if what != "logits":
    return weights
  return jnp.maximum(jnp.log(weights), MASKED_LOGIT)
