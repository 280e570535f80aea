"""Decoders from latents: output queries, one class query, or an average.

A decoder that makes a whole prediction is called as
`decoder(latents, inputs, input_mask, queries=..., return_attention=...)`, with
the input array for those whose queries are made of it. What knows a modality
is in `adapters`. Shapes as in the package glossary.
"""

from typing import Any

import haiku as hk
from jax import numpy as jnp

from perceiver_jax.models import blocks, positions
from perceiver_jax.models.typing import Array, Bool, Float


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
    queries: Float[Array, "B O E"],
    latents: Float[Array, "B N D"],
    query_mask: Bool[Array, "B O"] | None = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B O P"], Float[Array, "B H O N"] | None]:
    """Decodes each query by itself; returns outputs and weights (or None)."""
    cross_attend = blocks.CrossAttention(
      name="cross_attend", **self._cross_attend
    )
    mask = blocks.cross_attention_mask(query_mask, None)
    out, weights = cross_attend(queries, latents, mask, return_attention)
    if self._num_outputs:
      init = jnp.zeros if self._zero_init else None
      out = hk.Linear(self._num_outputs, w_init=init, name="output")(out)
    return out, weights


class ClassQueryDecoder(QueryDecoder):
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
    inputs: Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B P"], Float[Array, "B H 1 N"] | None]:
    """Returns logits and the decoder's weights (or None)."""
    del inputs, input_mask, queries  # There is one query, the same for all.
    table = positions.TrainablePositions(
      1, self._num_query_channels, name="query"
    )()
    out, weights = super().__call__(
      positions.repeat_batch(table, latents.shape[0]),
      latents,
      return_attention=return_attention,
    )
    return out[:, 0], weights


class AverageDecoder(hk.Module):
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
    inputs: Float[Array, "B M C"] | None = None,
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
