"""Pre-norm Transformer blocks: MLP, self-attend, cross-attend, latent stack.

Shapes as in `perceiver_jax.models` (Perceiver IO, app. E.1, and the authors'
code).
"""

from collections.abc import Callable

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import layers
from perceiver_jax.models.attention import Attention, KeysValues
from perceiver_jax.models.dropout import ATTENTION, MLP, NO_DROPOUT, Dropout
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.layers import DeferredNorm
from perceiver_jax.models.ops import depth
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.masks import Mask
from perceiver_jax.models.position_encoding import Rotary
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class Mlp(hk.Module):
  """Linear, activation, linear.

  Args:
    widening_factor: Hidden width over input width.
    gelu: "tanh" (the papers') or "exact" (that of Hugging Face's models).
    execution: How it is computed.
    activation: "gelu", or Perceiver AR's "squared_relu" (arXiv 2109.08668).
  """

  def __init__(
    self,
    widening_factor: int = 1,
    gelu: str = "tanh",
    execution: Execution = AUTO,
    activation: str = "gelu",
    name: str | None = None,
  ):
    super().__init__(name=name)
    if gelu not in ("tanh", "exact"):
      raise ValueError(f"gelu {gelu!r}: use 'tanh' or 'exact'")
    if activation not in ("gelu", "squared_relu"):
      raise ValueError(
        f"activation {activation!r}: use 'gelu' or 'squared_relu'"
      )
    self._widening_factor = widening_factor
    self._approximate = gelu == "tanh"
    self._execution = execution
    self._activation = activation

  def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """Applies the MLP to each element."""
    channels = x.shape[-1]
    width = self._widening_factor * channels
    x = layers.Linear(width, self._execution, "hidden")(x)
    if self._activation == "gelu":
      x = jax.nn.gelu(x, approximate=self._approximate)
    else:
      x = jnp.square(jax.nn.relu(x))
    return layers.Linear(channels, self._execution, "output")(x)


class SelfAttention(hk.Module):
  """`x + Attn(LN(x))`, then `x + Mlp(LN(x))`.

  Args:
    num_heads: Number of heads.
    qk_channels: Query and key width; 0 means the width of the input.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP hidden width over its input width.
    gelu: "tanh" or "exact"; see `Mlp`.
    execution: How it is computed.
    activation: "gelu" or "squared_relu"; see `Mlp`.
    rotary: Rotary position encoding, which needs a `CausalMask`; None for none.
  """

  def __init__(
    self,
    num_heads: int = 8,
    qk_channels: int = 0,
    v_channels: int = 0,
    widening_factor: int = 1,
    gelu: str = "tanh",
    execution: Execution = AUTO,
    activation: str = "gelu",
    rotary: Rotary | None = None,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._execution = execution
    self._mlp = {
      "widening_factor": widening_factor,
      "gelu": gelu,
      "execution": execution,
      "activation": activation,
    }
    self._rotary = rotary

  def __call__(
    self,
    x: Float[Array, "B N D"],
    mask: Mask | None = None,
    dropout: Dropout = NO_DROPOUT,
  ) -> Float[Array, "B N D"]:
    """Applies the block.

    Args:
      x: Elements.
      mask: True where one element may attend to another.
      dropout: Of the results of the attention and of the MLP.
    """
    how, attention = self._execution, self._attention(x.shape[-1])
    mlp = Mlp(**self._mlp, name="mlp")
    normed = layers.LayerNorm("attention_norm", how)(x)
    x = x + dropout(attention(normed, normed, mask), ATTENTION)
    return x + dropout(mlp(layers.LayerNorm("mlp_norm", how)(x)), MLP)

  @hk.name_like("__call__")
  def extend(
    self,
    x: Float[Array, "B n D"],
    mask: Mask,
    cache: KeysValues,
    start: int | jax.Array,
  ) -> tuple[Float[Array, "B n D"], KeysValues]:
    """Applies the block to elements that also attend to those of a cache.

    Args:
      x: New elements.
      mask: True where a new element may attend to one of the cache, which then
        holds the new ones as well.
      cache: Keys and values of the elements so far.
      start: Where those of the new elements are written.

    Returns:
      The new elements, and the cache with their keys and values.
    """
    how, attention = self._execution, self._attention(x.shape[-1])
    mlp = Mlp(**self._mlp, name="mlp")
    normed = layers.LayerNorm("attention_norm", how)(x)
    cache = cache.write(attention.keys_values(normed, normed.shape), start)
    x = x + attention(normed, cache, mask)
    return x + mlp(layers.LayerNorm("mlp_norm", how)(x)), cache

  @hk.transparent
  def _attention(self, channels: int) -> Attention:
    qk_channels = self._qk_channels or channels
    return Attention(
      self._num_heads,
      qk_channels,
      self._v_channels or qk_channels,
      channels,
      self._execution,
      self._rotary,
      name="attention",
    )


class CrossAttention(hk.Module):
  """`q + Attn(LN(q), LN(kv))`, then `x + Mlp(LN(x))`.

  Args:
    num_heads: Number of heads.
    qk_channels: Query and key width; 0 means the width named by
      `shape_for_attn`.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP hidden width over its input width.
    shape_for_attn: "kv" or "q": whose channels set the default width.
    use_query_residual: Whether the query is added to what it attended to.
    gelu: "tanh" or "exact"; see `Mlp`.
    execution: How it is computed.
    activation: "gelu" or "squared_relu"; see `Mlp`.
    rotary: Rotary position encoding, which needs a `CausalMask`; None for none.
  """

  def __init__(
    self,
    num_heads: int = 1,
    qk_channels: int = 0,
    v_channels: int = 0,
    widening_factor: int = 1,
    shape_for_attn: str = "kv",
    use_query_residual: bool = True,
    gelu: str = "tanh",
    execution: Execution = AUTO,
    activation: str = "gelu",
    rotary: Rotary | None = None,
    name: str | None = None,
  ):
    super().__init__(name=name)
    if shape_for_attn not in ("kv", "q"):
      raise ValueError(f"shape_for_attn {shape_for_attn!r}: use 'kv' or 'q'")
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._shape_for_attn = shape_for_attn
    self._use_query_residual = use_query_residual
    self._execution = execution
    self._mlp = {
      "widening_factor": widening_factor,
      "gelu": gelu,
      "execution": execution,
      "activation": activation,
    }
    self._rotary = rotary

  def __call__(
    self,
    query: Float[Array, "b N D"],
    inputs: InputArray | Float[Array, "B M C"],
    query_mask: Bool[Array, "B N"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    keys_values: KeysValues | None = None,
    mask: Mask | None = None,
    dropout: Dropout = NO_DROPOUT,
  ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N M"] | None]:
    """Attends from `query` to `inputs`.

    Args:
      query: Queries; b is B, or 1 if all examples have the same queries.
      inputs: The array to attend to.
      query_mask: True at real queries; the others attend to nothing.
      input_mask: True at inputs that may be attended to.
      return_attention: Whether to return the attention weights, or logits, too.
      keys_values: Of `inputs`, cached by `keys_values`.
      mask: Given instead of `query_mask` and `input_mask`, where which inputs a
        query may attend to depends on the query.
      dropout: Of the results of the attention and of the MLP.

    Returns:
      The updated query, and the weights (or logits) or None.
    """
    how, inputs = self._execution, as_input_array(inputs)
    attention = self._attention(query.shape[-1], inputs.shape[-1])
    mlp = Mlp(**self._mlp, name="mlp")
    if mask is None:
      mask = cross_attention_mask(query_mask, input_mask)
    normed_q = layers.LayerNorm("query_norm", how)(query)
    normed_kv = DeferredNorm(inputs, layers.LayerNorm("input_norm", how))
    x = attention(
      normed_q, normed_kv if keys_values is None else keys_values, mask
    )
    attention_map = None
    if return_attention:
      attention_map = attention.attention_map(
        normed_q, normed_kv, mask, what=return_attention
      )
    x = dropout(x, ATTENTION)
    if self._use_query_residual:
      x = x + query
    x = x + dropout(mlp(layers.LayerNorm("mlp_norm", how)(x)), MLP)
    return x, attention_map

  @hk.name_like("__call__")
  def keys_values(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    query_shape: tuple[int, int, int],
  ) -> KeysValues:
    """Returns keys and values of `inputs`, for calls with parts of the queries.

    Args:
      inputs: The array to attend to.
      query_shape: Shape (B, N, D) of all queries together.
    """
    inputs = as_input_array(inputs)
    norm = layers.LayerNorm("input_norm", self._execution)
    attention = self._attention(query_shape[-1], inputs.shape[-1])
    return attention.keys_values(DeferredNorm(inputs, norm), query_shape)

  @hk.transparent
  def _attention(self, query_channels: int, input_channels: int) -> Attention:
    default = input_channels if self._shape_for_attn == "kv" else query_channels
    qk_channels = self._qk_channels or default
    return Attention(
      self._num_heads,
      qk_channels,
      self._v_channels or qk_channels,
      query_channels,
      self._execution,
      self._rotary,
      name="attention",
    )


class LatentTransformer(hk.Module):
  """A block of L self-attends, each with its own weights.

  The ImageNet models apply one block 8 times, with the same weights
  (Perceiver v2, Table 7).

  Args:
    num_self_attends: L; 0 makes the block the identity.
    make_layer: Builds one self-attend, without randomness.
    remat: Whether the backward pass recomputes whole layers; see
      `Execution.remat`.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_self_attends: int,
    make_layer: Callable[[], SelfAttention],
    remat: bool = False,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_self_attends = num_self_attends
    self._make_layer = make_layer
    self._remat = remat
    self._execution = execution

  def __call__(
    self,
    x: Float[Array, "B N D"],
    mask: Mask | None = None,
    repeats: int = 1,
    dropout: Dropout = NO_DROPOUT,
  ) -> Float[Array, "B N D"]:
    """Applies the L self-attends in turn, and all of them `repeats` times.

    Args:
      x: Elements.
      mask: True where one element may attend to another.
      repeats: How often the block is applied.
      dropout: See `SelfAttention`; each layer draws its own.
    """
    if not self._num_self_attends:
      return x

    def layer(carry):
      x, dropout = carry
      return self._make_layer()(x, mask, dropout), dropout.next_layer()

    x, _ = depth.apply_layers(
      layer,
      (x, dropout),
      num_layers=self._num_self_attends,
      repeats=repeats,
      remat=self._remat,
      execution=self._execution,
    )
    return x

  @hk.name_like("__call__")
  def extend(
    self,
    x: Float[Array, "B n D"],
    mask: Mask,
    caches: KeysValues,
    start: int | jax.Array,
  ) -> tuple[Float[Array, "B n D"], KeysValues]:
    """Applies the L self-attends to elements that also attend to a cache's.

    Args:
      x: New elements.
      mask: See `SelfAttention.extend`.
      caches: Keys and values of each self-attend, stacked along axis 0.
      start: Where those of the new elements are written.

    Returns:
      The new elements, and the caches with their keys and values.
    """
    return depth.apply_layers_with_caches(
      lambda x, cache: self._make_layer().extend(x, mask, cache, start),
      x,
      caches,
    )


def cross_attention_mask(
  query_mask: Bool[Array, "B N"] | None, input_mask: Bool[Array, "B M"] | None
) -> Bool[Array, "B #N #M"] | None:
  """Combines masks of queries and inputs (True = real element) into one."""
  if query_mask is None and input_mask is None:
    return None
  if query_mask is None:
    return input_mask[:, None, :]
  if input_mask is None:
    return query_mask[:, :, None]
  return jnp.logical_and(query_mask[:, :, None], input_mask[:, None, :])
