import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.clips import mel
from perceiver_jax.errors import UserError

SETTINGS = {
  "window": 2048,
  "hop": 1024,
  "bands": 80,
  "lowest": 0.0,
  "highest": 24_000.0,
  "mean": 0.0,
  "deviation": 1.0,
}
# Natural logarithms of the power in a chirp according to librosa 0.11, at
# frames 0, 30, 59 and bands 0, 13, 40, 79, by lowest and highest frequency.
LIBROSA = {
  (0.0, 24_000.0): [
    [3.844, -3.757, -5.595, -5.689],
    [-4.951, -5.127, -5.441, -5.660],
    [-5.917, -6.391, -5.699, -4.854],
  ],
  (60.0, 7800.0): [
    [4.172, -2.800, -7.180, -6.263],
    [-6.569, -5.219, -6.558, 0.523],
    [-4.868, -6.428, -5.331, -5.512],
  ],
}


def chirp(samples=61_440, rate=48_000):
  times = np.arange(samples) / rate
  wave = 0.4 * np.sin(2 * np.pi * (100 + 6000 * times) * times)
  noise = np.random.default_rng(0).normal(size=samples)
  return (wave + 0.01 * noise)[:, None].astype(np.float32)


def test_the_spectrogram_of_the_papers_window_has_4800_values():
  spectrogram = mel.log_mel(chirp(), 48_000, SETTINGS)
  assert spectrogram.shape == (60, 80)
  assert spectrogram.size == 4800
  assert spectrogram.dtype == np.float32


@pytest.mark.parametrize("limits", LIBROSA)
def test_log_mel_agrees_with_recorded_values_of_librosa(limits):
  lowest, highest = limits
  given = {**SETTINGS, "lowest": lowest, "highest": highest}
  spectrogram = mel.log_mel(chirp(), 48_000, given)
  values = spectrogram[np.ix_([0, 30, 59], [0, 13, 40, 79])]
  np.testing.assert_allclose(values, LIBROSA[limits], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("limits", LIBROSA)
def test_log_mel_agrees_with_librosa(limits):
  librosa = pytest.importorskip("librosa", reason="pip install -e .[librosa]")
  lowest, highest = limits
  given = {**SETTINGS, "lowest": lowest, "highest": highest}
  expected = librosa.feature.melspectrogram(
    y=np.pad(chirp()[:, 0], 512, "reflect"),
    sr=48_000, n_fft=2048, hop_length=1024, center=False, n_mels=80,
    fmin=lowest, fmax=highest,
  )  # fmt: skip
  spectrogram = mel.log_mel(chirp(), 48_000, given)
  np.testing.assert_allclose(spectrogram, np.log(expected.T), atol=1e-4)


def test_a_tone_is_loudest_in_its_band():
  settings = {**SETTINGS, "bands": 24, "window": 512, "hop": 256,
              "highest": 4000.0}  # fmt: skip
  filters = mel.filters(8000, 512, 24, 0.0, 4000.0)
  centers = np.fft.rfftfreq(512, 1 / 8000)[filters.argmax(axis=1)]
  for band in (3, 12, 20):
    times = np.arange(4096) / 8000
    tone = np.sin(2 * np.pi * centers[band] * times)[:, None]
    spectrogram = mel.log_mel(tone.astype(np.float32), 8000, settings)
    assert set(spectrogram.argmax(axis=1)) == {band}


def test_values_are_normalized_logarithms_of_power():
  once, twice = (mel.log_mel(k * chirp(), 48_000, SETTINGS) for k in (1, 2))
  np.testing.assert_allclose(twice - once, np.log(4), atol=1e-4)
  scaled = {**SETTINGS, "mean": -7.0, "deviation": 5.0}
  np.testing.assert_allclose(
    mel.log_mel(chirp(), 48_000, scaled), (once + 7) / 5, atol=1e-5
  )
  silence = mel.log_mel(np.zeros((61_440, 1), np.float32), 48_000, SETTINGS)
  assert np.isfinite(silence).all()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"hop": 1000}, "a hop that divides the samples"),
    ({"hop": 4096}, "a window from the hop's size"),
    ({"window": 61_440}, "less than all samples"),
    ({"bands": 0}, "1 or more"),
    ({"highest": 30_000.0}, "24000, half of"),
    ({"lowest": 500.0, "highest": 400.0}, "within 0 to"),
  ],
)
def test_settings_out_of_range_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    mel.log_mel(chirp(), 48_000, SETTINGS | changes)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_spec_augment_masks_stripes_of_time_and_frequency(seed):
  full = np.ones((30, 20), np.float32)
  limits = {"num_times": 2, "times": 4, "num_frequencies": 1, "frequencies": 5}
  rng = np.random.default_rng(seed)
  augmented = mel.spec_augment(full, rng, limits)
  assert full.all()
  masked_times = ~augmented.any(axis=1)
  masked_bands = ~augmented.any(axis=0)
  assert masked_times.sum() <= 8
  assert masked_bands.sum() <= 5
  expected = ~(masked_times[:, None] | masked_bands[None])
  np.testing.assert_array_equal(augmented, expected)


def test_spec_augment_can_be_turned_off():
  off = {"num_times": 0, "times": 4, "num_frequencies": 0, "frequencies": 5}
  full = np.ones((3, 2), np.float32)
  np.testing.assert_array_equal(
    mel.spec_augment(full, np.random.default_rng(0), off), full
  )
