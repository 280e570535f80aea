"""The input array of an encoder, with shared positions kept apart."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import position_encoding


class InputArray(NamedTuple):
  """An input array [B, M, C] whose last channels may be shared positions.

  Keeping them apart avoids a copy of the positions for each example.

  Attributes:
    data: [B, M, c].
    positions: [M, P] with c + P = C, or None if c = C.
  """

  data: jax.Array
  positions: jax.Array | None = None

  @property
  def shape(self) -> tuple[int, int, int]:
    """Returns the shape (B, M, C)."""
    width = 0 if self.positions is None else self.positions.shape[-1]
    batch, length, channels = self.data.shape
    return batch, length, channels + width

  def array(self) -> jax.Array:
    """Returns data and positions as one array."""
    if self.positions is None:
      return self.data
    table = position_encoding.repeat_batch(self.positions, self.data.shape[0])
    return jnp.concatenate([self.data, table.astype(self.data.dtype)], -1)

  def slice(self, start: int, end: int) -> "InputArray":
    """Returns the elements from `start` to before `end`."""
    table = self.positions
    return InputArray(
      self.data[:, start:end], None if table is None else table[start:end]
    )

  def permute(self, order: np.ndarray) -> "InputArray":
    """Returns the elements in another order [M], each with its position."""
    table = self.positions
    return InputArray(
      self.data[:, order], None if table is None else table[order]
    )

  def zero_padding(self, mask: jax.Array | None) -> "InputArray":
    """Sets the data of masked elements to zero, so that none overflows."""
    if mask is None:
      return self
    return self._replace(data=jnp.where(mask[..., None], self.data, 0))


def as_input_array(inputs: Any) -> InputArray:
  """Returns an array as an `InputArray`."""
  return inputs if isinstance(inputs, InputArray) else InputArray(inputs)


def of_adapter(adapter: Any, raw: Any, *, is_training: bool) -> Any:
  """Returns an adapter's inputs, in parts if the adapter supports it.

  They are an `InputArray`, or of a kind that only its encoder knows.

  Raises:
    ValueError: The input array holds integers.
  """
  make = getattr(adapter, "parts", adapter)
  inputs = make(raw, is_training=is_training)
  if isinstance(inputs, jax.Array | np.ndarray):
    inputs = InputArray(inputs)
  if isinstance(inputs, InputArray):
    check_floating(inputs.data, "the input array")
  return inputs


def check_floating(x: jax.Array | np.ndarray, what: str) -> None:
  """Checks that an input array does not hold integers.

  Adapters give learned channels and positions the type of their data, and would
  round them to integers.

  Raises:
    ValueError: It does.
  """
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f"{what} must be floating point, got {x.dtype}: convert the raw data, and"
      " normalize images"
    )
