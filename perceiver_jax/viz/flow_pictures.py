"""Optical flow beside its truth. Shapes: H, W of a pair."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perceiver_jax.viz import flow_colors, side_by_side

_GAP = 8
# Narrower pictures are enlarged, so that their titles can be read.
_NARROWEST = 160
_WHEEL = 96  # pixels
# Errors are drawn from black over red and yellow to white.
_STOPS = np.linspace(0, 1, 4)
_HEAT = np.array([[0, 0, 0], [200, 30, 30], [250, 220, 60], [255, 255, 255]])


class Row(NamedTuple):
  """One pair.

  Attributes:
    frames: uint8 [2, H, W, 3].
    truth: float [H, W, 2] in pixels, NaN where it is not known.
    predicted: float [H, W, 2].
  """

  frames: np.ndarray
  truth: np.ndarray
  predicted: np.ndarray


def sheet(rows: Sequence[Row]) -> np.ndarray:
  """Frames, truth, prediction and error, a row a pair, and the colour wheel.

  Truth and prediction of a row share their scale, and the error has the same:
  white is an error as long as the row's longest true motion.

  Args:
    rows: of one size.

  Returns:
    uint8 [h, w, 3].
  """
  lines = []
  for row in rows:
    lines += [_line(row), np.full((_GAP, 1, 3), 255, np.uint8)]
  width = lines[0].shape[1]
  lines[1::2] = [line.repeat(width, 1) for line in lines[1::2]]
  return _with_wheel(np.concatenate(lines[:-1]))


def _line(row: Row) -> np.ndarray:
  longest = _longest(row.truth)
  error = np.hypot(*np.moveaxis(row.predicted - row.truth, -1, 0))
  known = np.isfinite(error)
  mean = f"mean {np.mean(error[known]):.2f} px" if known.any() else "not known"
  scale = longest or 1.0
  pictures = {
    "first frame": row.frames[0],
    "second frame": row.frames[1],
    f"truth, up to {longest:.3g} px": flow_colors.flow_to_rgb(row.truth, scale),
    "prediction": flow_colors.flow_to_rgb(row.predicted, scale),
    f"error, {mean}": heat(error / scale),
  }
  times = -(-_NARROWEST // row.frames.shape[2])
  return side_by_side.side_by_side(
    {
      name: picture.repeat(times, 0).repeat(times, 1)
      for name, picture in pictures.items()
    },
    _GAP,
  )


def _with_wheel(sheet: np.ndarray) -> np.ndarray:
  """The colours' legend, to the right of the first row."""
  size = min(_WHEEL, sheet.shape[0])
  column = np.full((sheet.shape[0], size + _GAP, 3), 255, np.uint8)
  column[:size, _GAP:] = flow_colors.wheel(size)
  return np.concatenate([sheet, column], 1)


def heat(share: np.ndarray) -> np.ndarray:
  """Colours [H, W, 3] uint8 of numbers 0 to 1; NaN is mid-grey."""
  known = np.isfinite(share)
  values = np.where(known, share, 0).clip(0, 1)
  colour = np.stack([np.interp(values, _STOPS, c) for c in _HEAT.T], -1)
  return np.where(known[..., None], colour, 128).astype(np.uint8)


def _longest(flow: np.ndarray) -> float:
  lengths = np.hypot(*np.moveaxis(flow, -1, 0))
  return float(np.nanmax(lengths, initial=0))
