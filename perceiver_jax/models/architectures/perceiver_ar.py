"""Perceiver AR: an autoregressive model whose latents are the last positions.

Each latent attends to all inputs up to its own position, and then to the
latents before it, so that every latent predicts the next token (Perceiver AR,
arXiv 2202.07765, and the authors' code).

Shapes: B batch, M input positions, N latents, C input channels, D latent
channels, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import blocks, layers, position_encoding
from perceiver_jax.models.attention import KeysValues
from perceiver_jax.models.dropout import INPUTS, Dropout
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.masks import NEVER, CausalMask
from perceiver_jax.models.typing import Array, Bool, Float, Int, ReturnAttention

_INIT_SCALE = 1.0  # Of all tables.
POSITIONS = ("none", "sinusoidal", "learned")


def latent_positions(
  input_mask: Bool[Array, "B M"], num_latents: int
) -> Int[Array, "B N"]:
  """Returns the input position of each latent; below 0 where there is none.

  They are the last positions before the padding, which must be at the end.
  """
  length = input_mask.sum(-1, dtype=jnp.int32)
  return length[:, None] - num_latents + jnp.arange(num_latents)


class TokensAdapter(hk.Module):
  """Token embeddings plus absolute positions, of one or several dimensions.

  Args:
    vocab_size: V.
    num_channels: C.
    positions: "none", for rotary encodings; "sinusoidal"; or "learned".
    position_sizes: Number of positions of each dimension, such as the rows,
      columns and colors of an image. Their encodings are added.

  Raises:
    ValueError: Unknown `positions`, no `position_sizes` for absolute positions,
      or an odd `num_channels` for sinusoidal ones.
  """

  def __init__(
    self,
    vocab_size: int,
    num_channels: int,
    positions: str = "none",
    position_sizes: Sequence[int] = (),
    name: str | None = None,
  ):
    super().__init__(name=name)
    if positions not in POSITIONS:
      raise ValueError(
        f"positions {positions!r}: choose one of {', '.join(POSITIONS)}"
      )
    if positions != "none" and not position_sizes:
      raise ValueError(
        f"positions {positions!r} need position_sizes, the number of positions"
        " of each dimension"
      )
    if positions == "sinusoidal" and num_channels % 2:
      raise ValueError(
        f"num_channels {num_channels}: give an even number, since sinusoidal"
        " positions have as many sines as cosines"
      )
    self._vocab_size = vocab_size
    self._num_channels = num_channels
    self._positions = positions
    self._position_sizes = tuple(position_sizes)

  def __call__(
    self, raw: Mapping[str, jax.Array], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array.

    Args:
      raw: `tokens` int [B, M] and, unless there are no absolute positions,
        `positions` int [B, M, d].
      is_training: Not used.

    Raises:
      ValueError: The positions have not as many dimensions as
        `position_sizes`.
    """
    del is_training
    channels = self._num_channels
    init = hk.initializers.TruncatedNormal(_INIT_SCALE)
    shape = (self._vocab_size, channels)
    x = hk.get_parameter("embeddings", shape, init=init)[raw["tokens"]]
    if self._positions == "none":
      return x
    sizes, positions = self._position_sizes, raw["positions"]
    if positions.shape[-1] != len(sizes):
      raise ValueError(
        f"positions {positions.shape} have {positions.shape[-1]} dimensions and"
        f" position_sizes has {len(sizes)}: make them equal"
      )
    for i, size in enumerate(sizes):
      where = positions[..., i]
      if self._positions == "sinusoidal":
        rows = position_encoding.sinusoidal_encodings(where, size, channels)
      else:
        table = position_encoding.TrainablePositions(
          size, channels, _INIT_SCALE, name=f"positions_{i}"
        )()
        rows = table[where]
      x += rows.astype(x.dtype)
    return x


class Cache(NamedTuple):
  """Keys and values of the inputs and latents of a sequence so far.

  Attributes:
    inputs: Of the cross-attend [B, M, H, C / H]: element i is that of the input
      at position i.
    latents: Of the self-attends [L, B, N, H, D / H]: element i is that of the
      latent at position `first_latent` + i.
    first_latent: Position of the first latent.
  """

  inputs: KeysValues
  latents: KeysValues
  first_latent: Int[Array, ""]


class PerceiverAREncoder(hk.Module):
  """An encoder whose latents are the last positions of a sequence.

  They cross-attend to all positions once, and then attend to each other.

  Args:
    num_latents: N.
    num_latent_channels: D.
    num_self_attends: Number of self-attends, each with its own weights.
    num_heads: Heads of each attention.
    widening_factor: MLP hidden width over its input width.
    rotary_fraction: Share of the channels of a head that a rotary position
      encoding turns; 0 for none.
    max_wavelength: Positions in which its slowest channels turn by one radian;
      the authors' is the longest context.
    dropout: Share of the results of attentions and MLPs that training drops.
    input_dropout: Share of the input positions that the cross-attend of a
      training example doesn't see; those of the latents are among them.
    remat: Whether the backward pass recomputes whole self-attends.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_latents: int = 1024,
    num_latent_channels: int = 1024,
    num_self_attends: int = 6,
    num_heads: int = 16,
    widening_factor: int = 4,
    rotary_fraction: float = 0.0,
    max_wavelength: float = 8192.0,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    remat: bool = False,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    for what, rate in (("dropout", dropout), ("input_dropout", input_dropout)):
      if not 0 <= rate < 1:
        raise ValueError(f"{what} {rate}: give 0 for none, or a share below 1")
    self._dropout = dropout
    self._input_dropout = input_dropout
    self._num_latents = num_latents
    self._num_latent_channels = num_latent_channels
    self._num_self_attends = num_self_attends
    self._remat = remat
    self._execution = execution
    rotary = None
    if rotary_fraction:
      rotary = position_encoding.Rotary(max_wavelength, rotary_fraction)
    self._attend = {
      "num_heads": num_heads,
      "widening_factor": widening_factor,
      "activation": "squared_relu",
      "rotary": rotary,
      "execution": execution,
    }

  def __call__(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: jax.Array | None = None,
    dropout_keys: jax.Array | None = None,
  ) -> tuple[Float[Array, "B N D"], list[Float[Array, "B H N M"]]]:
    """Returns the processed latents, and the cross-attend's weights if asked.

    Args:
      inputs: The input array.
      input_mask: True at real positions; the others are at the end.
      return_attention: Whether to compute the weights, or logits, of the
        cross-attend.
      initial_latents: Must be None.
      dropout_keys: A random key for each example, uint32 [B, 2]; None for no
        dropout.

    Returns:
      The latents, of which those without a position are undefined, and the
      weights or logits (an empty list unless asked for).

    Raises:
      ValueError: `initial_latents` are given.
    """
    if initial_latents is not None:
      raise ValueError(
        "the latents of Perceiver AR are its last inputs: leave initial_latents"
        " out, or use the encoder kind 'perceiver'"
      )
    inputs = as_input_array(inputs).zero_padding(input_mask)
    if input_mask is None:
      input_mask = jnp.ones(inputs.shape[:2], bool)
    positions = latent_positions(input_mask, self._num_latents)
    has_position = positions >= 0
    x = jnp.take_along_axis(
      inputs.array(), jnp.maximum(positions, 0)[..., None], axis=1
    )
    x = layers.Linear(self._num_latent_channels, self._execution, "latents")(x)
    index = jnp.arange(input_mask.shape[1], dtype=jnp.int32)
    dropout = Dropout(self._dropout, dropout_keys)
    seen = input_mask
    if self._input_dropout and dropout_keys is not None:
      seen &= dropout.kept(self._input_dropout, index.shape, INPUTS)
    x, attention = blocks.CrossAttention(**self._attend, name="cross_attend_0")(
      x,
      inputs,
      mask=CausalMask(positions, jnp.where(seen, index, NEVER)),
      return_attention=return_attention,
      dropout=dropout,
    )
    make = lambda: blocks.SelfAttention(**self._attend, name="self_attend")
    block = blocks.LatentTransformer(
      self._num_self_attends, make, self._remat, self._execution, name="block_0"
    )
    x = block(
      x,
      CausalMask(positions, jnp.where(has_position, positions, NEVER)),
      dropout=dropout.next_layer(),
    )
    return x, [attention] if return_attention else []

  def empty_cache(
    self, batch_size: int, num_inputs: int, num_input_channels: int
  ) -> Cache:
    """Returns a cache without inputs, for up to N latents.

    Args:
      batch_size: B.
      num_inputs: M, the most inputs that it can hold.
      num_input_channels: C.
    """
    heads, channels = self._attend["num_heads"], self._num_latent_channels

    def zeros(*sizes):
      *rest, width = sizes
      x = jnp.zeros((*rest, heads, width // heads))
      return KeysValues(x, x)

    latents = self._num_self_attends, batch_size, self._num_latents, channels
    return Cache(
      zeros(batch_size, num_inputs, num_input_channels),
      zeros(*latents),
      jnp.int32(0),
    )

  @hk.name_like("__call__")
  def extend(
    self,
    inputs: Float[Array, "B m C"],
    cache: Cache,
    start: int | jax.Array,
    first: int | jax.Array,
    num_latents: int,
  ) -> tuple[Float[Array, "B n D"], Cache]:
    """Returns processed latents of new inputs, which attend to the cache too.

    The result equals that of `__call__` with as many latents as the cache then
    holds. Elements after the last real input may hold anything: no latent
    before them attends to them, and later calls overwrite them.

    Args:
      inputs: New inputs; all examples have the same number.
      cache: Holds the inputs before them.
      start: Position of the first new input.
      first: Position of the first new latent, at one of the new inputs.
      num_latents: n, the number of new latents.

    Returns:
      The new latents, and the cache with the new inputs and latents.
    """
    execution = self._execution.replace(absorb_projections="never")
    attend = self._attend | {"execution": execution}
    positions = first + jnp.arange(num_latents, dtype=jnp.int32)[None]
    x = jnp.take(inputs, positions[0] - start, axis=1, mode="clip")
    x = layers.Linear(self._num_latent_channels, self._execution, "latents")(x)
    cross_attend = blocks.CrossAttention(**attend, name="cross_attend_0")
    own = cross_attend.keys_values(inputs, x.shape)
    cached_inputs = cache.inputs.write(own, start)
    index = jnp.arange(cached_inputs.keys.shape[1], dtype=jnp.int32)[None]
    x, _ = cross_attend(
      x, inputs, keys_values=cached_inputs, mask=CausalMask(positions, index)
    )
    make = lambda: blocks.SelfAttention(**attend, name="self_attend")
    block = blocks.LatentTransformer(
      self._num_self_attends, make, self._remat, execution, name="block_0"
    )
    index = jnp.arange(self._num_latents, dtype=jnp.int32)[None]
    mask = CausalMask(positions, cache.first_latent + index)
    x, cached_latents = block.extend(
      x, mask, cache.latents, first - cache.first_latent
    )
    return x, cache._replace(inputs=cached_inputs, latents=cached_latents)


class NextTokenDecoder(hk.Module):
  """Predicts the token after the position of each latent.

  The logits start from zero (the authors' code).

  Args:
    vocab_size: V.
    execution: How it is computed.
  """

  def __init__(
    self,
    vocab_size: int,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._vocab_size = vocab_size
    self._execution = execution

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B N V"], None]:
    """Returns the logits over the vocabulary, always without weights."""
    del inputs, input_mask, queries, return_attention
    x = layers.LayerNorm("norm", self._execution)(latents)
    logits = hk.Linear(self._vocab_size, w_init=jnp.zeros, name="logits")
    return logits(x), None
