"""Inputs of a Hierarchical Perceiver: any modalities, in groups.

Each modality is flattened, projected to E channels, and given a learned
position for each element. The elements are then divided into G groups, which
the first block attends to one by one (Hierarchical Perceiver, arXiv 2202.10890,
and the authors' code).

Shapes: B batch, M elements, C input channels, E embedding channels, G groups of
m elements.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import layers
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import Array, Float

REGROUPINGS = ("reshape", "transpose_reshape")


class GroupedInputs(NamedTuple):
  """Embedded modalities, before they are divided into groups.

  Attributes:
    elements: [B, M, E] by modality, in the order of the groups.
    positions: Their position encodings [M, E], which query the decoder.
    labels: Modalities [B, M, C] that only the bottleneck sees.
    num_channels: C of every modality, labels included.
  """

  elements: Mapping[str, jax.Array]
  positions: Mapping[str, jax.Array]
  labels: Mapping[str, jax.Array]
  num_channels: Mapping[str, int]


def as_grouped_inputs(inputs: GroupedInputs | InputArray) -> GroupedInputs:
  """Returns any adapter's inputs as a single modality without positions."""
  if isinstance(inputs, GroupedInputs):
    return inputs
  array = inputs.array()
  return GroupedInputs({"input": array}, {}, {}, {"input": array.shape[-1]})


class Grouping(NamedTuple):
  """A division of modalities into groups of equal size.

  No group holds elements of two modalities, except a single group, which holds
  all of them, as in the authors' Perceiver IO.

  Attributes:
    sizes: Number of elements of each modality.
    num_groups: Number of groups of each modality.
    group_size: m. Groups with fewer elements are padded with zeros, which are
      attended to like elements.
  """

  sizes: Mapping[str, int]
  num_groups: Mapping[str, int]
  group_size: int

  @classmethod
  def of(
    cls, arrays: Mapping[str, Float[Array, "*B _ E"]], num_groups: int
  ) -> "Grouping":
    """Returns the grouping that makes the largest group as small as possible.

    Args:
      arrays: Arrays of all modalities.
      num_groups: G.

    Raises:
      ValueError: There are fewer groups than modalities, and more than one.
    """
    sizes = {name: x.shape[-2] for name, x in arrays.items()}
    if num_groups == 1:
      return cls(sizes, {}, sum(sizes.values()))
    if len(sizes) > num_groups:
      raise ValueError(
        f"{len(sizes)} modalities do not fit into {num_groups} groups, since"
        " each has groups of its own: let encoder.num_groups begin with"
        f" {len(sizes)} or more, or with 1 for a group of all"
      )
    counts = dict.fromkeys(sizes, 1)
    mean_size = lambda name: sizes[name] / counts[name]
    for _ in range(num_groups - len(sizes)):
      counts[max(sizes, key=mean_size)] += 1
    return cls(sizes, counts, math.ceil(max(map(mean_size, sizes))))

  def group(
    self, arrays: Mapping[str, Float[Array, "*B _ E"]]
  ) -> Float[Array, "*B G m E"]:
    """Divides arrays into groups, padded with zeros."""
    if not self.num_groups:
      return jnp.concatenate(list(arrays.values()), -2)[..., None, :, :]
    return jnp.concatenate(
      [self._split(arrays[name], name) for name in self.sizes], -3
    )

  def ungroup(
    self, groups: Float[Array, "*B G m E"]
  ) -> dict[str, Float[Array, "*B _ E"]]:
    """Inverts `group`."""
    arrays, start = {}, 0
    for name, size in self.sizes.items():
      if self.num_groups:
        end = start + self.num_groups[name]
        x = groups[..., start:end, : self._own_size(name), :]
        x = x.reshape(*x.shape[:-3], -1, x.shape[-1])[..., :size, :]
      else:
        end = start + size
        x = groups[..., 0, start:end, :]
      arrays[name], start = x, end
    return arrays

  def _own_size(self, name: str) -> int:
    """Returns the size of a modality's groups before they are padded."""
    return math.ceil(self.sizes[name] / self.num_groups[name])

  def _split(self, x: jax.Array, name: str) -> jax.Array:
    """Returns the groups of one modality."""
    count, size = self.num_groups[name], self._own_size(name)
    x = _pad(x, count * size)
    x = x.reshape(*x.shape[:-2], count, size, x.shape[-1])
    return _pad(x, self.group_size)


def _pad(x: jax.Array, size: int) -> jax.Array:
  """Appends zeros to the last axis but one."""
  widths = [(0, 0)] * x.ndim
  widths[-2] = (0, size - x.shape[-2])
  return jnp.pad(x, widths)


def regroup(
  x: Float[Array, "B G m E"], num_groups: int, how: str = "reshape"
) -> Float[Array, "B H n E"]:
  """Merges or splits groups.

  Args:
    x: Groups.
    num_groups: Number of groups to make of them.
    how: "reshape" joins neighboring groups; "transpose_reshape" first sorts the
      elements by their place in a group, so that every new group has elements
      of all old ones, if there are enough.

  Raises:
    ValueError: The elements can't be divided into that many groups.
  """
  batch, groups, size, channels = x.shape
  if groups * size % num_groups:
    raise ValueError(
      f"{groups} groups of {size} latents can't be divided into {num_groups}"
      " groups: change num_groups or num_latents"
    )
  if how == "transpose_reshape":
    x = x.swapaxes(1, 2)
  return x.reshape(batch, num_groups, -1, channels)


def ungrouped(
  x: Float[Array, "B H n E"], num_groups: int, how: str
) -> Float[Array, "B G m E"]:
  """Inverts `regroup`, given the number of groups before it."""
  batch, _, _, channels = x.shape
  if how == "reshape":
    return x.reshape(batch, num_groups, -1, channels)
  return x.reshape(batch, -1, num_groups, channels).swapaxes(1, 2)


def position_table(
  num_positions: int, num_channels: int, name: str
) -> Float[Array, "M E"]:
  """Returns a learned table of positions or latents.

  It starts from a standard deviation of 1 / sqrt(M) (the authors' code).
  """
  return _Table(num_positions, num_channels, name=name)()


class _Table(hk.Module):
  """A learned table whose values start smaller the more rows it has."""

  def __init__(self, num_rows: int, num_channels: int, name: str):
    super().__init__(name=name)
    self._shape = (num_rows, num_channels)

  def __call__(self) -> jax.Array:
    init = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
    return hk.get_parameter("embeddings", self._shape, init=init)


class GroupedAdapter(hk.Module):
  """Embeds modalities and adds learned positions.

  No positions are given: they are learned by masked autoencoding (Hierarchical
  Perceiver, section 3).

  Args:
    num_channels: E, the width of elements and of their positions.
    modalities: Names of the modalities in the order of their groups. A single
      one may be given as an array instead of a mapping.
    label_modalities: Names of modalities that only the bottleneck sees, such as
      class labels.
    project_positions: Whether positions pass through a linear layer without a
      bias, one for each modality, as in the authors' code if its
      `num_position_encoding_channels` is not E.

  Raises:
    ValueError: There is no modality.
  """

  def __init__(
    self,
    num_channels: int = 32,
    modalities: Sequence[str] = ("image",),
    label_modalities: Sequence[str] = (),
    project_positions: bool = False,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_channels = num_channels
    self._modalities = tuple(modalities)
    if not self._modalities:
      raise ValueError("adapter.modalities is empty; name at least one")
    self._label_modalities = tuple(label_modalities)
    self._project_positions = project_positions

  def __call__(
    self,
    raw: Mapping[str, Float[Array, "B ... _"]] | Float[Array, "B ..."],
    *,
    is_training: bool,
  ) -> GroupedInputs:
    """Returns the embedded modalities.

    Args:
      raw: Arrays [B, ..., C] by modality. Some may be left out, since one
        model can serve several data sets.
      is_training: Not used.

    Raises:
      ValueError: There is no modality, or one that is unknown.
    """
    del is_training
    raw = self._flatten(raw)
    elements, positions = {}, {}
    for i, name in enumerate(n for n in self._modalities if n in raw):
      x = layers.Linear(self._num_channels, name=f"embed_{name}")(raw[name])
      table = position_table(*x.shape[1:], name=f"positions_{name}")
      if self._project_positions:
        project = hk.Linear(
          self._num_channels, with_bias=False, name=f"project_positions_{i}"
        )
        table = project(table)
      elements[name] = x + table.astype(x.dtype)
      positions[name] = table
    labels = {name: raw[name] for name in self._label_modalities if name in raw}
    channels = {name: x.shape[-1] for name, x in raw.items()}
    return GroupedInputs(elements, positions, labels, channels)

  def _flatten(self, raw: Any) -> dict[str, jax.Array]:
    """Returns arrays [B, M, C] by modality."""
    if not isinstance(raw, Mapping):
      raw = {self._modalities[0]: raw}
    known = {*self._modalities, *self._label_modalities}
    if not set(self._modalities) & set(raw) or not set(raw) <= known:
      raise ValueError(
        f"the modalities {', '.join(sorted(raw))} are given; the model has"
        f" {', '.join(self._modalities)} in adapter.modalities and"
        f" {', '.join(self._label_modalities) or 'none'} in"
        " adapter.label_modalities"
      )
    return {
      name: x.reshape(x.shape[0], -1, x.shape[-1]) for name, x in raw.items()
    }
