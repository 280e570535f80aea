"""Mel spectrograms, and SpecAugment.

Shapes: S samples, F frames (S / hop), M mel bands.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from perceiver_jax.errors import UserError

# Slaney's Auditory Toolbox: linear up to 1,000 Hz, logarithmic above.
_LINEAR_STEP = 200 / 3
_CORNER = 1000.0
_LOG_STEP = np.log(6.4) / 27
# Power below which audio is silent.
_FLOOR = 1e-8


def log_mel(
  audio: np.ndarray, sample_rate: int, settings: Mapping[str, Any]
) -> np.ndarray:
  """Computes a log-mel spectrogram.

  Matches librosa with its default bands (Slaney's, each of unit area), a Hann
  window and power 2. The audio is padded by reflection, so that every hop gives
  a frame.

  Args:
    audio: float32 [S, 1].
    sample_rate: samples per second.
    settings: `window` and `hop` in samples, `bands`, `lowest` and `highest` in
      Hz; `mean` and `deviation`, by which the logarithm is normalized.

  Returns:
    float32 [F, M].

  Raises:
    UserError: S is not a multiple of the hop, or a setting is out of range.
  """
  window, hop = settings["window"], settings["hop"]
  if not 0 < hop <= window or len(audio) % hop or len(audio) <= window:
    raise UserError(
      f"config.data.mel.window is {window} and hop {hop}, for"
      f" {len(audio)} samples: give a hop that divides the samples, and a"
      " window from the hop's size to less than all samples"
    )
  before = (window - hop) // 2
  padded = np.pad(audio[:, 0], (before, window - hop - before), "reflect")
  parts = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  power = np.abs(np.fft.rfft(parts * _hann(window))) ** 2
  bands = filters(
    sample_rate,
    window,
    settings["bands"],
    settings["lowest"],
    settings["highest"],
  )
  log = np.log(np.maximum(power @ bands.T, _FLOOR))
  return ((log - settings["mean"]) / settings["deviation"]).astype(np.float32)


def describe(settings: Mapping[str, Any]) -> str:
  """Describes the result of `log_mel`, flattened, in words."""
  return (
    f"a log-mel spectrogram [frames x {settings['bands']} bands, 1]: (natural"
    f" logarithm of the power, at least {_FLOOR:g}, - {settings['mean']:g}) /"
    f" {settings['deviation']:g}, with a Hann window of {settings['window']}"
    f" samples and a hop of {settings['hop']}, padded by reflection, and"
    f" Slaney's bands of unit area from {settings['lowest']:g} to"
    f" {settings['highest']:g} Hz"
  )


@functools.lru_cache(maxsize=16)
def filters(
  sample_rate: int, window: int, bands: int, lowest: float, highest: float
) -> np.ndarray:
  """Returns triangular filters of unit area, evenly spaced on the mel scale.

  Returns:
    float64 [M, window // 2 + 1].

  Raises:
    UserError: a number is out of range.
  """
  if bands < 1 or not 0 <= lowest < highest <= sample_rate / 2:
    raise UserError(
      f"config.data.mel has {bands} bands from {lowest:g} to {highest:g} Hz;"
      f" give 1 or more, within 0 to {sample_rate / 2:g}, half of"
      " config.data.sample_rate"
    )
  edges = _to_hertz(np.linspace(_to_mel(lowest), _to_mel(highest), bands + 2))
  frequencies = np.fft.rfftfreq(window, 1 / sample_rate)
  low, center, high = (edges[i : i + bands, None] for i in range(3))
  up = (frequencies - low) / (center - low)
  down = (high - frequencies) / (high - center)
  return np.maximum(0, np.minimum(up, down)) * 2 / (high - low)


def spec_augment(
  spectrogram: np.ndarray, rng: np.random.Generator, settings: Mapping[str, int]
) -> np.ndarray:
  """Masks stripes of time and of frequency (arXiv 1904.08779).

  Args:
    spectrogram: float32 [F, M], normalized so that 0 is its mean.
    rng: random generator.
    settings: `num_times`, number of stripes of up to `times` frames, and
      `num_frequencies`, number of stripes of up to `frequencies` bands.

  Returns:
    float32 [F, M], 0 where masked.
  """
  masked = spectrogram.copy()
  for axis, name in ((0, "times"), (1, "frequencies")):
    size = masked.shape[axis]
    for _ in range(settings[f"num_{name}"]):
      width = int(rng.integers(min(settings[name], size) + 1))
      start = int(rng.integers(size - width + 1))
      stripe = slice(start, start + width)
      masked[(stripe, slice(None)) if axis == 0 else (slice(None), stripe)] = 0
  return masked


@functools.lru_cache(maxsize=16)
def _hann(size: int) -> np.ndarray:
  """Returns the periodic Hann window."""
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def _to_mel(hertz: float) -> float:
  if hertz < _CORNER:
    return hertz / _LINEAR_STEP
  return _CORNER / _LINEAR_STEP + np.log(hertz / _CORNER) / _LOG_STEP


def _to_hertz(mel: np.ndarray) -> np.ndarray:
  corner = _CORNER / _LINEAR_STEP
  log = _CORNER * np.exp(_LOG_STEP * (mel - corner))
  return np.where(mel < corner, mel * _LINEAR_STEP, log)
