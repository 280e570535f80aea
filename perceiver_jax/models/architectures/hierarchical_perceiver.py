"""Hierarchical Perceiver: latents attend to groups of inputs, level by level.

Each block divides its inputs into groups, cross-attends to each group from
latents of its own and processes them with self-attends. The encoder's blocks
have fewer and fewer groups; the last, the bottleneck, has one and is a flat
Perceiver. The decoder's blocks mirror them, with the encoder's latents added to
their queries as in a U-Net, and the positions of the inputs query the outputs
(arXiv 2202.10890, and the authors' code).

Shapes: B batch, G groups, N latents of D channels in each, M inputs of C
channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import decoders, layers
from perceiver_jax.models.architectures.group_blocks import GroupBlocks, Sizes
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.modalities import groups as groups_lib
from perceiver_jax.models.modalities.groups import GroupedInputs, Grouping
from perceiver_jax.models.ops.online_softmax import MASKED_LOGIT
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class HierarchicalLatents(NamedTuple):
  """The encoder's results, which the decoder reads.

  Attributes:
    bottleneck: Latents of the last block [B, N, D].
    skips: Latents of the blocks before it [B, G, N, D], the first block first.
    queries: Positions [M, E] of each modality, which query its reconstruction.
    label_queries: Positions [m, C] of each modality that only the bottleneck
      sees.
  """

  bottleneck: jax.Array
  skips: tuple[jax.Array, ...]
  queries: Mapping[str, jax.Array]
  label_queries: Mapping[str, jax.Array]


class HierarchicalEncoder(GroupBlocks):
  """The blocks up to the bottleneck, which has a single group.

  Args:
    num_training_latents: Number of the bottleneck's latents, drawn at random
      for each example, that training uses; 0 for all.
    **sizes: See `GroupBlocks`. The defaults are those of HiP-16.

  Raises:
    ValueError: The last block has several groups.
  """

  def __init__(
    self,
    num_groups: Sequence[int] = (16, 4, 1, 1),
    num_latents: Sizes = (128, 256, 256, 64),
    num_latent_channels: Sizes = (128, 256, 512, 1024),
    num_self_attends: Sizes = (2, 2, 18, 2),
    num_self_attend_heads: Sizes = (4, 8, 16, 32),
    num_training_latents: int = 0,
    name: str | None = None,
    **sizes: Any,
  ):
    super().__init__(
      num_groups,
      num_latents,
      num_latent_channels,
      num_self_attends,
      num_self_attend_heads,
      name=name,
      **sizes,
    )
    if tuple(num_groups)[-1:] != (1,):
      raise ValueError(
        f"the encoder's num_groups {tuple(num_groups)} must end with 1, the"
        " bottleneck"
      )
    self._num_training_latents = num_training_latents

  def __call__(
    self,
    inputs: GroupedInputs | InputArray,
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: jax.Array | None = None,
    dropout_keys: jax.Array | None = None,
  ) -> tuple[HierarchicalLatents, list[Float[Array, "B 1 N M"]]]:
    """Returns the latents of all blocks, and attention if asked for.

    Args:
      inputs: Embedded modalities, or the input array of another adapter.
      input_mask: Must be None: every input is attended to.
      return_attention: Whether to compute how much each latent of the
        bottleneck attends to each input, through the cross-attends of all
        blocks, as weights or logits.
      initial_latents: Must be None.
      dropout_keys: A random key for each example, uint32 [B, 2], in training
        with `num_training_latents`.

    Raises:
      ValueError: There is a mask, or there are initial latents.
    """
    if input_mask is not None or initial_latents is not None:
      raise ValueError(
        "a hierarchical encoder attends to all inputs from its own latents:"
        " leave input_mask and initial_latents out"
      )
    inputs = groups_lib.as_grouped_inputs(inputs)
    grouping = Grouping.of(inputs.elements, self._num_groups[0])
    x = grouping.group(inputs.elements)
    last = len(self._num_groups) - 1
    hidden, attention, queries = [], [], {}
    for i, num_groups in enumerate(self._num_groups):
      options = {}
      if i:
        x = groups_lib.regroup(x, num_groups, self._regrouping)
      if i == last:
        x, queries = self._append_labels(x, inputs.labels)
        options["num_training_latents"] = self._num_training_latents
      x, weights = self.block(i, **options)(
        x, keys=dropout_keys, return_attention=bool(return_attention)
      )
      hidden.append(x)
      attention.append(weights)
    latents = HierarchicalLatents(
      x[:, 0], tuple(hidden[:-1]), inputs.positions, queries
    )
    if not return_attention:
      return latents, []
    weights = self._attention_to_inputs(attention, grouping)
    if return_attention == "logits":
      weights = jnp.maximum(jnp.log(weights), MASKED_LOGIT)
    return latents, [weights]

  @hk.transparent
  def _append_labels(
    self, x: Float[Array, "B 1 M C"], labels: Mapping[str, jax.Array]
  ) -> tuple[Float[Array, "B 1 L C"], dict[str, Float[Array, "_ C"]]]:
    """Appends embedded labels, and returns their positions too."""
    positions, channels = {}, x.shape[-1]
    for name, label in labels.items():
      z = layers.Linear(channels, self._execution, f"embed_{name}")(label)
      positions[name] = groups_lib.position_table(
        z.shape[1], channels, f"positions_{name}"
      )
      z += positions[name].astype(z.dtype)
      x = jnp.concatenate([x, z[:, None]], 2)
    return x, positions

  def _attention_to_inputs(
    self, attention: list[jax.Array], grouping: Grouping
  ) -> Float[Array, "B 1 N M"]:
    """Multiplies the weights of all blocks, from the bottleneck down.

    Args:
      attention: Weights [B, G, n, m] of each block.
      grouping: That of the inputs.
    """
    weights = attention[-1][:, 0].swapaxes(1, 2)[:, None]  # [B, 1, M, N].
    for i in reversed(range(len(attention) - 1)):
      _, num_groups, size, _ = attention[i].shape
      weights = weights[:, :, : num_groups * size]  # Without labels.
      weights = groups_lib.ungrouped(weights, num_groups, self._regrouping)
      weights = jnp.einsum("bgnm,bgnk->bgmk", attention[i], weights)
    by_modality = grouping.ungroup(weights)
    return jnp.concatenate(list(by_modality.values()), 1).swapaxes(1, 2)[
      :, None
    ]


class HierarchicalDecoder(GroupBlocks):
  """The blocks after the bottleneck, and one query for each input.

  Labels are decoded from the bottleneck.

  Args:
    **sizes: See `GroupBlocks`. The defaults are those of HiP-16.
  """

  def __init__(
    self,
    num_groups: Sequence[int] = (1, 4, 16),
    num_latents: Sizes = (256, 256, 128),
    num_latent_channels: Sizes = (512, 256, 128),
    num_self_attends: Sizes = (1, 1, 1),
    num_self_attend_heads: Sizes = (16, 8, 4),
    name: str | None = None,
    **sizes: Any,
  ):
    super().__init__(
      num_groups,
      num_latents,
      num_latent_channels,
      num_self_attends,
      num_self_attend_heads,
      name=name,
      **sizes,
    )

  def __call__(
    self,
    latents: HierarchicalLatents,
    inputs: GroupedInputs | InputArray,
    input_mask: None = None,
    queries: None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[dict[str, Float[Array, "B _ _"]], None]:
    """Returns the reconstruction of every modality, always without weights.

    Args:
      latents: Those of a `HierarchicalEncoder`.
      inputs: The inputs, whose numbers of channels are those of the outputs.
      input_mask: Not used.
      queries: Not used.
      return_attention: Not used.

    Raises:
      ValueError: The numbers of blocks or groups do not mirror the encoder's,
        or the inputs have no positions.
    """
    del input_mask, queries, return_attention
    self._check(latents)
    x = latents.bottleneck[:, None]
    out = {
      name: self._decode("label_head", query[None], x)[:, 0]
      for name, query in latents.label_queries.items()
    }
    for i, num_groups in enumerate(self._num_groups):
      x = groups_lib.regroup(x, num_groups, self._regrouping)
      x, _ = self.block(i)(x, latents.skips[-1 - i])
    grouping = Grouping.of(latents.queries, x.shape[1])
    x = self._decode("reconstruction_head", grouping.group(latents.queries), x)
    out |= grouping.ungroup(x)
    return {
      name: hk.Linear(
        inputs.num_channels[name], w_init=jnp.zeros, name=f"output_{name}"
      )(x)
      for name, x in out.items()
    }, None

  @hk.transparent
  def _decode(
    self,
    name: str,
    queries: Float[Array, "G m E"],
    latents: Float[Array, "B G N D"],
  ) -> Float[Array, "B G m E"]:
    """Queries each group's latents."""
    batch, num_groups = latents.shape[:2]
    shape = (batch, *queries.shape) if num_groups > 1 else (1, *queries.shape)
    queries = jnp.broadcast_to(queries, shape)
    head = decoders.QueryDecoder(
      0,
      use_query_residual=False,
      activation=self._same["activation"],
      execution=self._execution,
      name=name,
    )
    out, _ = head(
      queries.reshape(-1, *queries.shape[2:]),
      latents.reshape(-1, *latents.shape[2:]),
    )
    return out.reshape(batch, num_groups, *out.shape[1:])

  def _check(self, latents: HierarchicalLatents) -> None:
    if len(latents.skips) != len(self._num_groups):
      raise ValueError(
        f"the decoder has {len(self._num_groups)} blocks and the encoder"
        f" {len(latents.skips)} before its bottleneck: make them equal"
      )
    if not latents.queries:
      raise ValueError(
        "the decoder 'hierarchical' queries the learned positions of the"
        " inputs: use the adapter kind 'grouped'"
      )


class BottleneckClassificationDecoder(decoders.ClassificationDecoder):
  """Classifies from the latents of the bottleneck alone.

  It is the authors' head of a label modality with a single element.

  Args:
    num_classes: Number of logits.
    num_query_channels: Width of the learned query.
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    num_classes: int,
    num_query_channels: int = 512,
    name: str | None = None,
    **decoder: Any,
  ):
    defaults = {"use_query_residual": False, "activation": "squared_relu"}
    super().__init__(
      num_classes, num_query_channels, name=name, **(defaults | decoder)
    )

  def __call__(
    self,
    latents: HierarchicalLatents,
    inputs: GroupedInputs | InputArray | None = None,
    input_mask: None = None,
    queries: None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B P"], Float[Array, "B H 1 N"] | None]:
    """Returns class logits and the decoder's attention, or None."""
    del inputs, input_mask, queries
    return super().__call__(
      latents.bottleneck, return_attention=return_attention
    )
