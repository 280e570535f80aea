"""Multi-head attention with its projections.

Shapes as in `perceiver_jax.models`; F and V are the total widths of queries and
keys, and of values. `blocks` adds norms, residuals and an MLP.
"""

import dataclasses

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import layers, position_encoding
from perceiver_jax.models.layers import DeferredNorm
from perceiver_jax.models.ops import absorbed_projections
from perceiver_jax.models.ops import dot_product_attention as ops
from perceiver_jax.models.ops.depth import PROJECTIONS
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.masks import CausalMask, Mask
from perceiver_jax.models.position_encoding import Rotary
from perceiver_jax.models.typing import Array, Float, ReturnAttention


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeysValues:
  """Cached keys, not yet rotated, and values of an input array.

  Attributes:
    keys: [B, M, H, F / H].
    values: [B, M, H, V / H].
    is_absorbed: Whether the projections of queries and outputs are absorbed.
  """

  keys: jax.Array
  values: jax.Array
  is_absorbed: bool = dataclasses.field(
    default=False, metadata={"static": True}
  )

  def write(self, new: "KeysValues", start: int | jax.Array) -> "KeysValues":
    """Returns a copy that holds those of other inputs from `start` on."""
    if self.is_absorbed or new.is_absorbed:
      raise ValueError(
        "keys with absorbed projections depend on the number of queries and"
        " can't be added to: set execution.absorb_projections='never'"
      )
    put = lambda old, part: jax.lax.dynamic_update_slice_in_dim(
      old, part.astype(old.dtype), start, axis=1
    )
    return KeysValues(put(self.keys, new.keys), put(self.values, new.values))


class Attention(hk.Module):
  """Projects to queries, keys and values, attends, projects the result.

  Args:
    num_heads: Number of heads; divides both widths.
    qk_channels: F, total width of queries and keys.
    v_channels: V, total width of values.
    output_channels: G, width of the result.
    execution: How it is computed.
    rotary: Rotates queries and keys by their positions in the `CausalMask`,
      which is then required; None for no rotation.
  """

  def __init__(
    self,
    num_heads: int,
    qk_channels: int,
    v_channels: int,
    output_channels: int,
    execution: Execution = AUTO,
    rotary: Rotary | None = None,
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
    self._execution = execution
    self._rotary = rotary

  def __call__(
    self,
    inputs_q: Float[Array, "b N D"],
    inputs_kv: Float[Array, "B M C"] | DeferredNorm | KeysValues,
    mask: Mask | None = None,
  ) -> Float[Array, "B N G"]:
    """Attends from one array to another, or to itself.

    Args:
      inputs_q: Normalized queries; b is B, or 1 if all examples share them.
      inputs_kv: Normalized inputs, or `keys_values` of them.
      mask: True where a query may attend to an input. A query that may attend
        to none gets the bias of the output projection.
    """
    if isinstance(inputs_kv, KeysValues):
      return self._attend(inputs_q, inputs_kv, mask)
    if inputs_q is inputs_kv:
      return self._self_attend(inputs_q, mask)
    absorption = self._absorption(inputs_q.shape, inputs_kv.shape)
    if absorption == "queries" and isinstance(inputs_kv, DeferredNorm):
      return self._attend_unprojected(inputs_q, inputs_kv, mask)
    keys_values = self.keys_values(inputs_kv, inputs_q.shape)
    return self._attend(inputs_q, keys_values, mask)

  # Named like `__call__`, or Haiku would give it parameters of its own.
  @hk.name_like("__call__")
  def keys_values(
    self,
    inputs_kv: Float[Array, "B M C"] | DeferredNorm,
    query_shape: tuple[int, int, int],
  ) -> KeysValues:
    """Returns keys and values, to be attended to any number of times.

    Args:
      inputs_kv: Normalized inputs.
      query_shape: Shape (B, N, D) of all queries together.
    """
    project = self._projections()
    x = inputs_kv.array() if isinstance(inputs_kv, DeferredNorm) else inputs_kv
    k, v = project["key"](x), project["value"](x)
    if self._absorption(query_shape, inputs_kv.shape) != "keys":
      return KeysValues(self._split_heads(k), self._split_heads(v), False)
    w_q, b_q = project["query"].parameters(query_shape[-1])
    w_o, _ = project["output"].parameters(self._v_channels)
    k, v = absorbed_projections.absorb_into_keys(k, v, w_q, b_q, w_o)
    return KeysValues(k[:, :, None], v[:, :, None], True)

  @hk.name_like("__call__")
  def attention_map(
    self,
    inputs_q: Float[Array, "b N D"],
    inputs_kv: Float[Array, "B M C"] | DeferredNorm,
    mask: Mask | None = None,
    *,
    what: ReturnAttention = True,
  ) -> Float[Array, "B H N M"]:
    """Returns attention weights or logits, to look at. Call after `__call__`.

    They are those of the definition, whatever `execution` chooses.

    Args:
      inputs_q: See `__call__`.
      inputs_kv: See `__call__`.
      mask: See `__call__`.
      what: True for the weights, "logits" for what their softmax is taken of.

    Raises:
      ValueError: `what` is neither.
    """
    if what not in (True, "logits"):
      raise ValueError(
        f"return_attention {what!r}: give True for attention weights, 'logits'"
        " for attention logits, or False"
      )
    project = self._projections()
    x = inputs_kv.array() if isinstance(inputs_kv, DeferredNorm) else inputs_kv
    k = self._split_heads(project["key"](x))
    q = self._split_heads(project["query"](inputs_q))
    q = jnp.broadcast_to(q, (k.shape[0], *q.shape[1:]))
    q, k = self._rotate(q, k, mask)
    if what == "logits":
      return ops.attention_logits(q, k, mask)
    return ops.attention_weights(q, k, mask)

  @hk.transparent
  def _attend(self, inputs_q, keys_values, mask):
    project, keys = self._projections(), keys_values.keys
    if keys_values.is_absorbed:
      q = absorbed_projections.append_one(inputs_q)[:, :, None]
    else:
      q = self._split_heads(project["query"](inputs_q))
    q = jnp.broadcast_to(q, (keys.shape[0], *q.shape[1:]))
    q, keys = self._rotate(q, keys, mask)
    out = ops.dot_product_attention(
      q, keys, keys_values.values, mask, self._execution
    )
    if keys_values.is_absorbed:
      return out + project["output"].parameters(self._v_channels)[1]
    return project["output"](out)

  @hk.transparent
  def _self_attend(self, x, mask):
    # Made once in a call: made again, Haiku would name them anew.
    *qkv, output = self._projections().values()
    q, k, v = layers.apply_to_same(qkv, x, self._execution)
    q, k, v = map(self._split_heads, (q, k, v))
    q, k = self._rotate(q, k, mask)
    return output(ops.dot_product_attention(q, k, v, mask, self._execution))

  @hk.transparent
  def _attend_unprojected(self, inputs_q, inputs_kv, mask):
    project, (inputs, norm) = self._projections(), inputs_kv
    channels = inputs.shape[-1]
    # In this order, or the same seed would initialize another model.
    norm_parameters = norm.parameters(channels)
    key = project["key"].parameters(channels)
    value = project["value"].parameters(channels)
    out = absorbed_projections.attend_unprojected(
      project["query"](inputs_q),
      inputs.data,
      inputs.positions,
      norm_parameters,
      key,
      value,
      mask,
      self._execution.target,
    )
    return project["output"](out)

  def _rotate(
    self, q: jax.Array, k: jax.Array, mask: Mask | None
  ) -> tuple[jax.Array, jax.Array]:
    """Applies the rotary position encoding, if there is one."""
    if self._rotary is None:
      return q, k
    if not isinstance(mask, CausalMask):
      raise ValueError("rotary positions are those of a CausalMask: give one")
    return (
      position_encoding.rotate(q, mask.query_positions, self._rotary),
      position_encoding.rotate(k, mask.key_positions, self._rotary),
    )

  def _absorption(
    self, query_shape: tuple[int, ...], input_shape: tuple[int, ...]
  ) -> str:
    """Returns "queries", "keys" or "nowhere"; see `absorbed_projections`."""
    if self._num_heads > 1 or self._execution.absorb_projections == "never":
      return "nowhere"
    if self._rotary is not None:  # Between the projection and the product.
      return "nowhere"
    return absorbed_projections.cheapest(
      num_queries=query_shape[1],
      query_channels=query_shape[2],
      num_inputs=input_shape[1],
      input_channels=input_shape[2],
      qk_channels=self._qk_channels,
      v_channels=self._v_channels,
      output_channels=self._output_channels,
    )

  @hk.transparent
  def _projections(self) -> dict[str, layers.Linear]:
    qk, v = self._qk_channels, self._v_channels
    sizes = zip(PROJECTIONS, (qk, qk, v, self._output_channels), strict=True)
    return {
      name: layers.Linear(size, self._execution, name) for name, size in sizes
    }

  def _split_heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], self._num_heads, -1)
