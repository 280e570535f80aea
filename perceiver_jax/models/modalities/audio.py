"""Sound to an input array [B, M, C]: raw samples or a mel spectrogram."""

from collections.abc import Sequence

import haiku as hk

from perceiver_jax.models import position_encoding
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import (
  Array,
  Float,
)


class AudioAdapter(hk.Module):
  """Patches of samples with one-dimensional Fourier features.

  Raw sound is cut into `samples_per_patch` (16 for Kinetics, 128 for AudioSet);
  a mel spectrogram comes flattened with 1, so that each of its numbers is an
  element (Perceiver, AudioSet; IO, app. I).

  Args:
    samples_per_patch: Samples of an element.
    num_bands: Fourier bands.
    max_resolution: See `position_encoding.fourier_features`; empty means the
      number of elements. The released Kinetics model has the number of samples.
  """

  def __init__(
    self,
    samples_per_patch: int = 16,
    num_bands: int = 192,
    max_resolution: Sequence[int] = (),
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._samples_per_patch = samples_per_patch
    self._num_bands = num_bands
    self._max_resolution = max_resolution

  def __call__(
    self, sound: Float[Array, "B S 1"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array.

    Raises:
      ValueError: The number of samples is not a multiple of a patch.
    """
    return self.parts(sound, is_training=is_training).array()

  def parts(
    self, sound: Float[Array, "B S 1"], *, is_training: bool
  ) -> InputArray:
    """The same, with positions apart."""
    del is_training
    samples, size = sound.shape[1], self._samples_per_patch
    if samples % size:
      raise ValueError(
        f"{samples} samples do not divide into patches of {size}: change the"
        " length of the sound or samples_per_patch"
      )
    x = sound.reshape(sound.shape[0], samples // size, size)
    table = position_encoding.fourier_grid(
      (x.shape[1],), self._num_bands, self._max_resolution
    )
    return InputArray(x, table.astype(x.dtype))
