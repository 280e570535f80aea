"""Blocks of a Hierarchical Perceiver, which attend within groups.

All weights of a block but its latents are shared by the groups (arXiv
2202.10890, and the authors' code).

Shapes: B batch, G groups of M inputs of C channels, N latents of D channels in
each.
"""

from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import blocks, layers
from perceiver_jax.models.modalities import groups as groups_lib
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Float

# Sizes of every block, or one size for all.
Sizes = int | Sequence[int]


class GroupBlock(hk.Module):
  """A cross-attend from learned latents to each group, then self-attends.

  All weights but the latents are shared by the groups.

  Args:
    num_latents: N.
    num_latent_channels: D.
    num_self_attends: Number of self-attends.
    num_cross_attend_heads: Heads of the cross-attend.
    num_self_attend_heads: Heads of each self-attend.
    cross_attend_widening_factor: MLP widening of the cross-attend.
    self_attend_widening_factor: MLP widening of the self-attends.
    num_training_latents: Number of latents, drawn at random for each example
      and group, that training uses; 0 for all.
    activation: See `blocks.Mlp`.
    remat: Whether the backward pass recomputes whole self-attends.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_latents: int,
    num_latent_channels: int,
    num_self_attends: int,
    num_cross_attend_heads: int = 1,
    num_self_attend_heads: int = 8,
    cross_attend_widening_factor: int = 1,
    self_attend_widening_factor: int = 4,
    num_training_latents: int = 0,
    activation: str = "squared_relu",
    remat: bool = False,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_latents = num_latents
    self._num_latent_channels = num_latent_channels
    self._num_self_attends = num_self_attends
    self._num_training_latents = num_training_latents
    self._remat = remat
    self._execution = execution
    same = {"activation": activation, "execution": execution}
    self._cross_attend = {
      "num_heads": num_cross_attend_heads,
      "widening_factor": cross_attend_widening_factor,
      **same,
    }
    self._self_attend = {
      "num_heads": num_self_attend_heads,
      "widening_factor": self_attend_widening_factor,
      **same,
    }

  def __call__(
    self,
    x: Float[Array, "B G M C"],
    skip: Float[Array, "B _ _ S"] | None = None,
    keys: jax.Array | None = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B G N D"], Float[Array, "B G N M"] | None]:
    """Processes each group on its own.

    Args:
      x: Groups of inputs.
      skip: Latents of the mirrored block [B, G, N, S], which are added to the
        queries.
      keys: A random key for each example [B, 2], in training with
        `num_training_latents`.
      return_attention: Whether to return the cross-attend's weights too.

    Returns:
      The latents, and the weights averaged over heads, or None.

    Raises:
      ValueError: `skip` has another number of groups or latents.
    """
    batch, num_groups, size, channels = x.shape
    query = self._query(batch, num_groups, skip, keys)
    x = x.reshape(batch * num_groups, size, channels)
    cross_attend = blocks.CrossAttention(
      **self._cross_attend, name="cross_attend"
    )
    z, attention = cross_attend(query, x, return_attention=return_attention)
    z = blocks.LatentTransformer(
      self._num_self_attends,
      lambda: blocks.SelfAttention(**self._self_attend, name="self_attend"),
      self._remat,
      self._execution,
      name="self_attends",
    )(z)
    if return_attention:
      attention = attention.mean(1).reshape(batch, num_groups, -1, size)
    return z.reshape(batch, num_groups, *z.shape[1:]), attention

  @hk.transparent
  def _query(
    self,
    batch: int,
    num_groups: int,
    skip: jax.Array | None,
    keys: jax.Array | None,
  ) -> Float[Array, "A N D"]:
    """Returns the queries of all groups; A is B G, or 1 if all are equal."""
    channels, count = self._num_latent_channels, self._num_latents
    table = groups_lib.position_table(num_groups * count, channels, "latents")
    query = table.reshape(1, num_groups, count, channels)
    if keys is not None and 0 < self._num_training_latents < count:
      query = _draw(query, keys, self._num_training_latents)
    if skip is not None:
      shape = (batch, num_groups, query.shape[2])
      if skip.shape[:3] != shape:
        raise ValueError(
          f"the mirrored block has {skip.shape[1]} groups of {skip.shape[2]}"
          f" latents, and {self.name} has {shape[1]} of {shape[2]}: make"
          " num_groups and num_latents of the decoder those of the encoder in"
          " reverse"
        )
      if skip.shape[-1] != channels:
        skip = layers.Linear(channels, self._execution, "skip")(skip)
      query = query + skip
    if num_groups > 1:
      query = jnp.broadcast_to(query, (batch, *query.shape[1:]))
    return query.reshape(-1, *query.shape[2:])


def _draw(
  query: Float[Array, "1 G N D"], keys: jax.Array, count: int
) -> Float[Array, "B G n D"]:
  """Draws `count` latents for each example and group, without replacement."""
  _, num_groups, total, _ = query.shape
  draw = lambda key: jax.random.uniform(
    jax.random.wrap_key_data(key), (num_groups, total)
  )
  chosen = jax.lax.top_k(jax.vmap(draw)(keys), count)[1]
  query = jnp.broadcast_to(query, (len(keys), *query.shape[1:]))
  return jnp.take_along_axis(query, chosen[..., None], axis=2)


class GroupBlocks(hk.Module):
  """The base class of encoder and decoder, which are both made of blocks.

  Args:
    num_groups: G of each block.
    num_latents: N of each block.
    num_latent_channels: D of each block.
    num_self_attends: Self-attends of each block.
    num_self_attend_heads: Heads of the self-attends of each block.
    num_cross_attend_heads: Heads of the cross-attend of each block.
    cross_attend_widening_factor: MLP widening of each cross-attend.
    self_attend_widening_factor: MLP widening of each block's self-attends.
    regrouping: See `groups.regroup`.
    activation: See `blocks.Mlp`.
    remat: Whether the backward pass recomputes whole self-attends.
    execution: How it is computed.

  Raises:
    ValueError: The numbers of sizes differ, or `regrouping` is unknown.
  """

  def __init__(
    self,
    num_groups: Sequence[int],
    num_latents: Sizes,
    num_latent_channels: Sizes,
    num_self_attends: Sizes,
    num_self_attend_heads: Sizes,
    num_cross_attend_heads: Sizes = 1,
    cross_attend_widening_factor: Sizes = 1,
    self_attend_widening_factor: Sizes = 4,
    regrouping: str = "reshape",
    activation: str = "squared_relu",
    remat: bool = False,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    if regrouping not in groups_lib.REGROUPINGS:
      raise ValueError(
        f"regrouping {regrouping!r}: choose one of"
        f" {', '.join(groups_lib.REGROUPINGS)}"
      )
    self._num_groups = tuple(num_groups)
    self._regrouping = regrouping
    self._execution = execution
    self._same = {
      "activation": activation,
      "remat": remat,
      "execution": execution,
    }
    self._sizes = {
      "num_latents": num_latents,
      "num_latent_channels": num_latent_channels,
      "num_self_attends": num_self_attends,
      "num_self_attend_heads": num_self_attend_heads,
      "num_cross_attend_heads": num_cross_attend_heads,
      "cross_attend_widening_factor": cross_attend_widening_factor,
      "self_attend_widening_factor": self_attend_widening_factor,
    }
    for leaf, sizes in self._sizes.items():
      if not isinstance(sizes, int) and len(sizes) != len(self._num_groups):
        raise ValueError(
          f"{leaf} has {len(sizes)} values and num_groups has"
          f" {len(self._num_groups)}: give one for each block, or a single"
          " number"
        )

  @hk.transparent
  def block(self, i: int, **options: Any) -> GroupBlock:
    """Returns the i-th block."""
    sizes = {
      leaf: size if isinstance(size, int) else size[i]
      for leaf, size in self._sizes.items()
    }
    return GroupBlock(**sizes, **self._same, **options, name=f"block_{i}")
