"""The adapter and decoders of text.

Shapes: tokens int [B, M], V vocabulary; C channels of an embedding.
"""

from typing import Any

import haiku as hk
from jax import numpy as jnp

from perceiver_jax.models import decoders, layers, position_encoding
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Bool, Float, Int, ReturnAttention


class TextAdapter(hk.Module):
  """Token embeddings plus trainable positions (Perceiver IO v3, Table 11).

  Args:
    vocab_size: V; 262 for bytes.
    num_channels: C.
    max_length: Rows of the position table; shorter inputs use its first ones.
    embedding_init_scale: Standard deviation of the initial embeddings; 1 is
      Haiku's default, which the authors' code uses.
    position_init_scale: Standard deviation of the initial positions.
    num_task_tokens: Number of task tokens of a multitask model, with ids from V
      up (Perceiver IO v3, Table 2). Their embeddings are a separate table, so
      that the decoder never predicts them.
  """

  def __init__(
    self,
    vocab_size: int = 262,
    num_channels: int = 768,
    max_length: int = 2048,
    embedding_init_scale: float = 1.0,
    position_init_scale: float = 0.02,
    num_task_tokens: int = 0,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._vocab_size = vocab_size
    self._num_task_tokens = num_task_tokens
    self._num_channels = num_channels
    self._max_length = max_length
    self._embedding_init_scale = embedding_init_scale
    self._position_init_scale = position_init_scale

  def __call__(
    self, tokens: Int[Array, "B M"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array.

    Raises:
      ValueError: There are more tokens than positions.
    """
    del is_training
    table = position_encoding.TrainablePositions(
      self._max_length,
      self._num_channels,
      self._position_init_scale,
      name="positions",
    )()
    rows = position_encoding.first_rows(table, tokens.shape[1])
    embeddings = self.embeddings()
    if self._num_task_tokens:
      init = hk.initializers.TruncatedNormal(self._embedding_init_scale)
      shape = (self._num_task_tokens, self._num_channels)
      own = hk.get_parameter("task_embeddings", shape, init=init)
      embeddings = jnp.concatenate([embeddings, own])
    return embeddings[tokens] + rows

  # Named like `__call__`, so that both share their parameters in Haiku.
  @hk.name_like("__call__")
  def embeddings(self) -> Float[Array, "V C"]:
    """Returns the embeddings, which the decoder uses too."""
    init = hk.initializers.TruncatedNormal(self._embedding_init_scale)
    shape = (self._vocab_size, self._num_channels)
    return hk.get_parameter("embeddings", shape, init=init)


class MaskedLmDecoder(decoders.QueryDecoder):
  """Decodes a learned query per position to logits over the vocabulary.

  Logits are products with the tied input embeddings plus a bias, without a
  projection before (Perceiver IO v3, Table 11 and the authors' code).

  Args:
    adapter: The adapter that shares its embeddings.
    max_length: Rows of the query table.
    num_query_channels: E, which is the adapter's C.
    use_query_mask: Whether queries at padding attend to nothing, as in the
      authors' code; in Hugging Face's models they attend to the latents.
    query_init_scale: Standard deviation of the initial queries.
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    adapter: TextAdapter,
    max_length: int = 2048,
    num_query_channels: int = 768,
    use_query_mask: bool = True,
    query_init_scale: float = 0.02,
    name: str | None = None,
    **decoder: Any,
  ):
    super().__init__(0, name=name, **decoder)
    self._adapter = adapter
    self._max_length = max_length
    self._num_query_channels = num_query_channels
    self._use_query_mask = use_query_mask
    self._query_init_scale = query_init_scale

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Int[Array, "O"] | Int[Array, "B O"] | None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B O V"], Float[Array, "B H O N"] | None]:
    """Returns the logits of each position, or of those in `queries`.

    `queries` are [B, O], or [O] if all examples share the positions.
    """
    table = position_encoding.TrainablePositions(
      self._max_length,
      self._num_query_channels,
      self._query_init_scale,
      name="query",
    )()
    rows = position_encoding.first_rows(table, inputs.shape[1])
    mask = input_mask if self._use_query_mask else None
    if queries is not None:
      rows = rows[queries]
      positions = jnp.broadcast_to(queries, (latents.shape[0], rows.shape[-2]))
      if mask is not None:
        mask = jnp.take_along_axis(mask, positions, 1)
    shape = (latents.shape[0], *rows.shape[-2:])
    out, weights = super().__call__(
      jnp.broadcast_to(rows, shape),
      latents,
      mask,
      return_attention,
    )
    return _tied_logits(out, self._adapter), weights


class TokenDecoder(hk.Module):
  """Computes logits over the vocabulary from a plain Transformer's outputs.

  The outputs are normalized, since the blocks are pre-norm; the embeddings are
  tied as in `MaskedLmDecoder`.

  Args:
    adapter: The adapter that shares its embeddings.
  """

  def __init__(
    self,
    adapter: TextAdapter,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._execution = execution
    self._adapter = adapter

  def __call__(
    self,
    latents: Float[Array, "B M C"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Int[Array, "O"] | Int[Array, "B O"] | None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B O V"], None]:
    """Returns logits of each position or of `queries`, as `MaskedLmDecoder`."""
    del inputs, input_mask, return_attention
    if queries is not None:
      wanted = jnp.atleast_2d(queries)[..., None]
      latents = jnp.take_along_axis(latents, wanted, 1)
    out = layers.LayerNorm("norm", self._execution)(latents)
    return _tied_logits(out, self._adapter), None


def _tied_logits(
  out: Float[Array, "B O C"], adapter: TextAdapter
) -> Float[Array, "B O V"]:
  """Returns products with the embeddings plus a bias of the calling module."""
  embeddings = adapter.embeddings()
  bias = hk.get_parameter("bias", embeddings.shape[:1], init=jnp.zeros)
  logits = jnp.einsum(
    "boc,vc->bov", out, embeddings, preferred_element_type=jnp.float32
  )
  return logits + bias.astype(jnp.float32)
