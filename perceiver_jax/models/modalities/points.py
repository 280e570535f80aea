"""The adapter of point clouds (ModelNet40; Perceiver v2, section 4.3)."""

import haiku as hk
import jax

from perceiver_jax.models import position_encoding
from perceiver_jax.models.typing import Array, Float


class PointsAdapter(hk.Module):
  """The coordinates of points with their Fourier features.

  Args:
    num_bands: Fourier bands per coordinate.
    max_resolution: Twice the highest frequency: 2240 for the paper's 1120.
  """

  def __init__(
    self,
    num_bands: int = 64,
    max_resolution: int = 2240,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_bands = num_bands
    self._max_resolution = max_resolution

  def __call__(
    self, points: Float[Array, "B M d"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array; points lie in [-1, 1]."""
    del is_training
    resolution = (self._max_resolution,) * points.shape[-1]
    encode = lambda p: position_encoding.fourier_features(
      p, self._num_bands, resolution
    )
    return jax.vmap(encode)(points)
