"""The input array in its parts: what examples have and what they share."""

from typing import (
  Any,
  NamedTuple,
)

import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import position_encoding as positions_lib


class InputArray(NamedTuple):
  """An input array [B, M, C] whose last channels may be shared positions.

  Kept apart, positions are neither copied for each example nor read more than
  once a batch.

  Attributes:
    data: [B, M, c].
    positions: [M, P] with c + P = C, or None where c = C.
  """

  data: jax.Array
  positions: jax.Array | None = None

  @property
  def shape(self) -> tuple[int, int, int]:
    """(B, M, C)."""
    width = 0 if self.positions is None else self.positions.shape[-1]
    batch, length, channels = self.data.shape
    return batch, length, channels + width

  def whole(self) -> jax.Array:
    """The array itself."""
    if self.positions is None:
      return self.data
    table = positions_lib.repeat_batch(self.positions, self.data.shape[0])
    return jnp.concatenate([self.data, table.astype(self.data.dtype)], -1)

  def first(self, count: int) -> "InputArray":
    """The first elements."""
    return self.part(0, count)

  def part(self, start: int, end: int) -> "InputArray":
    """The elements from `start` to before `end`."""
    table = self.positions
    return InputArray(
      self.data[:, start:end], None if table is None else table[start:end]
    )

  def reordered(self, order: np.ndarray) -> "InputArray":
    """The elements in another order [M], each with its position."""
    table = self.positions
    return InputArray(
      self.data[:, order], None if table is None else table[order]
    )

  def masked(self, mask: jax.Array | None) -> "InputArray":
    """Data that are not real set to zero; an overflow would pass its weight."""
    if mask is None:
      return self
    return self._replace(data=jnp.where(mask[..., None], self.data, 0))


def as_input_array(inputs: Any) -> InputArray:
  """An array as an `InputArray`; one that is, as it is."""
  return inputs if isinstance(inputs, InputArray) else InputArray(inputs)


def of_adapter(adapter: Any, raw: Any, *, is_training: bool) -> InputArray:
  """What an adapter makes of raw data, in parts if it can."""
  make = getattr(adapter, "parts", adapter)
  return as_input_array(make(raw, is_training=is_training))
