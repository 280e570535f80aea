"""Arranges images and videos in rows, each under its title.

Shapes: T frames, H height, W width; pixels are uint8 RGB.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from perceiver_jax.viz.text import shorten

# Ships with matplotlib and covers Latin, Greek, Cyrillic, Arabic and more.
_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_BACKGROUND, _INK = 255, 0
_MIN_FONT_SIZE = 11  # Pixels; smaller text is illegible.
_ROW_TITLE_SIZE = 13  # Pixels.


def contact_sheet(
  images: Sequence[np.ndarray], titles: Sequence[str], columns: int
) -> np.ndarray:
  """Draws images in rows on white, each under its title.

  Args:
    images: uint8 [H, W], [H, W, 1] or [H, W, 3]; sizes may differ.
    titles: one per image; long ones are truncated.
    columns: images per row.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    ValueError: there is no image, or the numbers of images and titles differ.
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
    axis.imshow(as_rgb(image), interpolation="nearest")
    axis.set_title(shorten(title, 22), fontsize=8, parse_math=False)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def side_by_side(images: Mapping[str, np.ndarray], gap: int = 8) -> np.ndarray:
  """Arranges images or videos in a row without resizing them.

  Args:
    images: uint8 [H, W, 3] or [T, H, W, 3] by title; all shapes are equal
      except for W.
    gap: number of white columns between neighbors.

  Returns:
    uint8 [H + title, sum of W and gaps, 3], with T in front for videos.

  Raises:
    ValueError: there are no images, or their shapes do not fit together.
  """
  if not images:
    raise ValueError("there are no images to arrange side by side")
  first = next(iter(images.values()))
  columns: list[np.ndarray] = []
  for name, image in images.items():
    _check(name, image, first)
    width = image.shape[-2]
    title = _title(name, width, max(_MIN_FONT_SIZE, image.shape[-3] // 16))
    title = np.broadcast_to(title, (*image.shape[:-3], *title.shape))
    column = np.concatenate([title, image], axis=-3)
    if columns:
      space = (*column.shape[:-2], gap, 3)
      columns.append(np.full(space, _BACKGROUND, np.uint8))
    columns.append(column)
  return np.concatenate(columns, axis=-2)


def with_row_title(image: np.ndarray, title: str) -> np.ndarray:
  """Writes a title from bottom to top on the left of an image.

  Args:
    image: uint8 [H, W, 3].
    title: cut if it is longer than the image is high.

  Returns:
    uint8 [H, title + W, 3].
  """
  strip = np.rot90(_title(title, image.shape[0], _ROW_TITLE_SIZE))
  return np.concatenate([strip, image], axis=1)


def as_rgb(image: np.ndarray) -> np.ndarray:
  """Converts uint8 [H, W], [H, W, 1] or [H, W, 3] to [H, W, 3].

  Raises:
    ValueError: the image has another type or shape.
  """
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., None]
  if (
    image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3)
  ):
    raise ValueError(
      "an image must be uint8 [h, w], [h, w, 1] or [h, w, 3], got "
      f"{image.dtype} {list(image.shape)}"
    )
  return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def png_bytes(image: np.ndarray) -> bytes:
  """Encodes an image as a PNG file; see `as_rgb` for types and shapes."""
  pixels = cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2BGR)
  return cv2.imencode(".png", pixels)[1].tobytes()


def _check(name: str, image: np.ndarray, first: np.ndarray) -> None:
  """Raises ValueError if an image does not fit beside the first one."""
  fits = (
    image.dtype == np.uint8
    and image.ndim in (3, 4)
    and image.shape[-1] == 3
    and image.shape[:-2] == first.shape[:-2]
  )
  if not fits:
    raise ValueError(
      "images must be uint8 [..., H, W, 3] of one height and length; "
      f"{name!r} is {image.dtype} {image.shape}, the first {first.shape}"
    )


def _title(text: str, width: int, size: int) -> np.ndarray:
  """Draws a line of text of `size` pixels; returns uint8 [rows, width, 3]."""
  font = ImageFont.truetype(str(_FONT), size)
  length = min(len(text), width)
  while length > 1 and font.getlength(shorten(text, length)) > width - 4:
    length -= 1
  image = Image.new("L", (width, round(size * 1.6)), _BACKGROUND)
  draw = ImageDraw.Draw(image)
  center = (width / 2, image.height / 2)
  draw.text(center, shorten(text, length), fill=_INK, font=font, anchor="mm")
  return np.asarray(image)[..., None].repeat(3, axis=2)
