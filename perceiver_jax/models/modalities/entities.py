"""The adapter and decoder of entities, such as the units of a game.

Perceiver IO replaces AlphaStar's entity encoder (Perceiver IO v3, app. B).
Shapes: entities [B, M, F]; `input_mask` is True at real ones.
"""

from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import decoders, layers
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class EntitiesAdapter(hk.Module):
  """A linear layer on the features of each entity, without positions.

  Args:
    num_channels: C (Perceiver IO v3, Table 6).
  """

  def __init__(self, num_channels: int = 128, name: str | None = None):
    super().__init__(name=name)
    self._num_channels = num_channels

  def __call__(
    self, entities: Float[Array, "B M F"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array."""
    del is_training
    return layers.Linear(self._num_channels, name="embed")(entities)


class EntitiesDecoder(decoders.QueryDecoder):
  """Encodes each entity and all entities together, as in AlphaStar.

  The input elements are the output queries, one for each entity.

  Args:
    num_embedding_channels: G, the channels of both encodings.
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    num_embedding_channels: int = 256,
    name: str | None = None,
    **decoder: Any,
  ):
    super().__init__(0, name=name, **decoder)
    self._num_embedding_channels = num_embedding_channels

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[dict[str, jax.Array], Float[Array, "B H M N"] | None]:
    """Returns `entity_embeddings` [B, M, G] and `embedded_entity` [B, G]."""
    del queries
    if input_mask is None:
      input_mask = jnp.ones(inputs.shape[:2], bool)
    # An infinity or NaN in the padding would not vanish when multiplied by 0.
    inputs = as_input_array(inputs).zero_padding(input_mask)
    out, weights = super().__call__(
      inputs, latents, input_mask, return_attention
    )
    real = input_mask[..., None].astype(out.dtype)
    size = self._num_embedding_channels
    # A convolution of width 1 is a linear layer on each entity.
    each = hk.Linear(size, name="entity_embeddings")(jax.nn.relu(out))
    mean = jnp.sum(out * real, 1) / jnp.maximum(jnp.sum(real, 1), 1)
    everything = jax.nn.relu(hk.Linear(size, name="embedded_entity")(mean))
    return {
      "entity_embeddings": each * real,
      "embedded_entity": everything,
    }, weights
