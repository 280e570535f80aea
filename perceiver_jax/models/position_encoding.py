"""Position encodings: Fourier features and trainable tables.

Shapes: d spatial dimensions of sizes `index_dims`, M their product, K bands.
Fourier features have d (2 K + 1) channels (Perceiver, section 3.2).
"""

from collections.abc import Sequence
from typing import NamedTuple

import haiku as hk
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models.typing import Array, Float, Int, Shaped

# Positions of a row of the coarser table of `sinusoidal_encodings`.
_STEP = 256


def linear_positions(
  index_dims: Sequence[int], low: float = -1.0, high: float = 1.0
) -> Float[Array, "..."]:
  """Returns a grid of coordinates from `low` to `high`, both ends included.

  Args:
    index_dims: Sizes of the d dimensions.
    low: Coordinate of the first element of each dimension.
    high: Coordinate of the last.

  Returns:
    Coordinates of shape [*index_dims, d].
  """
  axes = [jnp.linspace(low, high, n, dtype=jnp.float32) for n in index_dims]
  return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)


def subsampled_positions(
  indices: Int[Array, "O"], index_dims: Sequence[int]
) -> Float[Array, "O d"]:
  """Returns the coordinates of flat indices in a grid.

  They are -1 + 2 i / n and so never reach +1, unlike `linear_positions`. The
  authors' subsampled queries use these, and the released video autoencoder
  was trained with them.

  Args:
    indices: Row-major positions in a grid of sizes `index_dims`.
    index_dims: Sizes of the d dimensions.
  """
  coordinates = jnp.stack(jnp.unravel_index(indices, tuple(index_dims)), -1)
  sizes = jnp.asarray(index_dims, jnp.float32)
  return -1.0 + 2.0 * coordinates.astype(jnp.float32) / sizes


def fourier_features(
  positions: Float[Array, "M d"],
  num_bands: int,
  max_resolution: Sequence[int],
  concat_pos: bool = True,
  sine_only: bool = False,
) -> Float[Array, "M P"]:
  """Returns sines and cosines of positions at linearly spaced frequencies.

  The bands of dimension i run from 1 to max_resolution[i] / 2 (its Nyquist
  frequency), both included. Channels: the positions, then all sines (dimension
  by dimension), then all cosines.

  Args:
    positions: Coordinates in [-1, 1].
    num_bands: K.
    max_resolution: For each dimension, the sampling rate whose Nyquist
      frequency is the highest band.
    concat_pos: Whether the raw positions come first.
    sine_only: Whether to leave the cosines out.

  Raises:
    ValueError: `max_resolution` and the positions have different dimensions.
  """
  if len(max_resolution) != positions.shape[-1]:
    raise ValueError(
      f"max_resolution {tuple(max_resolution)} has {len(max_resolution)}"
      f" dimensions, the positions have {positions.shape[-1]}"
    )
  bands = np.stack(
    [np.linspace(1.0, r / 2, num_bands) for r in max_resolution]
  ).astype(np.float32)
  angles = positions[:, :, None] * bands  # [M, d, K]
  angles = jnp.pi * angles.reshape(positions.shape[0], bands.size)
  features = [positions] if concat_pos else []
  features += [jnp.sin(angles)]
  features += [] if sine_only else [jnp.cos(angles)]
  return jnp.concatenate(features, axis=-1)


def positions_in_image(
  index_dims: Sequence[int], boxes: Float[Array, "B 2 d"]
) -> Float[Array, "B M d"]:
  """Returns the coordinates of grids that cover parts of larger images.

  Args:
    index_dims: Sizes of the grid.
    boxes: Coordinates of the first and of the last element of each grid, in an
      image that spans [-1, 1] in each dimension.
  """
  grid = linear_positions(index_dims, 0.0, 1.0).reshape(-1, len(index_dims))
  first, last = boxes[:, :1], boxes[:, 1:]
  return first + grid * (last - first)


def fourier_grid(
  index_dims: Sequence[int],
  num_bands: int,
  max_resolution: Sequence[int] = (),
  **kwargs: bool,
) -> Float[Array, "M P"]:
  """Returns Fourier features of all elements of a grid, in row-major order.

  Args:
    index_dims: Sizes of the grid.
    num_bands: K.
    max_resolution: See `fourier_features`; empty means `index_dims`.
    **kwargs: `concat_pos` and `sine_only` of `fourier_features`.
  """
  positions = linear_positions(index_dims).reshape(-1, len(index_dims))
  return fourier_features(
    positions, num_bands, tuple(max_resolution) or tuple(index_dims), **kwargs
  )


class Rotary(NamedTuple):
  """A rotary position encoding (arXiv 2104.09864), as in Perceiver AR.

  Attributes:
    max_wavelength: Positions in which the slowest pair of channels turns by one
      radian.
    fraction: Share of the channels of a head that are rotated.
  """

  max_wavelength: float
  fraction: float = 0.5


def rotate(
  x: Float[Array, "B N H F"], positions: Int[Array, "#B N"], rotary: Rotary
) -> Float[Array, "B N H F"]:
  """Rotates pairs of channels of queries or keys by their positions.

  The product of a query and a key then depends on the distance between them.
  Pair i of K turns by positions / max_wavelength^(i / (K - 1)) radians, as in
  the authors' code, where others divide by K.

  Args:
    x: Queries or keys.
    positions: Of each element.
    rotary: Which channels are rotated, and how fast.

  Raises:
    ValueError: The fraction is not that of at least one pair of a head.
  """
  num_pairs = int(rotary.fraction * x.shape[-1]) // 2
  if not 1 <= num_pairs <= x.shape[-1] / 2:
    raise ValueError(
      f"rotary_fraction {rotary.fraction} of heads of {x.shape[-1]} channels:"
      " give a fraction up to 1 that is at least two channels"
    )
  exponents = np.linspace(0.0, 1.0, num_pairs)
  frequencies = (rotary.max_wavelength**-exponents).astype(np.float32)
  angles = positions[..., None, None].astype(jnp.float32) * frequencies
  sin, cos = jnp.sin(angles), jnp.cos(angles)
  rotated = x[..., : 2 * num_pairs].astype(jnp.float32)
  first, second = rotated[..., ::2], rotated[..., 1::2]
  turned = jnp.stack(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  turned = turned.reshape(rotated.shape).astype(x.dtype)
  return jnp.concatenate([turned, x[..., 2 * num_pairs :]], axis=-1)


def sinusoidal_encodings(
  positions: Int[Array, "*B"], num_positions: int, num_channels: int
) -> Float[Array, "*B P"]:
  """Returns the Transformer's fixed encodings, all sines before all cosines.

  The wavelengths run from 2 pi to 20,000 pi (arXiv 1706.03762, section 3.5, as
  in Perceiver AR's code). A position is the sum of a multiple of 256 and a
  remainder, and its angle that of theirs, which needs two small tables: one of
  131,072 positions would take 0.5 GB, and their angles are too large to be
  computed in float32.

  Args:
    positions: From 0 on.
    num_positions: Number of different positions.
    num_channels: P.
  """
  half = num_channels // 2
  frequencies = 10_000.0 ** -(np.arange(half) / max(half - 1, 1))
  coarse = np.arange(0, num_positions, _STEP)[:, None] * frequencies
  fine = np.arange(min(_STEP, num_positions))[:, None] * frequencies

  def at(table, indices):
    return jnp.asarray(table, jnp.float32)[indices]

  high, low = positions // _STEP, positions % _STEP
  sin_high, cos_high = at(np.sin(coarse), high), at(np.cos(coarse), high)
  sin_low, cos_low = at(np.sin(fine), low), at(np.cos(fine), low)
  sin = sin_high * cos_low + cos_high * sin_low
  cos = cos_high * cos_low - sin_high * sin_low
  return jnp.concatenate([sin, cos], axis=-1)


class TrainablePositions(hk.Module):
  """A learned table of `num_positions` vectors.

  Position encodings, latents and output queries are such tables; all start from
  a truncated normal of standard deviation 0.02 (Perceiver, app. C).
  """

  def __init__(
    self,
    num_positions: int,
    num_channels: int,
    init_scale: float = 0.02,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._shape = (num_positions, num_channels)
    self._init_scale = init_scale

  def __call__(self) -> Shaped[Array, "M P"]:
    """Returns the table."""
    init = hk.initializers.TruncatedNormal(self._init_scale)
    return hk.get_parameter("embeddings", self._shape, init=init)


def initial_latents(
  given: Shaped[Array, "B n D"] | Shaped[Array, "n D"] | None,
  num_latents: int,
  num_channels: int,
  init_scale: float = 0.02,
) -> Shaped[Array, "B n D"] | Shaped[Array, "n D"]:
  """Returns the given latents, or else the calling module's learned ones.

  Raises:
    ValueError: The given latents have another number of channels.
  """
  if given is None:
    return TrainablePositions(
      num_latents, num_channels, init_scale, name="latents"
    )()
  if given.shape[-1] != num_channels:
    raise ValueError(
      f"initial_latents {given.shape} have {given.shape[-1]} channels: give"
      f" {num_channels}, or change num_latent_channels"
    )
  return given


def repeat_batch(
  table: Shaped[Array, "M P"], batch_size: int
) -> Shaped[Array, "B M P"]:
  """Repeats a table for every example of a batch."""
  return jnp.broadcast_to(table, (batch_size, *table.shape))


def first_rows(table: Shaped[Array, "M P"], count: int) -> Shaped[Array, "m P"]:
  """Returns the first rows of a table, for inputs shorter than it.

  Raises:
    ValueError: The table is too short.
  """
  if count > len(table):
    raise ValueError(
      f"{count} elements, but only {len(table)} positions: raise max_length, or"
      " shorten the input"
    )
  return table[:count]
