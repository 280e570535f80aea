"""Which inputs a model reads, drawn over the image it read.

Shapes: O output queries, N latents, M inputs; H, W an image, H', W' the grid
the inputs lie on, h, w a picture for people.
"""

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perceiver_jax.viz.side_by_side import side_by_side
from perceiver_jax.viz.text import shorten

_SHOWN_SIDE = 128  # pixels: smaller pictures are hard to see on a screen
_TINY_SIDE = 64  # pixels: below this, smoothing would hide the pixels
_STRENGTH = 0.85  # opacity of the hottest point
_DIMMED = 0.6  # of the image's light: on white, heat would look pale


def rollout(
  decoder_weights: np.ndarray, encoder_weights: np.ndarray
) -> np.ndarray:
  """Which inputs the output queries read, through the latents.

  The latents also mix in between, so this is where the information enters,
  not a full account of where it comes from.

  Args:
    decoder_weights: [..., O, N], attention of queries over latents.
    encoder_weights: [..., N, M], attention of latents over inputs.

  Returns:
    [..., O, M]; rows sum to one when those of both arguments do.
  """
  return np.asarray(decoder_weights) @ np.asarray(encoder_weights)


def grid_weights(
  attention: np.ndarray, grid_shape: Sequence[int]
) -> np.ndarray:
  """Attention [..., M] averaged over heads and latents, as a grid [H', W'].

  Args:
    attention: [M], [heads, M] or [heads, N, M].
    grid_shape: (H', W') with H' * W' = M.

  Returns:
    float32 [H', W'].

  Raises:
    ValueError: if the grid does not have M places.
  """
  attention = np.asarray(attention, np.float32)
  inputs = attention.shape[-1]
  if math.prod(grid_shape) != inputs:
    raise ValueError(f"grid {tuple(grid_shape)} does not hold {inputs} inputs")
  return attention.reshape(-1, inputs).mean(axis=0).reshape(grid_shape)


def input_grid(size: Sequence[int], num_inputs: int) -> tuple[int, int]:
  """Rows and columns of input elements that cover an image evenly.

  A convolution or patches leave fewer elements than there are pixels. Of the
  grids with as many places, this is the one whose cells are nearest to square.

  Args:
    size: (H, W).
    num_inputs: M.

  Returns:
    (H', W') with H' * W' = M.
  """
  height, width = size
  wanted = math.log(math.sqrt(num_inputs * height / width))
  divisors = (n for n in range(1, num_inputs + 1) if num_inputs % n == 0)
  rows = min(divisors, key=lambda n: abs(math.log(n) - wanted))
  return rows, num_inputs // rows


def overlay(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """A heat map of the weights over the image in grey.

  Args:
    image: [H, W, C] or [H, W], float in [-1, 1] or uint8.
    weights: [H', W'], not negative; only their relative size is shown.

  Returns:
    uint8 [h, w, 3], RGB; the longer side is about 128 pixels or more.

  Raises:
    ValueError: if the weights are not a grid of numbers >= 0.
  """
  weights = np.asarray(weights, np.float32)
  valid = (weights >= 0) & np.isfinite(weights)
  if weights.ndim != 2 or not valid.all():
    raise ValueError(f"weights {weights.shape} are not a grid of numbers >= 0")
  grey = _grey(np.asarray(image))
  size, way = _shown_size(grey.shape), _way(grey.shape)
  grey = cv2.resize(grey, size, interpolation=way)[..., None]
  heat = cv2.resize(_normalised(weights), size, interpolation=way)
  # The upper part only: its dark end would read as shadow, not as heat.
  colour = matplotlib.colormaps["plasma"](0.45 + 0.55 * heat)[..., :3] * 255
  opacity = _STRENGTH * heat[..., None]
  mixed = _DIMMED * grey * (1 - opacity) + colour * opacity
  return np.round(mixed).astype(np.uint8)


def contact_sheet(
  images: Sequence[np.ndarray], titles: Sequence[str], columns: int
) -> np.ndarray:
  """Images in rows under their titles, on white.

  Args:
    images: uint8 [h, w], [h, w, 1] or [h, w, 3]; sizes may differ.
    titles: one an image; cut when long.
    columns: images a row.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    ValueError: if there is no image, or not one title an image.
  """
  if not images or len(images) != len(titles) or columns < 1:
    raise ValueError(
      f"{len(images)} images, {len(titles)} titles, {columns} columns"
    )
  columns = min(columns, len(images))
  rows = math.ceil(len(images) / columns)
  figure = Figure((1.5 * columns, 1.7 * rows), dpi=120, layout="constrained")
  canvas = FigureCanvasAgg(figure)
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis in axes:
    axis.set_axis_off()
  for axis, image, title in zip(axes, images, titles, strict=False):
    axis.imshow(_rgb(image), interpolation="nearest")
    axis.set_title(shorten(title, 22), fontsize=8, parse_math=False)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def cross_attend_sheet(
  images: Sequence[np.ndarray],
  titles: Sequence[str],
  reads: Sequence[np.ndarray],
  latents: Sequence[int] = (),
) -> np.ndarray:
  """A row a picture: the picture, then what each cross-attend read of it.

  As where the first paper shows attention (section 4.1), the maps do not lie
  over the picture: what structure they have is the attention's own.

  Args:
    images: uint8 [B, H, W, 1 | 3].
    titles: one a picture.
    reads: weights of each cross-attend, [B, heads, N, M], the inputs being
      spread evenly over the picture.
    latents: those to show, a column each; () for the mean over all.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    ValueError: if there is no picture, or not one title a picture.
  """
  rows = []
  for image, title, *weights in zip(images, titles, *reads, strict=True):
    size = _shown_size(image.shape)
    picture = cv2.resize(_rgb(image), size, interpolation=_way(image.shape))
    tiles = {title: picture}
    for number, read in enumerate(weights, 1):
      grid = input_grid(image.shape[:2], read.shape[-1])
      shown = {f"attend {number}, latent {n}": read[:, n] for n in latents}
      for name, part in (shown or {f"cross-attend {number}": read}).items():
        tiles[name] = _heat_map(grid_weights(part, grid), size)
    rows.append(side_by_side(tiles))
  return np.concatenate(rows)


def png_bytes(image: np.ndarray) -> bytes:
  """A uint8 image, [h, w], [h, w, 1] or [h, w, 3] (RGB), as a PNG file.

  Raises:
    ValueError: if the type or the shape is another.
  """
  pixels = cv2.cvtColor(_rgb(image), cv2.COLOR_RGB2BGR)
  return cv2.imencode(".png", pixels)[1].tobytes()


def _rgb(image: np.ndarray) -> np.ndarray:
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., None]
  if (
    image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3)
  ):
    raise ValueError(
      f"a picture is uint8 [h, w], [h, w, 1] or [h, w, 3]; this one is "
      f"{image.dtype} {list(image.shape)}"
    )
  return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _grey(image: np.ndarray) -> np.ndarray:
  """float32 [H, W] in [0, 255] from [H, W] or [H, W, C]."""
  levels = image.astype(np.float32)
  if image.dtype != np.uint8:
    levels = (np.clip(np.nan_to_num(levels), -1, 1) + 1) * 127.5
  if levels.ndim == 2:
    return levels
  if levels.shape[-1] == 3:
    return levels @ np.array([0.299, 0.587, 0.114], np.float32)
  return levels.mean(axis=-1)


def _shown_size(shape: Sequence[int]) -> tuple[int, int]:
  """(w, h) of an image [H, W, ...] enlarged so that it can be seen."""
  height, width = shape[:2]
  scale = max(1, math.ceil(_SHOWN_SIDE / max(height, width)))
  return width * scale, height * scale


def _way(shape: Sequence[int]) -> int:
  """How OpenCV should enlarge an image [H, W, ...]."""
  return cv2.INTER_NEAREST if max(shape[:2]) < _TINY_SIDE else cv2.INTER_LINEAR


def _heat_map(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 [h, w, 3] of weights [H', W']; every cell keeps its own colour."""
  heat = cv2.resize(_normalised(weights), size, interpolation=cv2.INTER_NEAREST)
  colour = matplotlib.colormaps["inferno"](heat)[..., :3]
  return np.round(colour * 255).astype(np.uint8)


def _normalised(weights: np.ndarray) -> np.ndarray:
  """[0, 1] between the 1st and the 99th percentile; all 0 when all equal."""
  low, high = np.percentile(weights, (1, 99))
  if high <= low:
    # A few hot points among many: the percentiles do not see them.
    low, high = weights.min(), weights.max()
  if high <= low:
    return np.zeros_like(weights)
  return np.clip((weights - low) / (high - low), 0, 1).astype(np.float32)
