"""The audio adapter, for raw samples or a mel spectrogram."""

from collections.abc import Sequence

import haiku as hk

from perceiver_jax.models import position_encoding
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import Array, Float


class AudioAdapter(hk.Module):
  """Patches of audio samples with one-dimensional Fourier features.

  Raw audio is split into patches of 16 samples for Kinetics and of 128 for
  AudioSet. A mel spectrogram is flattened and has patches of 1, so that each of
  its values is an element (Perceiver v2, section 4.2; IO v3, app. I).

  Args:
    samples_per_patch: Samples per element.
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
    self, audio: Float[Array, "B S 1"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array.

    Raises:
      ValueError: The number of samples is not a multiple of a patch.
    """
    return self.parts(audio, is_training=is_training).array()

  def parts(
    self, audio: Float[Array, "B S 1"], *, is_training: bool
  ) -> InputArray:
    """Returns the input array with its positions kept apart."""
    del is_training
    samples, size = audio.shape[1], self._samples_per_patch
    if samples % size:
      raise ValueError(
        f"{samples} samples do not divide into patches of {size}: change the"
        " length of the audio or samples_per_patch"
      )
    x = audio.reshape(audio.shape[0], samples // size, size)
    table = position_encoding.fourier_grid(
      (x.shape[1],), self._num_bands, self._max_resolution
    )
    return InputArray(x, table.astype(x.dtype))
