"""The adapters and decoders of entities, such as the units of a game.

Perceiver IO replaces AlphaStar's entity encoder (Perceiver IO v3, app. B). Both
encoders, Perceiver IO and the Transformer that it replaces, have the outputs
of `entity_outputs`.
Shapes: entities [B, M, F]; `input_mask` is True at real ones; A actions.
"""

from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import decoders, layers, position_encoding
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.online_softmax import MASKED_LOGIT
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention

_CATEGORY_SCALE = 0.3


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


class EntityFeaturesAdapter(hk.Module):
  """Encodes categories, numbers and positions of entities with a small MLP.

  Its first layer, on the concatenation of all one-hot vectors, is AlphaStar's
  and gives Perceiver IO's inputs of 256 channels (v3, Table 5). Fourier
  features of the positions and the ReLU before the second layer are chosen
  here.

  Args:
    num_categories: Number of categories of all features together.
    num_features: Channels of the first layer.
    num_channels: C (Perceiver IO v3, Table 6).
    num_bands: Fourier bands of each coordinate.
    max_resolution: Twice the highest frequency.
  """

  def __init__(
    self,
    num_categories: int,
    num_features: int = 256,
    num_channels: int = 128,
    num_bands: int = 16,
    max_resolution: int = 32,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_categories = num_categories
    self._num_features = num_features
    self._num_channels = num_channels
    self._num_bands = num_bands
    self._max_resolution = max_resolution

  def __call__(
    self, entities: Mapping[str, jax.Array], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array.

    Args:
      entities: `categories` int [B, M, J], in which -1 is no category;
        `numbers` [B, M, S]; `positions` [B, M, d] in [-1, 1].
      is_training: Not used.
    """
    del is_training
    size, numbers = self._num_features, entities["numbers"]
    one_hot = self._one_hot(entities["categories"], numbers.dtype)
    # Few of the categories are those of an entity, so that the scale of the
    # weights does not depend on the number of categories.
    init = hk.initializers.TruncatedNormal(_CATEGORY_SCALE)
    x = hk.Linear(size, with_bias=False, w_init=init, name="categories")(
      one_hot
    )
    x += layers.Linear(size, name="numbers")(numbers)
    x += layers.Linear(size, name="positions")(
      self._fourier(entities["positions"])
    )
    return layers.Linear(self._num_channels, name="embed")(jax.nn.relu(x))

  def _one_hot(self, categories: jax.Array, dtype: Any) -> jax.Array:
    """Returns the sum of the one-hot vectors of each entity."""
    batch, count, _ = categories.shape
    size = self._num_categories
    # An index beyond the end is dropped; a negative one would count backward.
    index = jnp.where(categories < 0, size, categories)
    b, m = np.ogrid[:batch, :count]
    zeros = jnp.zeros((batch, count, size), dtype)
    return zeros.at[b[..., None], m[..., None], index].add(1, mode="drop")

  def _fourier(self, positions: jax.Array) -> jax.Array:
    resolution = (self._max_resolution,) * positions.shape[-1]
    encode = lambda p: position_encoding.fourier_features(
      p, self._num_bands, resolution
    )
    return jax.vmap(encode)(positions)


class EntitiesDecoder(decoders.QueryDecoder):
  """Encodes each entity and all entities together, as in AlphaStar.

  The input elements are the output queries, one for each entity.

  Args:
    num_embedding_channels: G, the channels of both encodings.
    num_actions: A; 0 leaves the predictions of a command out.
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    num_embedding_channels: int = 256,
    num_actions: int = 0,
    name: str | None = None,
    **decoder: Any,
  ):
    super().__init__(0, name=name, **decoder)
    self._num_embedding_channels = num_embedding_channels
    self._num_actions = num_actions

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[dict[str, jax.Array], Float[Array, "B H M N"] | None]:
    """Returns the arrays of `entity_outputs`, and the weights or None."""
    del queries
    if input_mask is None:
      input_mask = jnp.ones(inputs.shape[:2], bool)
    # An infinity or NaN in the padding would not vanish when multiplied by 0.
    inputs = as_input_array(inputs).zero_padding(input_mask)
    out, weights = super().__call__(
      inputs, latents, input_mask, return_attention
    )
    outputs = entity_outputs(
      out, input_mask, self._num_embedding_channels, self._num_actions
    )
    return outputs, weights


class TransformerEntitiesDecoder(hk.Module):
  """`EntitiesDecoder` for a plain Transformer, whose latents are the entities.

  They are normalized, since the blocks are pre-norm. AlphaStar's description
  does not mention normalization.

  Args:
    num_embedding_channels: G, the channels of both encodings.
    num_actions: A; 0 leaves the predictions of a command out.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_embedding_channels: int = 256,
    num_actions: int = 0,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_embedding_channels = num_embedding_channels
    self._num_actions = num_actions
    self._execution = execution

  def __call__(
    self,
    latents: Float[Array, "B M C"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[dict[str, jax.Array], None]:
    """Returns the arrays of `entity_outputs`, always without weights."""
    del inputs, queries, return_attention
    if input_mask is None:
      input_mask = jnp.ones(latents.shape[:2], bool)
    out = layers.LayerNorm("norm", self._execution)(latents)
    outputs = entity_outputs(
      out, input_mask, self._num_embedding_channels, self._num_actions
    )
    return outputs, None


def entity_outputs(
  out: Float[Array, "B M C"],
  input_mask: Bool[Array, "B M"],
  size: int,
  num_actions: int,
) -> dict[str, jax.Array]:
  """Computes the outputs of an entity encoder, in the calling module.

  Args:
    out: The decoded entities.
    input_mask: True at real entities.
    size: G.
    num_actions: A.

  Returns:
    `entity_embeddings` [B, M, G], 0 at padding; `embedded_entity` [B, G], from
    the mean over entities; and, unless A is 0, the logits `action` [B, A],
    `selected` and `target` [B, M], -1e30 at padding.
  """
  real = input_mask[..., None].astype(out.dtype)
  # A convolution of width 1 is a linear layer on each entity.
  each = hk.Linear(size, name="entity_embeddings")(jax.nn.relu(out)) * real
  mean = jnp.sum(out * real, 1) / jnp.maximum(jnp.sum(real, 1), 1)
  everything = jax.nn.relu(hk.Linear(size, name="embedded_entity")(mean))
  outputs = {"entity_embeddings": each, "embedded_entity": everything}
  if num_actions:
    outputs["action"] = hk.Linear(num_actions, name="action")(everything)
    for name in ("selected", "target"):
      outputs[name] = _pointer(each, everything, input_mask, name)
  return outputs


def _pointer(
  each: jax.Array, everything: jax.Array, input_mask: jax.Array, name: str
) -> jax.Array:
  """Returns the logit of each entity: the product of its key with a query.

  AlphaStar's query also depends on the parts of the command that it has chosen
  already; here all parts are predicted at once.
  """
  size = each.shape[-1]
  query = hk.Linear(size, name=f"{name}_query")(everything)
  x = jax.nn.relu(hk.Linear(size, name=f"{name}_hidden")(jax.nn.relu(each)))
  keys = hk.Linear(size, name=f"{name}_key")(x)
  # Keys alone can be decisive too, without the query.
  logits = jnp.einsum("bmg,bg->bm", keys, query + 1) / np.sqrt(size)
  return jnp.where(input_mask, logits, MASKED_LOGIT)
