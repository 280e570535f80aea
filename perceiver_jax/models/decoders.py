"""Decoders from latents: output queries, one class query, or an average.

A decoder of a whole prediction is called as
`decoder(latents, inputs, input_mask, queries=..., return_attention=...)`; some
make their queries of the input array. Decoders of one modality are in
`modalities`. Shapes as in `perceiver_jax.models`.
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import blocks, position_encoding
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.ops.online_softmax import MASKED_LOGIT
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention

# Queries decoded at once, over the batch. With 2,048 latents their logits are
# 64 MiB in float32.
_MAX_QUERIES = 2**13
# Chunks are recomputed, which takes a TPU longer than holding this many
# queries (docs/tpu.md).
_TPU_WHOLE_QUERIES = 2**16


class QueryDecoder(hk.Module):
  """One cross-attend from output queries to latents, then a projection.

  Args:
    num_outputs: Output channels; 0 leaves the decoded queries unprojected.
    num_heads: Heads of the cross-attend.
    qk_channels: Query and key width; 0 means that of `shape_for_attn`.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP widening.
    shape_for_attn: Default width: channels of "kv" (latents) or "q".
    use_query_residual: Whether queries are added to what they attended to: True
      for ImageNet with Fourier features or convolutions, False elsewhere.
    zero_init: Whether the projection starts at zero (optical flow).
    gelu: "tanh" or "exact"; see `blocks.Mlp`.
    execution: How it is computed.
    activation: "gelu" or "squared_relu"; see `blocks.Mlp`.
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
    execution: Execution = AUTO,
    activation: str = "gelu",
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_outputs = num_outputs
    self._zero_init = zero_init
    self._execution = execution
    self._cross_attend = {
      "num_heads": num_heads,
      "qk_channels": qk_channels,
      "v_channels": v_channels,
      "widening_factor": widening_factor,
      "shape_for_attn": shape_for_attn,
      "use_query_residual": use_query_residual,
      "gelu": gelu,
      "execution": execution,
      "activation": activation,
    }

  def __call__(
    self,
    queries: InputArray | Float[Array, "b O E"],
    latents: Float[Array, "B N D"],
    query_mask: Bool[Array, "B O"] | None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B O P"], Float[Array, "B H O N"] | None]:
    """Decodes each query independently of the others.

    Args:
      queries: Output queries; b is B or 1.
      latents: The latents to attend to.
      query_mask: True at real queries.
      return_attention: Whether to return the attention weights, or logits, too.

    Returns:
      The outputs, and the weights (or logits) or None.
    """
    queries = as_input_array(queries)
    cross_attend = blocks.CrossAttention(
      name="cross_attend", **self._cross_attend
    )
    project = lambda x: x
    if self._num_outputs:
      init = jnp.zeros if self._zero_init else None
      project = hk.Linear(self._num_outputs, w_init=init, name="output")
    batch, (_, num_queries, channels) = latents.shape[0], queries.shape
    plain = return_attention or self._execution.attention == "plain"
    is_tpu = self._execution.target == "tpu"
    whole = _TPU_WHOLE_QUERIES if is_tpu else _MAX_QUERIES
    if plain or batch * num_queries <= whole:
      out, weights = cross_attend(
        queries.array(),
        latents,
        query_mask=query_mask,
        return_attention=return_attention,
      )
      return project(out), weights

    keys_values = cross_attend.keys_values(
      latents, (batch, num_queries, channels)
    )

    def decode(queries, query_mask):
      out, _ = cross_attend(
        queries.array(),
        latents,
        query_mask=query_mask,
        keys_values=keys_values,
      )
      return project(out)

    size = max(1, _MAX_QUERIES // batch)
    return _decode_in_chunks(decode, queries, query_mask, size), None


def _decode_in_chunks(
  decode: Callable[[InputArray, jax.Array | None], jax.Array],
  queries: InputArray,
  mask: jax.Array | None,
  size: int,
) -> jax.Array:
  """Decodes chunks of queries; the backward pass recomputes each chunk.

  Equal to `decode(queries, mask)`.
  """
  count = queries.shape[1]
  full = count // size

  def split(x, axis):
    """Reshapes [..., O, ...] to [chunks, ..., size, ...]."""
    x = jax.lax.slice_in_dim(x, 0, full * size, axis=axis)
    x = x.reshape(*x.shape[:axis], full, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  body = hk.remat(decode)
  if hk.running_init():  # Parameters are made outside of loops.
    one = body(queries.slice(0, 1), None if mask is None else mask[:, :1])
    return jnp.broadcast_to(one, (one.shape[0], count, one.shape[-1]))
  table = queries.positions
  chunks = (
    InputArray(
      split(queries.data, 1), None if table is None else split(table, 0)
    ),
    None if mask is None else split(mask, 1),
  )
  _, out = hk.scan(lambda _, chunk: (None, body(*chunk)), None, chunks)
  out = jnp.moveaxis(out, 0, 1)  # [B, chunks, size, P]
  out = out.reshape(out.shape[0], full * size, -1)
  if count > full * size:
    rest = queries.slice(full * size, count)
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
    **decoder: Any,
  ):
    super().__init__(num_classes, name=name, **decoder)
    self._num_query_channels = num_query_channels

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B P"], Float[Array, "B H 1 N"] | None]:
    """Returns class logits and the decoder's attention, or None."""
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

  Args:
    num_classes: Number of logits.
    latents_are_inputs: Whether the latents are the input elements, as those of
      a Transformer are, so that masked ones are left out of the mean.
    execution: Unused: there is nothing to choose.
  """

  def __init__(
    self,
    num_classes: int,
    latents_are_inputs: bool = False,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    del execution
    self._num_classes = num_classes
    self._latents_are_inputs = latents_are_inputs

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B P"], Float[Array, "B 1 1 N"] | None]:
    """Returns class logits and the uniform attention to latents, or None."""
    del inputs, queries
    project = hk.Linear(self._num_classes, w_init=jnp.zeros, name="output")
    batch, n, _ = latents.shape
    attention = None
    if return_attention:
      uniform = 0.0 if return_attention == "logits" else 1 / n
      attention = jnp.full((batch, 1, 1, n), uniform)
    if not self._latents_are_inputs or input_mask is None:
      return project(jnp.mean(latents, axis=1)), attention
    count = jnp.maximum(input_mask.sum(axis=1, keepdims=True), 1)
    total = jnp.where(input_mask[..., None], latents, 0).sum(axis=1)
    if return_attention:
      real = input_mask[:, None, None]
      attention = jnp.where(real, 1 / count[:, None, None], 0.0)
      if return_attention == "logits":
        attention = jnp.where(real, 0.0, MASKED_LOGIT)
    return project(total / count), attention
