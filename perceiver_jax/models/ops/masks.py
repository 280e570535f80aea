"""Masks of attention: arrays, or rules on the positions of queries and keys.

Shapes: B batch, N queries, M keys.
"""

from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from perceiver_jax.models.typing import Array, Bool, Int

# The position of a key that no query may attend to, such as padding.
NEVER = jnp.iinfo(jnp.int32).max


class CausalMask(NamedTuple):
  """Lets a query attend to the keys at its own position and before.

  It is evaluated for one chunk of queries or keys at a time: as an array, the
  mask of Perceiver AR's 1,024 latents over 131,072 inputs would take 134 MB an
  example (arXiv 2202.07765).

  Attributes:
    query_positions: Positions of the queries; those below 0 attend to nothing.
    key_positions: Positions of the keys, `NEVER` at padding.
  """

  query_positions: Int[Array, "#B N"]
  key_positions: Int[Array, "#B M"]

  def array(self) -> Bool[Array, "#B N M"]:
    """Returns the mask as an array, True where a query may attend to a key."""
    query = self.query_positions[:, :, None]
    key = self.key_positions[:, None]
    return (key <= query) & (key >= 0)

  def slice(self, start: int | jax.Array, size: int, axis: int) -> "CausalMask":
    """Returns the mask of a chunk of queries (axis 1) or keys (axis 2)."""
    field = self._fields[axis - 1]
    part = lax.dynamic_slice_in_dim(getattr(self, field), start, size, 1)
    return self._replace(**{field: part})


Mask = Bool[Array, "#B #N #M"] | CausalMask


def as_array(mask: Mask | None) -> Bool[Array, "#B #N #M"] | None:
  """Returns a mask as an array, or None."""
  return mask.array() if isinstance(mask, CausalMask) else mask


def of_example(mask: Mask | None, index: int | jax.Array) -> Mask | None:
  """Returns the mask of one example, whose batch axis has size 1."""

  def take(x):
    return x if len(x) == 1 else lax.dynamic_slice_in_dim(x, index, 1, 0)

  if isinstance(mask, CausalMask):
    return mask._replace(
      query_positions=take(mask.query_positions),
      key_positions=take(mask.key_positions),
    )
  return None if mask is None else take(mask)


def chunk(
  mask: Mask | None, start: int | jax.Array, size: int, axis: int
) -> Bool[Array, "#B 1 #n #m"] | None:
  """Returns the mask of a chunk as an array that broadcasts over heads.

  Args:
    mask: A mask of all queries and keys, or None.
    start: Index of the first element of the chunk.
    size: Number of its elements.
    axis: 1 for a chunk of queries, 2 for one of keys.
  """
  if isinstance(mask, CausalMask):
    return mask.slice(start, size, axis).array()[:, None]
  if mask is None:
    return None
  if mask.shape[axis] > 1:
    mask = lax.dynamic_slice_in_dim(mask, start, size, axis)
  return mask[:, None]
