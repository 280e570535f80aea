"""Images of predicted optical flow beside the target.

Shapes: H, W of a pair of frames.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from perceiver_jax.viz import flow_colors, image_layout

_GAP = 8  # Pixels.
_MIN_WIDTH = 160  # Narrower images are enlarged to make room for titles.
_WHEEL = 96  # Pixels.
# Colors of errors, from zero to the largest: black, red, yellow, white.
_STOPS = np.linspace(0, 1, 4)
_HEAT = np.array([[0, 0, 0], [200, 30, 30], [250, 220, 60], [255, 255, 255]])


class FlowSample(NamedTuple):
  """A pair of frames with its flow.

  Attributes:
    frames: uint8 [2, H, W, 3].
    target: float [H, W, 2] in pixels, NaN where unknown; None for none.
    prediction: float [H, W, 2] in pixels.
  """

  frames: np.ndarray
  target: np.ndarray | None
  prediction: np.ndarray


def contact_sheet(samples: Sequence[FlowSample]) -> np.ndarray:
  """Draws a row per pair: frames, target, prediction and error.

  Target, prediction and error of a row have the same scale: white is an error
  as long as the row's longest target vector. Without a target, the row ends
  with the prediction, in a scale of its own.

  Args:
    samples: pairs of the same size.

  Returns:
    uint8 [h, w, 3], with the color wheel at the right.
  """
  rows = []
  for sample in samples:
    rows += [_row(sample), np.full((_GAP, 1, 3), 255, np.uint8)]
  width = rows[0].shape[1]
  rows[1::2] = [gap.repeat(width, 1) for gap in rows[1::2]]
  return _add_wheel(np.concatenate(rows[:-1]))


def error_colors(error: np.ndarray) -> np.ndarray:
  """Draws errors [H, W] in [0, 1] as uint8 [H, W, 3]; NaN is gray."""
  known = np.isfinite(error)
  values = np.where(known, error, 0).clip(0, 1)
  color = np.stack([np.interp(values, _STOPS, c) for c in _HEAT.T], -1)
  return np.where(known[..., None], color, 128).astype(np.uint8)


def _row(sample: FlowSample) -> np.ndarray:
  first, second = sample.frames
  frames = {"first frame": first, "second frame": second}
  if sample.target is None:
    longest = _max_length(sample.prediction)
    flow = flow_colors.flow_to_rgb(sample.prediction, longest or 1.0)
    return _side_by_side(frames | {f"flow, up to {longest:.3g} px": flow})
  longest = _max_length(sample.target)
  error = np.hypot(*np.moveaxis(sample.prediction - sample.target, -1, 0))
  known = np.isfinite(error)
  mean = f"mean {np.mean(error[known]):.2f} px" if known.any() else "unknown"
  scale = longest or 1.0
  images = {
    **frames,
    f"target, up to {longest:.3g} px": flow_colors.flow_to_rgb(
      sample.target, scale
    ),
    "prediction": flow_colors.flow_to_rgb(sample.prediction, scale),
    f"error, {mean}": error_colors(error / scale),
  }
  return _side_by_side(images)


def _side_by_side(images: Mapping[str, np.ndarray]) -> np.ndarray:
  """Enlarges narrow images by a whole factor, and arranges them in a row."""
  width = next(iter(images.values())).shape[1]
  factor = -(-_MIN_WIDTH // width)
  enlarged = {
    name: image.repeat(factor, 0).repeat(factor, 1)
    for name, image in images.items()
  }
  return image_layout.side_by_side(enlarged, _GAP)


def _add_wheel(sheet: np.ndarray) -> np.ndarray:
  """Adds the color wheel to the right of the first row."""
  size = min(_WHEEL, sheet.shape[0])
  column = np.full((sheet.shape[0], size + _GAP, 3), 255, np.uint8)
  column[:size, _GAP:] = flow_colors.wheel(size)
  return np.concatenate([sheet, column], 1)


def _max_length(flow: np.ndarray) -> float:
  lengths = np.hypot(*np.moveaxis(flow, -1, 0))
  return float(np.nanmax(lengths, initial=0))
