"""Pre-norm Transformer blocks: MLP, self-attend, cross-attend, latent stack.

Shapes as in the package glossary. Every linear layer has a bias and starts
from variance scaling 1.0 over fan-in, truncated normal; LayerNorm has eps 1e-5
(Perceiver IO, app. E.1, and the authors' code).
"""

from collections.abc import Callable

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import attention
from perceiver_jax.models.typing import Array, Bool, Float

_STACK = "layers"


def is_stacked(module_name: str) -> bool:
  """Whether a module's parameters hold all layers of a scan on axis 0."""
  return _STACK in module_name.split("/")


def linear(size: int, name: str | None = None) -> hk.Linear:
  """A biased linear layer with the papers' initialisation."""
  init = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
  return hk.Linear(size, w_init=init, name=name)


def layer_norm(name: str | None = None) -> hk.LayerNorm:
  """LayerNorm over channels with learned scale and offset, eps 1e-5."""
  return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True, name=name)


class Attention(hk.Module):
  """Projections around `attention.attend`.

  Args:
    num_heads: Number of heads; divides both widths.
    qk_channels: Total width of queries and keys.
    v_channels: Total width of values.
    output_channels: Width of the result.
  """

  def __init__(
    self,
    num_heads: int,
    qk_channels: int,
    v_channels: int,
    output_channels: int,
    name: str | None = None,
  ):
    super().__init__(name=name)
    for what, width in (("query/key", qk_channels), ("value", v_channels)):
      if num_heads < 1 or width % num_heads:
        raise ValueError(
          f"{num_heads} heads do not divide {width} {what} channels: change"
          " the number of heads or the channels"
        )
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._output_channels = output_channels

  def __call__(
    self,
    inputs_q: Float[Array, "B N D"],
    inputs_kv: Float[Array, "B M C"],
    mask: Bool[Array, "#B #N #M"] | None = None,
  ) -> Float[Array, "B N G"]:
    """Reads `inputs_kv` from `inputs_q`."""
    q = self._heads(linear(self._qk_channels, "query")(inputs_q))
    k = self._heads(linear(self._qk_channels, "key")(inputs_kv))
    v = self._heads(linear(self._v_channels, "value")(inputs_kv))
    out = attention.attend(q, k, v, mask)
    return linear(self._output_channels, "output")(out)

  # Named like `__call__`, or Haiku would give it parameters of its own.
  @hk.name_like("__call__")
  def weights(
    self,
    inputs_q: Float[Array, "B N D"],
    inputs_kv: Float[Array, "B M C"],
    mask: Bool[Array, "#B #N #M"] | None = None,
  ) -> Float[Array, "B H N M"]:
    """The attention weights alone, for pictures. Call after `__call__`."""
    q = self._heads(linear(self._qk_channels, "query")(inputs_q))
    k = self._heads(linear(self._qk_channels, "key")(inputs_kv))
    return attention.attention_weights(q, k, mask)

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], self._num_heads, -1)


class Mlp(hk.Module):
  """Linear, GELU, linear.

  Args:
    widening_factor: Hidden width over input width.
    gelu: "tanh" (the papers') or "exact" (that of Hugging Face's models).
  """

  def __init__(
    self,
    widening_factor: int = 1,
    gelu: str = "tanh",
    name: str | None = None,
  ):
    super().__init__(name=name)
    if gelu not in ("tanh", "exact"):
      raise ValueError(f"gelu {gelu!r}: use 'tanh' or 'exact'")
    self._widening_factor = widening_factor
    self._approximate = gelu == "tanh"

  def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """Applies the MLP to each element."""
    channels = x.shape[-1]
    hidden = linear(self._widening_factor * channels, "hidden")(x)
    hidden = jax.nn.gelu(hidden, approximate=self._approximate)
    return linear(channels, "output")(hidden)


class SelfAttention(hk.Module):
  """`x + Attn(LN(x))`, then `x + Mlp(LN(x))`.

  Args:
    num_heads: Number of heads.
    qk_channels: Query and key width; 0 means the width of the input.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP hidden width over its input width.
    gelu: "tanh" or "exact"; see `Mlp`.
  """

  def __init__(
    self,
    num_heads: int = 8,
    qk_channels: int = 0,
    v_channels: int = 0,
    widening_factor: int = 1,
    gelu: str = "tanh",
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._widening_factor = widening_factor
    self._gelu = gelu

  def __call__(
    self,
    x: Float[Array, "B N D"],
    mask: Bool[Array, "#B #N N"] | None = None,
  ) -> Float[Array, "B N D"]:
    """Mixes the N elements; `mask` is True where one may read another."""
    channels = x.shape[-1]
    qk_channels = self._qk_channels or channels
    attn = Attention(
      self._num_heads,
      qk_channels,
      self._v_channels or qk_channels,
      channels,
      name="attention",
    )
    normed = layer_norm("attention_norm")(x)
    x = x + attn(normed, normed, mask)
    mlp = Mlp(self._widening_factor, self._gelu, name="mlp")
    return x + mlp(layer_norm("mlp_norm")(x))


class CrossAttention(hk.Module):
  """`q + Attn(LN(q), LN(kv))`, then `x + Mlp(LN(x))`.

  Args:
    num_heads: Number of heads.
    qk_channels: Query and key width; 0 means the width named by
      `shape_for_attn`.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP hidden width over its input width.
    shape_for_attn: "kv" or "q": whose channels set the default width.
    use_query_residual: Whether the query is added to what it read.
    gelu: "tanh" or "exact"; see `Mlp`.
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
    name: str | None = None,
  ):
    super().__init__(name=name)
    if shape_for_attn not in ("kv", "q"):
      raise ValueError(f"shape_for_attn {shape_for_attn!r}: use 'kv' or 'q'")
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._widening_factor = widening_factor
    self._shape_for_attn = shape_for_attn
    self._use_query_residual = use_query_residual
    self._gelu = gelu

  def __call__(
    self,
    query: Float[Array, "B N D"],
    inputs: Float[Array, "B M C"],
    mask: Bool[Array, "#B #N #M"] | None = None,
    return_weights: bool = False,
  ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N M"] | None]:
    """Reads `inputs` from `query`.

    Args:
      query: What reads.
      inputs: What is read.
      mask: True where a query may read an input.
      return_weights: Whether to compute the attention weights too.

    Returns:
      The updated query, and the weights or None.
    """
    attn = self._attention(query.shape[-1], inputs.shape[-1])
    normed_q = layer_norm("query_norm")(query)
    normed_kv = layer_norm("input_norm")(inputs)
    x = attn(normed_q, normed_kv, mask)
    weights = (
      attn.weights(normed_q, normed_kv, mask) if return_weights else None
    )
    if self._use_query_residual:
      x = x + query
    mlp = Mlp(self._widening_factor, self._gelu, name="mlp")
    return x + mlp(layer_norm("mlp_norm")(x)), weights

  @hk.transparent
  def _attention(self, query_channels: int, input_channels: int) -> Attention:
    default = input_channels if self._shape_for_attn == "kv" else query_channels
    qk_channels = self._qk_channels or default
    v_channels = self._v_channels or qk_channels
    return Attention(
      self._num_heads, qk_channels, v_channels, query_channels, name="attention"
    )


class LatentTransformer(hk.Module):
  """A block of L self-attends with their own weights, scanned over depth.

  Calling one instance several times shares its weights, as the ImageNet models
  do with their 8 blocks of 6 (Perceiver, Table 7).

  Args:
    num_self_attends: L; 0 makes the block the identity.
    make_layer: Builds one self-attend; called inside the scan.
    remat: Whether to recompute each layer in the backward pass instead of
      keeping its activations.
  """

  def __init__(
    self,
    num_self_attends: int,
    make_layer: Callable[[], SelfAttention],
    remat: bool = False,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_self_attends = num_self_attends
    self._make_layer = make_layer
    self._remat = remat

  def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """Applies the L layers in turn."""
    if not self._num_self_attends:
      return x

    def layer(x):
      return self._make_layer()(x)

    # Scanning is what keeps compile time flat in depth and, on CPU, keeps XLA
    # from recomputing the residual chain of every earlier layer.
    stack = hk.experimental.layer_stack(self._num_self_attends, name=_STACK)
    return stack(hk.remat(layer) if self._remat else layer)(x)


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
