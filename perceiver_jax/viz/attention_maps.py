"""Maps of a model's attention in the shape of its input, and their colors.

Attention is either weights or, as in the figures of the Perceiver paper, the
logits before the softmax, which show structure where weights are nearly all
zero. Shapes: O output queries, N latents, n chosen latents, M inputs; T, H, W a
video; S values of audio; H', W' the grid of inputs; h, w an image enlarged for
display.
"""

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from scipy import special

_DISPLAY_SIDE = 128  # Pixels; smaller images are hard to see on a screen.
_SMALL_SIDE = 64  # Pixels; below this, smoothing would hide the pixels.
_MAX_OPACITY = 0.85  # At the highest weight.
_DIMMING = 0.6  # On a bright image the heat map would look pale.


def rollout(
  decoder_weights: np.ndarray, encoder_weights: np.ndarray
) -> np.ndarray:
  """Multiplies the attention of decoder and encoder.

  The self-attention of the latents is left out, so the result shows where
  information enters but does not fully explain the output.

  Args:
    decoder_weights: [..., O, N], attention of queries over latents.
    encoder_weights: [..., N, M], attention of latents over inputs.

  Returns:
    Attention of queries over inputs, [..., O, M]; rows sum to one if those of
    both arguments do.
  """
  return np.asarray(decoder_weights) @ np.asarray(encoder_weights)


def output_attention(
  encoder_logits: Sequence[np.ndarray], decoder_logits: np.ndarray
) -> np.ndarray:
  """Returns the attention of queries over inputs [O, M]; see `rollout`.

  It is of the last cross-attend, and the mean over heads.

  Args:
    encoder_logits: attention logits [heads, N, M] of each cross-attend; empty
      if the latents are the inputs themselves.
    decoder_logits: attention logits [heads, O, N].
  """
  weights = special.softmax(decoder_logits, axis=-1).mean(axis=0)
  if len(encoder_logits):
    encoder = special.softmax(encoder_logits[-1], axis=-1).mean(axis=0)
    weights = rollout(weights, encoder)
  return weights


def choose_latents(num_latents: int, count: int = 8) -> list[int]:
  """Returns up to `count` indices of latents, evenly spaced."""
  spaced = np.linspace(0, num_latents - 1, min(count, num_latents))
  return [int(i) for i in spaced]


def latent_attention(
  attention: np.ndarray, latents: Sequence[int], head: int | None = None
) -> np.ndarray:
  """Returns the attention of single latents, float32 [n, M].

  Args:
    attention: [heads, N, M] of a cross-attend.
    latents: indices of n latents.
    head: index of a head; None for the mean over all.
  """
  chosen = np.asarray(attention)[:, list(latents)].astype(np.float32)
  return chosen.mean(axis=0) if head is None else chosen[head]


def image_maps(attention: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Arranges attention [..., M] as maps [..., H, W] of the image's size.

  Args:
    attention: to pixels, patches or the cells of a convolution, which cover the
      image evenly.
    size: (H, W).
  """
  rows, columns = input_grid(size, attention.shape[-1])
  maps = attention.reshape(*attention.shape[:-1], rows, columns)
  stretch = lambda length, cells: np.arange(length) * cells // length
  maps = maps[..., stretch(size[0], rows), :]
  return maps[..., stretch(size[1], columns)]


def video_maps(
  attention: np.ndarray, shape: Sequence[int], temporal_downsample: int = 1
) -> np.ndarray:
  """Arranges attention [..., M] as maps [..., T, H, W] of the video's shape.

  Args:
    attention: to patches of the video.
    shape: (T, H, W).
    temporal_downsample: frames that a patch spans.
  """
  num_frames, *size = shape
  steps = -(-num_frames // temporal_downsample)
  maps = attention.reshape(*attention.shape[:-1], steps, -1)
  maps = image_maps(maps, size)
  return maps[..., np.arange(num_frames) // temporal_downsample, :, :]


def audio_maps(attention: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Arranges attention [..., M] as maps of the audio's shape.

  Args:
    attention: to patches of M consecutive values.
    shape: of the audio: (S,) samples, or (frames, bands) of a spectrogram.
  """
  per_patch = math.prod(shape) // attention.shape[-1]
  maps = np.repeat(attention, per_patch, axis=-1)
  return maps.reshape(*attention.shape[:-1], *shape)


def input_grid(size: Sequence[int], num_inputs: int) -> tuple[int, int]:
  """Returns rows and columns of inputs that cover an image evenly.

  With convolutions or patches there are fewer inputs than pixels. Of the grids
  with M cells, the result has the cells that are closest to square.

  Args:
    size: (H, W).
    num_inputs: M.

  Returns:
    (H', W') with H' * W' = M.
  """
  height, width = size
  ideal = math.log(math.sqrt(num_inputs * height / width))
  divisors = (n for n in range(1, num_inputs + 1) if num_inputs % n == 0)
  rows = min(divisors, key=lambda n: abs(math.log(n) - ideal))
  return rows, num_inputs // rows


def overlay(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Draws a heat map of weights over a grayscale version of an image.

  Args:
    image: [H, W, C] or [H, W], float in [-1, 1] or uint8.
    weights: [H', W'], not negative; only their relative size matters.

  Returns:
    uint8 [h, w, 3], RGB; the longer side has at least 128 pixels.

  Raises:
    ValueError: the weights are not a grid of finite numbers >= 0.
  """
  weights = np.asarray(weights, np.float32)
  valid = (weights >= 0) & np.isfinite(weights)
  if weights.ndim != 2 or not valid.all():
    raise ValueError(f"weights {weights.shape} are no grid of numbers >= 0")
  return blend(image, normalize(weights))


def blend(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
  """Draws heat [H', W'] from 0 to 1 over an image; see `overlay`."""
  gray = _grayscale(np.asarray(image))
  size, method = display_size(gray.shape), interpolation(gray.shape)
  gray = cv2.resize(gray, size, interpolation=method)[..., None]
  heat = cv2.resize(heat, size, interpolation=method)
  # Only the bright part, since the dark end would look like shadow.
  color = matplotlib.colormaps["plasma"](0.45 + 0.55 * heat)[..., :3] * 255
  opacity = _MAX_OPACITY * heat[..., None]
  mixed = _DIMMING * gray * (1 - opacity) + color * opacity
  return np.round(mixed).astype(np.uint8)


def heat_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Draws values [H', W'] as uint8 [h, w, 3] without smoothing.

  Args:
    values: weights or logits; only their relative size matters.
    size: (w, h).
  """
  heat = cv2.resize(normalize(values), size, interpolation=cv2.INTER_NEAREST)
  color = matplotlib.colormaps["inferno"](heat)[..., :3]
  return np.round(color * 255).astype(np.uint8)


def _grayscale(image: np.ndarray) -> np.ndarray:
  """Converts [H, W] or [H, W, C] to float32 [H, W] in [0, 255]."""
  levels = image.astype(np.float32)
  if image.dtype != np.uint8:
    levels = (np.clip(np.nan_to_num(levels), -1, 1) + 1) * 127.5
  if levels.ndim == 2:
    return levels
  if levels.shape[-1] == 3:
    return levels @ np.array([0.299, 0.587, 0.114], np.float32)
  return levels.mean(axis=-1)


def display_size(shape: Sequence[int]) -> tuple[int, int]:
  """Returns (w, h) for an image [H, W, ...], enlarged by a whole factor."""
  height, width = shape[:2]
  scale = max(1, math.ceil(_DISPLAY_SIDE / max(height, width)))
  return width * scale, height * scale


def interpolation(shape: Sequence[int]) -> int:
  """Returns OpenCV's method for enlarging an image [H, W, ...]."""
  return cv2.INTER_NEAREST if max(shape[:2]) < _SMALL_SIDE else cv2.INTER_LINEAR


def normalize(values: np.ndarray) -> np.ndarray:
  """Scales the 1st to 99th percentile to [0, 1]; all 0 if all are equal."""
  low, high = np.percentile(values, (1, 99))
  if high <= low:
    # A few high values among many are beyond the percentiles.
    low, high = values.min(), values.max()
  if high <= low:
    return np.zeros(values.shape, np.float32)
  return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
