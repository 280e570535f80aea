"""Pictures or videos beside each other, each under its name.

Shapes: T frames, H height, W width; pixels are uint8 RGB.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from PIL import (
  Image,
  ImageDraw,
  ImageFont,
)

from perceiver_jax.viz.text import shorten

# Ships with matplotlib; Latin, Greek, Cyrillic, Arabic and more.
_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_GROUND, _INK = 255, 0
_SMALLEST_TEXT = 11  # pixels; smaller cannot be read


def side_by_side(
  pictures: Mapping[str, np.ndarray], gap: int = 8
) -> np.ndarray:
  """Lays pictures or videos out in a row.

  Args:
    pictures: a label, such as 'original', to uint8 [H, W, 3] or [T, H, W, 3];
      all of the same shape but for W.
    gap: columns of white between neighbours.

  Returns:
    uint8 [H + label, sum of W + gaps, 3], with T in front for videos, as
    `write_video` takes it.

  Raises:
    ValueError: there are no pictures, or they do not fit together.
  """
  if not pictures:
    raise ValueError("there are no pictures to lay side by side")
  first = next(iter(pictures.values()))
  columns: list[np.ndarray] = []
  for name, picture in pictures.items():
    _check(name, picture, first)
    width = picture.shape[-2]
    label = _label(name, width, max(_SMALLEST_TEXT, picture.shape[-3] // 16))
    label = np.broadcast_to(label, (*picture.shape[:-3], *label.shape))
    column = np.concatenate([label, picture], axis=-3)
    if columns:
      space = (*column.shape[:-2], gap, 3)
      columns.append(np.full(space, _GROUND, np.uint8))
    columns.append(column)
  return np.concatenate(columns, axis=-2)


def _check(name: str, picture: np.ndarray, first: np.ndarray) -> None:
  """Raises ValueError for what does not fit beside the first picture."""
  fits = (
    picture.dtype == np.uint8
    and picture.ndim in (3, 4)
    and picture.shape[-1] == 3
    and picture.shape[:-2] == first.shape[:-2]
  )
  if not fits:
    raise ValueError(
      f"pictures are uint8 [..., H, W, 3] of one height and length; {name!r} "
      f"is {picture.dtype} {picture.shape}, the first {first.shape}"
    )


def _label(text: str, width: int, size: int) -> np.ndarray:
  """A line of text of `size` pixels; uint8 [rows, width, 3]."""
  font = ImageFont.truetype(str(_FONT), size)
  most = min(len(text), width)
  while most > 1 and font.getlength(shorten(text, most)) > width - 4:
    most -= 1
  image = Image.new("L", (width, round(size * 1.6)), _GROUND)
  draw = ImageDraw.Draw(image)
  middle = (width / 2, image.height / 2)
  draw.text(middle, shorten(text, most), fill=_INK, font=font, anchor="mm")
  return np.asarray(image)[..., None].repeat(3, axis=2)
