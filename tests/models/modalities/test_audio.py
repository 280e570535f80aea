"""Tests of the audio adapter."""

import functools

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import flops, zoo
from perceiver_jax.models.modalities import audio


def _adapter(**kwargs):
  make = lambda x: audio.AudioAdapter(**kwargs)(x, is_training=True)
  return functools.partial(plain.transform(make).apply, {})


@pytest.mark.parametrize(
  ("name", "samples", "elements", "channels"),
  [
    ("kinetics_784", 30_720, 1_920, 16 + 385),
    ("audioset_io_raw_video", 61_440, 480, 128 + 129),
    ("audioset_io_mel_video", 4_800, 4_800, 1 + 385),
  ],
)
def test_published_models_have_the_papers_elements_and_channels(
  name, samples, elements, channels
):
  section = zoo.get_spec(name)["adapter"]["modalities"]["audio"]
  assert section.pop("kind") == "audio"
  assert zoo.MODELS[name].raw["audio"].shape == (samples, 1)
  audio = flops.abstract(2, samples, 1)
  out = jax.eval_shape(_adapter(**section), audio)
  assert out.shape == (2, elements, channels)


@pytest.mark.parametrize(
  ("size", "count", "bands", "resolution"),
  [(4, 3, 2, ()), (1, 5, 3, ()), (3, 4, 2, (40,))],
)
def test_positions_are_appended_to_the_samples_of_a_patch(
  size, count, bands, resolution
):
  audio = plain.normal(2, size * count, 1)
  adapter = _adapter(
    samples_per_patch=size, num_bands=bands, max_resolution=resolution
  )
  out = plain.jit(adapter)(audio)
  assert out.shape == (2, count, size + 2 * bands + 1)
  # By default, the highest band is half the number of patches.
  expected = plain.fourier(plain.grid(count), bands, resolution or (count,))
  for i in range(count):
    samples = audio[:, i * size : (i + 1) * size, 0]
    np.testing.assert_array_equal(out[:, i, :size], samples)
    for example in out:
      np.testing.assert_allclose(example[i, size:], expected[i], atol=1e-4)


def test_positions_have_the_type_of_the_audio():
  audio = jnp.ones((1, 8, 1), jnp.bfloat16)
  adapter = _adapter(samples_per_patch=2, num_bands=3, max_resolution=(30_720,))
  out = plain.jit(adapter)(audio)
  assert out.dtype == jnp.bfloat16
  # They are rounded once, at the end, so that high bands stay accurate.
  expected = plain.fourier(plain.grid(4), 3, (30_720,))
  np.testing.assert_allclose(out[0, :, 2:], expected, atol=0.02)


def test_samples_that_do_not_fill_a_patch_are_refused():
  message = "30 samples do not divide into patches of 16: .* samples_per_patch"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(_adapter(), flops.abstract(1, 30, 1))
