"""Pre-norm Transformer blocks: MLP, self-attend, cross-attend, latent stack.

Shapes as in the package glossary. Every linear layer has a bias and starts
from variance scaling 1.0 over fan-in, truncated normal; LayerNorm has eps 1e-5
(Perceiver IO, app. E.1, and the authors' code).
"""

from collections.abc import Callable

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import execution
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.multi_head import Attention, Memory
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


class NormParameters(hk.LayerNorm):
  """Scale and offset of a LayerNorm that is taken elsewhere."""

  def __init__(self, name: str | None = None):
    super().__init__(-1, create_scale=True, create_offset=True, name=name)

  def __call__(
    self, channels: int
  ) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    """Returns both, named and initialised as LayerNorm does."""
    scale = hk.get_parameter("scale", (channels,), init=jnp.ones)
    return scale, hk.get_parameter("offset", (channels,), init=jnp.zeros)


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
    query: Float[Array, "b N D"],
    inputs: InputArray | Float[Array, "B M C"],
    query_mask: Bool[Array, "B N"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    return_weights: bool = False,
    memory: Memory | None = None,
  ) -> tuple[Float[Array, "B N D"], Float[Array, "B H N M"] | None]:
    """Reads `inputs` from `query`.

    Args:
      query: What reads; b is B, or 1 if all examples have the same queries.
      inputs: What is read.
      query_mask: True at queries that may read; the others get zeros.
      input_mask: True at inputs that may be read.
      return_weights: Whether to compute the attention weights too.
      memory: Of `inputs`, made before by `memory`.

    Returns:
      The updated query, and the weights or None.
    """
    inputs = as_input_array(inputs)
    batch, num_inputs, channels = inputs.shape
    attn = self._attention(query.shape[-1], channels)
    folding = attn.folding(
      query.shape[1], query.shape[-1], num_inputs, channels
    )
    if query.shape[0] < batch and (
      folding != "inputs" or execution.current().share_positions == "never"
    ):
      query = jnp.broadcast_to(query, (batch, *query.shape[1:]))
    normed_q = layer_norm("query_norm")(query)
    mask = cross_attention_mask(query_mask, input_mask)
    weights = None
    if folding == "inputs" and memory is None and not return_weights:
      norm = NormParameters(name="input_norm")(channels)
      x = attn.read(normed_q, inputs, norm, query_mask, input_mask)
    else:
      normed_q = jnp.broadcast_to(normed_q, (batch, *query.shape[1:]))
      if memory is None or return_weights:
        normed_kv = layer_norm("input_norm")(inputs.whole())
      if memory is None:
        memory = attn.memory(
          normed_kv, query.shape[-1], fold=folding == "latents"
        )
      x = attn.recall(normed_q, memory, mask)
      if return_weights:
        weights = attn.weights(normed_q, normed_kv, mask)
    if self._use_query_residual:
      x = x + query
    mlp = Mlp(self._widening_factor, self._gelu, name="mlp")
    return x + mlp(layer_norm("mlp_norm")(x)), weights

  @hk.name_like("__call__")
  def memory(
    self,
    inputs: Float[Array, "B M C"],
    num_queries: int,
    query_channels: int,
  ) -> Memory:
    """Keys and values of `inputs`, for calls with parts of the queries."""
    channels = inputs.shape[-1]
    attn = self._attention(query_channels, channels)
    folding = attn.folding(
      num_queries, query_channels, inputs.shape[1], channels
    )
    normed = layer_norm("input_norm")(inputs)
    return attn.memory(normed, query_channels, fold=folding == "latents")

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
    remat: Whether the backward pass recomputes whole layers, not only what
      is cheap of them; see `execution.Execution.remat`.
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

  def __call__(
    self,
    x: Float[Array, "B N D"],
    mask: Bool[Array, "#B #N N"] | None = None,
  ) -> Float[Array, "B N D"]:
    """Applies the L layers in turn; `mask` is that of `SelfAttention`."""
    if not self._num_self_attends:
      return x

    def layer(x):
      return self._make_layer()(x, mask)

    layer = _recomputed(layer, self._remat)
    # Scanning is what keeps compile time flat in depth and, on CPU, keeps XLA
    # from recomputing the residual chain of every earlier layer.
    stack = hk.experimental.layer_stack(
      self._num_self_attends,
      unroll=_unroll(self._num_self_attends),
      name=_STACK,
    )
    return stack(layer)(x)


def _unroll(depth: int) -> int:
  return depth if execution.current().depth == "unroll" else 1


def _recomputed(
  layer: Callable[[jax.Array], jax.Array], remat: bool
) -> Callable[[jax.Array], jax.Array]:
  """The layer, with what the backward pass recomputes as chosen."""
  choice = execution.current().remat
  if choice == "auto":
    choice = "layers" if remat else "dots"
  if choice == "dots":
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return hk.remat(layer, policy=policy)
  return hk.remat(layer) if choice == "layers" else layer


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
