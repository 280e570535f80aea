"""Preprocessing and augmentation of windows of clips.

All frames of a window share the same crop, flip and color jitter. Shapes: T
frames, H height, W width, S samples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perceiver_jax.checks import check_leaf, check_leaf_choice
from perceiver_jax.data.clips import mel
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import resizing, transforms
from perceiver_jax.data.images.preprocessing import CROPS

AUDIO_FORMATS = ("raw", "mel")
# Weights of red, green and blue in brightness (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class ClipPreprocessing:
  """Converts windows of a source to the inputs of a model.

  Args:
    settings: `data` section of a config, with `image_size`, `sample_rate`,
      `normalization`, `crop`, `flip`, `color_jitter`, `audio`, `mel`,
      `spec_augment` and `dropout`.

  Raises:
    UserError: a setting is unknown or out of range.
  """

  def __init__(self, settings: Mapping[str, Any]):
    self._settings = settings
    for leaf, choices in (("crop", CROPS), ("audio", AUDIO_FORMATS)):
      check_leaf_choice(f"data.{leaf}", settings[leaf], choices)
    for name, share in settings["dropout"].items():
      check_leaf(
        f"data.dropout.{name}", share, 0 <= share < 1, "0 to less than 1"
      )

  @property
  def crops_at_random(self) -> bool:
    """Returns whether `train` crops frames of the clip's original size."""
    return self._settings["crop"] == "inception"

  def evaluate(self, example: Example) -> Example:
    """Normalizes frames, and computes the mel spectrogram if configured.

    Args:
      example: result of `Clips.read`: `image` uint8 [T, H, W, 3] of the
        model's size, `audio` float32 [S, 1], or both.

    Returns:
      The example with `image` float32 [T, H, W, 3], and `audio` float32 [S, 1]
      or the flattened spectrogram [frames x bands, 1].
    """
    example = dict(example)
    if "image" in example:
      example["image"] = self._normalized(example["image"])
    if "audio" in example and self._settings["audio"] == "mel":
      example["audio"] = self._spectrogram(example["audio"]).reshape(-1, 1)
    return example

  def train(self, example: Example, rng: np.random.Generator) -> Example:
    """Augments a window; see `evaluate` for arguments and return value."""
    settings, example = self._settings, dict(example)
    if "image" in example:
      frames = self._cropped(example["image"], rng)
      if settings["flip"] and rng.random() < 0.5:
        frames = frames[:, :, ::-1]
      if rng.random() < settings["color_jitter"]["probability"]:
        frames = color_jitter(frames, rng, settings["color_jitter"])
      example["image"] = self._normalized(frames)
    if "audio" in example and settings["audio"] == "mel":
      spectrogram = self._spectrogram(example["audio"])
      spectrogram = mel.spec_augment(spectrogram, rng, settings["spec_augment"])
      example["audio"] = spectrogram.reshape(-1, 1)
    for name, share in settings["dropout"].items():
      # Drops a whole modality of the example (Perceiver v2, section 4.2).
      if rng.random() < share and name in example:
        example[name] = np.zeros_like(example[name])
    return example

  def pixels(self, frames: np.ndarray) -> np.ndarray:
    """Converts normalized frames [..., C] to uint8 pixels."""
    return transforms.to_pixels(frames, self._settings["normalization"])

  def _cropped(
    self, frames: np.ndarray, rng: np.random.Generator
  ) -> np.ndarray:
    if not self.crops_at_random:
      return frames
    top, left, height, width = transforms.inception_crop(
      *frames.shape[1:3], rng
    )
    part = frames[:, top : top + height, left : left + width]
    size = self._settings["image_size"]
    return np.stack([resizing.resize(p, *size) for p in part])

  def _normalized(self, frames: np.ndarray) -> np.ndarray:
    return transforms.normalize(
      frames.astype(np.float32), self._settings["normalization"]
    )

  def _spectrogram(self, audio: np.ndarray) -> np.ndarray:
    return mel.log_mel(
      audio, self._settings["sample_rate"], self._settings["mel"]
    )


def color_jitter(
  frames: np.ndarray,
  rng: np.random.Generator,
  settings: Mapping[str, float],
) -> np.ndarray:
  """Jitters brightness, contrast, saturation and hue of a clip.

  All four are combined in one affine map of red, green and blue.

  Args:
    frames: uint8 [T, H, W, 3].
    rng: random generator; every change is uniform within its bounds.
    settings: the largest change of each: `brightness` (share of white),
      `contrast` and `saturation` (0.4: by 0.6 to 1.4), `hue` (share of a full
      turn).

  Returns:
    float32 [T, H, W, 3] in 0..255.
  """
  amounts = ("brightness", "contrast", "saturation", "hue")
  shift, contrast, saturation, turn = (
    rng.uniform(-1, 1) * settings[name] for name in amounts
  )
  x = frames.astype(np.float32)
  mean = x.mean((0, 1, 2)) @ _LUMA
  gray = np.outer(np.ones(3), _LUMA)
  matrix = _hue(2 * np.pi * turn) @ (
    gray + (1 + saturation) * (np.eye(3) - gray)
  )
  matrix = ((1 + contrast) * matrix).astype(np.float32)
  x = x @ matrix.T.astype(np.float32) + np.float32(
    255 * shift - contrast * mean
  )
  return x.clip(0, 255)


def _hue(angle: float) -> np.ndarray:
  """Returns the matrix [3, 3] that rotates hues and keeps brightness."""
  to_yiq = np.array(
    [
      _LUMA,
      [0.595716, -0.274453, -0.321263],
      [0.211456, -0.522591, 0.311135],
    ]
  )
  sine, cosine = np.sin(angle), np.cos(angle)
  turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
  return np.linalg.inv(to_yiq) @ turn @ to_yiq
