"""Pre-norm Transformer blocks: MLP, self-attend, cross-attend, latent stack.

Shapes as in the package glossary. Linear layers and norms are those of `layers`
(Perceiver IO, app. E.1, and the authors' code).
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import (
  execution,
  layers,
  multi_head,
)
from perceiver_jax.models.inputs import (
  InputArray,
  as_input_array,
)
from perceiver_jax.models.multi_head import (
  Attention,
  Memory,
)
from perceiver_jax.models.typing import (
  Array,
  Bool,
  Float,
)

_STACK = "layers"


def is_stacked(module_name: str) -> bool:
  """Whether a module's parameters hold all layers of a scan on axis 0."""
  return _STACK in module_name.split("/")


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
    hidden = layers.Linear(self._widening_factor * channels, "hidden")(x)
    hidden = jax.nn.gelu(hidden, approximate=self._approximate)
    return layers.Linear(channels, "output")(hidden)


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
    normed = layers.LayerNorm("attention_norm")(x)
    x = x + attn(normed, normed, mask)
    mlp = Mlp(self._widening_factor, self._gelu, name="mlp")
    return x + mlp(layers.LayerNorm("mlp_norm")(x))


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
    normed_q = layers.LayerNorm("query_norm")(query)
    mask = cross_attention_mask(query_mask, input_mask)
    weights = None
    if folding == "inputs" and memory is None and not return_weights:
      norm = layers.LayerNorm("input_norm").parameters(channels)
      x = attn.read(normed_q, inputs, norm, query_mask, input_mask)
    else:
      normed_q = jnp.broadcast_to(normed_q, (batch, *query.shape[1:]))
      if memory is None or return_weights:
        normed_kv = layers.LayerNorm("input_norm")(inputs.whole())
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
    return x + mlp(layers.LayerNorm("mlp_norm")(x)), weights

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
    normed = layers.LayerNorm("input_norm")(inputs)
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

  The ImageNet models apply one block 8 times, with the same weights
  (Perceiver, Table 7).

  Args:
    num_self_attends: L; 0 makes the block the identity.
    make_layer: Builds one self-attend, without randomness; called inside the
      scan.
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
    repeats: int = 1,
  ) -> Float[Array, "B N D"]:
    """Applies the L layers in turn, and all of them `repeats` times.

    `mask` is that of `SelfAttention`.
    """
    if not self._num_self_attends:
      return x

    def layer(x):
      return self._make_layer()(x, mask)

    depth = self._num_self_attends
    if hk.running_init():
      return hk.experimental.layer_stack(depth, name=_STACK)(layer)(x)

    # The parameters are there: lifting only fetches them.
    pure = hk.without_apply_rng(hk.transform(layer))
    stacked = hk.lift(pure.init, name=_STACK)(None, x)
    if execution.current().depth == "unroll":
      apply = _recomputed(pure.apply, self._remat)
      leaves, structure = jax.tree.flatten(stacked)
      every = list(zip(*map(jnp.unstack, leaves), strict=True))
      for own in every * repeats:
        x = apply(structure.unflatten(own), x)
      return x

    # Scanning is what keeps compile time flat in depth and, on CPU, keeps XLA
    # from recomputing the residual chain of every earlier layer. With layers
    # picked by number, the gradients of all repeats are added in place.
    def pick_and_apply(stacked, i, x):
      pick = lambda w: jax.lax.dynamic_index_in_dim(w, i, keepdims=False)
      return pure.apply(jax.tree.map(pick, stacked), x)

    apply = _recomputed(pick_and_apply, self._remat)
    order = jnp.tile(jnp.arange(depth), repeats)
    return jax.lax.scan(lambda x, i: (apply(stacked, i, x), None), x, order)[0]


def _recomputed(layer: Callable, remat: bool) -> Callable:
  """The layer, with what the backward pass recomputes as chosen."""
  how = execution.current()
  choice = how.remat
  if choice == "auto":
    choice = "layers" if remat else "mlp"
  if choice == "nothing" and how.depth == "unroll":
    return layer
  policies = {
    "nothing": _all_but_weights,
    "mlp": jax.checkpoint_policies.save_only_these_names(
      *multi_head.PROJECTIONS
    ),
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "layers": None,
  }
  return jax.checkpoint(layer, policy=policies[choice])


def _all_but_weights(primitive: Any, *_: Any, **__: Any) -> bool:
  """Saves everything but slices: a layer's weights are one of the stack.

  Other slices of a layer are recomputed too, which costs next to nothing.
  """
  return primitive not in (jax.lax.dynamic_slice_p, jax.lax.squeeze_p)


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
