"""Decoders from latents: output queries, one class query, or an average.

A decoder that makes a whole prediction is called as
`decoder(latents, inputs, input_mask, queries=..., return_attention=...)`, with
the input array for those whose queries are made of it. What knows a modality
is in `adapters`. Shapes as in the package glossary.
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import (
  blocks,
  execution,
  multi_head,
  position_encoding,
)
from perceiver_jax.models.inputs import (
  InputArray,
  as_input_array,
)
from perceiver_jax.models.typing import (
  Array,
  Bool,
  Float,
)

# Queries decoded at once, over the batch. With 2,048 latents that is 64 MiB of
# logits in float32.
_MOST_QUERIES = 2**13


class QueryDecoder(hk.Module):
  """One cross-attend from output queries to latents, then a projection.

  Args:
    num_outputs: Output channels; 0 leaves the decoded queries unprojected.
    num_heads: Heads of the cross-attend.
    qk_channels: Query and key width; 0 means that of `shape_for_attn`.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP widening.
    shape_for_attn: Default width: channels of "kv" (latents) or "q".
    use_query_residual: Whether queries are added to what they read: True for
      ImageNet with Fourier features or convolutions, False elsewhere.
    zero_init: Whether the projection starts at zero (optical flow).
    gelu: "tanh" or "exact"; see `blocks.Mlp`.
  """

  def __init__(
    self,
    num_outputs: int,
    num_heads: int = 1,
    qk_channels: int = 0,
    v_channels: int = 0,
    widening_factor: int = 1,
    shape_for_attn: str = "kv",
    use_query_residual: bool = True,
    zero_init: bool = False,
    gelu: str = "tanh",
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_outputs = num_outputs
    self._zero_init = zero_init
    self._cross_attend = {
      "num_heads": num_heads,
      "qk_channels": qk_channels,
      "v_channels": v_channels,
      "widening_factor": widening_factor,
      "shape_for_attn": shape_for_attn,
      "use_query_residual": use_query_residual,
      "gelu": gelu,
    }

  def __call__(
    self,
    queries: InputArray | Float[Array, "b O E"],
    latents: Float[Array, "B N D"],
    query_mask: Bool[Array, "B O"] | None = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B O P"], Float[Array, "B H O N"] | None]:
    """Decodes each query by itself; returns outputs and weights (or None)."""
    queries = as_input_array(queries)
    cross_attend = blocks.CrossAttention(
      name="cross_attend", **self._cross_attend
    )
    _, count, channels = queries.shape
    size = count
    if not return_attention:
      size = _queries_at_once(latents.shape[0], count)
    if size == count:
      return self._decode(
        cross_attend, queries, latents, query_mask, return_attention
      )
    memory = cross_attend.memory(latents, count, channels)
    decode = lambda part, mask: self._decode(
      cross_attend, part, latents, mask, memory=memory
    )[0]
    return _in_parts(decode, queries, query_mask, size), None

  @hk.transparent
  def _decode(
    self,
    cross_attend: blocks.CrossAttention,
    queries: InputArray,
    latents: jax.Array,
    query_mask: jax.Array | None,
    return_attention: bool = False,
    memory: multi_head.Memory | None = None,
  ) -> tuple[jax.Array, jax.Array | None]:
    out, weights = cross_attend(
      queries.whole(),
      latents,
      query_mask=query_mask,
      return_weights=return_attention,
      memory=memory,
    )
    if self._num_outputs:
      init = jnp.zeros if self._zero_init else None
      out = hk.Linear(self._num_outputs, w_init=init, name="output")(out)
    return out, weights


def _queries_at_once(batch: int, count: int) -> int:
  """How many queries to decode in one part; all of them if they are few."""
  never = execution.current().cut_queries == "never"
  if never or batch * count <= _MOST_QUERIES:
    return count
  return max(1, _MOST_QUERIES // batch)


def _in_parts(
  decode: Callable[..., jax.Array],
  queries: InputArray,
  mask: jax.Array | None,
  size: int,
) -> jax.Array:
  """Decodes part by part; the backward pass recomputes each part."""
  count = queries.shape[1]
  full = count // size

  def cut(x, axis):
    """[..., O, ...] to [parts, ..., size, ...]."""
    x = jax.lax.slice_in_dim(x, 0, full * size, axis=axis)
    x = x.reshape(*x.shape[:axis], full, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  body = hk.remat(decode)
  if hk.running_init():  # Parameters are made outside of loops.
    one = body(queries.first(1), None if mask is None else mask[:, :1])
    return jnp.broadcast_to(one, (one.shape[0], count, one.shape[-1]))
  table = queries.positions
  parts = (
    InputArray(cut(queries.data, 1), None if table is None else cut(table, 0)),
    None if mask is None else cut(mask, 1),
  )
  _, out = hk.scan(lambda _, part: (None, body(*part)), None, parts)
  out = jnp.moveaxis(out, 0, 1)  # [B, parts, size, P]
  out = out.reshape(out.shape[0], full * size, -1)
  if count > full * size:
    rest = queries.part(full * size, count)
    mask = None if mask is None else mask[:, full * size :]
    out = jnp.concatenate([out, body(rest, mask)], 1)
  return out


class ClassificationDecoder(QueryDecoder):
  """Perceiver IO's classifier: one learned query, one vector of logits.

  Args:
    num_classes: Number of logits.
    num_query_channels: E (1024 for ImageNet).
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    num_classes: int,
    num_query_channels: int = 1024,
    name: str | None = None,
    **decoder: int | bool | str,
  ):
    super().__init__(num_classes, name=name, **decoder)
    self._num_query_channels = num_query_channels

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B P"], Float[Array, "B H 1 N"] | None]:
    """Returns logits and the decoder's weights (or None)."""
    del inputs, input_mask, queries  # There is one query, the same for all.
    table = position_encoding.TrainablePositions(
      1, self._num_query_channels, name="query"
    )()
    out, weights = super().__call__(
      table[None], latents, return_attention=return_attention
    )
    return out[:, 0], weights


class AverageAndProjectDecoder(hk.Module):
  """The Perceiver's classifier: mean over latents, then a projection.

  The order (average first) is that of arXiv v2, app. F; the projection starts
  at zero as in the authors' code.
  """

  def __init__(self, num_classes: int, name: str | None = None):
    super().__init__(name=name)
    self._num_classes = num_classes

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B P"], Float[Array, "B 1 1 N"] | None]:
    """Returns logits and the (uniform) weights over latents, or None."""
    del inputs, input_mask, queries
    project = hk.Linear(self._num_classes, w_init=jnp.zeros, name="output")
    batch, n, _ = latents.shape
    weights = jnp.full((batch, 1, 1, n), 1 / n) if return_attention else None
    return project(jnp.mean(latents, axis=1)), weights
