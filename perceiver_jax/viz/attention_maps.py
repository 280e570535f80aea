"""Images of a model's attention over its input image.

Shapes: O output queries, N latents, M inputs; H, W an image; H', W' the grid
of inputs; h, w an image enlarged for display.
"""

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from perceiver_jax.viz import image_layout

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


def grid_weights(
  attention: np.ndarray, grid_shape: Sequence[int]
) -> np.ndarray:
  """Averages attention over heads and latents and arranges it as a grid.

  Args:
    attention: [M], [heads, M] or [heads, N, M].
    grid_shape: (H', W') with H' * W' = M.

  Returns:
    float32 [H', W'].

  Raises:
    ValueError: the grid does not have M cells.
  """
  attention = np.asarray(attention, np.float32)
  num_inputs = attention.shape[-1]
  if math.prod(grid_shape) != num_inputs:
    raise ValueError(
      f"a grid {tuple(grid_shape)} does not hold {num_inputs} inputs"
    )
  return attention.reshape(-1, num_inputs).mean(axis=0).reshape(grid_shape)


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
  gray = _grayscale(np.asarray(image))
  size, method = _display_size(gray.shape), _interpolation(gray.shape)
  gray = cv2.resize(gray, size, interpolation=method)[..., None]
  heat = cv2.resize(_normalize(weights), size, interpolation=method)
  # Only the bright part, since the dark end would look like shadow.
  color = matplotlib.colormaps["plasma"](0.45 + 0.55 * heat)[..., :3] * 255
  opacity = _MAX_OPACITY * heat[..., None]
  mixed = _DIMMING * gray * (1 - opacity) + color * opacity
  return np.round(mixed).astype(np.uint8)


def cross_attention_sheet(
  images: Sequence[np.ndarray],
  titles: Sequence[str],
  attention: Sequence[np.ndarray],
  latents: Sequence[int] = (),
) -> np.ndarray:
  """Draws a row per image: the image, then the map of each cross-attend.

  As in section 4.1 of the Perceiver paper, the maps are beside the image and
  not over it, so that their structure is only that of the attention.

  Args:
    images: uint8 [B, H, W, 1 or 3].
    titles: one per image.
    attention: weights of each cross-attend, [B, heads, N, M], with inputs
      that cover the image evenly.
    latents: latents to show, one column each; () for the mean over all.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    ValueError: there is no image, or the numbers of images and titles differ.
  """
  rows = []
  for image, title, *per_image in zip(images, titles, *attention, strict=True):
    size = _display_size(image.shape)
    rgb = image_layout.as_rgb(image)
    tiles = {
      title: cv2.resize(rgb, size, interpolation=_interpolation(image.shape))
    }
    for number, weights in enumerate(per_image, 1):
      grid = input_grid(image.shape[:2], weights.shape[-1])
      maps = {f"attend {number}, latent {n}": weights[:, n] for n in latents}
      for name, part in (maps or {f"cross-attend {number}": weights}).items():
        tiles[name] = _heat_map(grid_weights(part, grid), size)
    rows.append(image_layout.side_by_side(tiles))
  return np.concatenate(rows)


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


def _display_size(shape: Sequence[int]) -> tuple[int, int]:
  """Returns (w, h) for an image [H, W, ...], enlarged by a whole factor."""
  height, width = shape[:2]
  scale = max(1, math.ceil(_DISPLAY_SIDE / max(height, width)))
  return width * scale, height * scale


def _interpolation(shape: Sequence[int]) -> int:
  """Returns OpenCV's method for enlarging an image [H, W, ...]."""
  return cv2.INTER_NEAREST if max(shape[:2]) < _SMALL_SIDE else cv2.INTER_LINEAR


def _heat_map(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Draws weights [H', W'] as uint8 [h, w, 3] without smoothing."""
  heat = cv2.resize(_normalize(weights), size, interpolation=cv2.INTER_NEAREST)
  color = matplotlib.colormaps["inferno"](heat)[..., :3]
  return np.round(color * 255).astype(np.uint8)


def _normalize(weights: np.ndarray) -> np.ndarray:
  """Scales the 1st to 99th percentile to [0, 1]; all 0 if all are equal."""
  low, high = np.percentile(weights, (1, 99))
  if high <= low:
    # A few high weights among many are beyond the percentiles.
    low, high = weights.min(), weights.max()
  if high <= low:
    return np.zeros_like(weights)
  return np.clip((weights - low) / (high - low), 0, 1).astype(np.float32)
