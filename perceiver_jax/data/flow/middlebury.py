"""Middlebury's Motorcycle pair, which ships with scikit-image."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec, resizing
from perceiver_jax.errors import UserError


def motorcycle(split: str, scale: float = 0.5) -> "Motorcycle":
  """Opens the Middlebury pair that ships with scikit-image.

  It is a stereo pair: flow along x is minus the disparity, which is unknown at
  7% of the pixels.

  Args:
    split: only "test"; the pair is not used for training.
    scale: scale of the pair; 1 is 500 x 741 pixels.

  Raises:
    UserError: the split or the scale is invalid, or scikit-image is missing.
  """
  check_choice(split, ("test",), "split", "motorcycle")
  if not 0.05 <= scale <= 1:
    raise UserError(f"motorcycle got scale {scale}; give 0.05 to 1")
  return Motorcycle(scale)


class Motorcycle:
  """A source of one pair; see `motorcycle`."""

  in_memory = True
  has_ground_truth = True
  knows_occlusion = False

  def __init__(self, scale: float):
    spec = importlib.util.find_spec("skimage")
    if spec is None:
      raise UserError(
        "the Middlebury pair comes with scikit-image; pip install scikit-image"
      )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    frames = [
      codec.read_image(folder / f"motorcycle_{side}.png")
      for side in ("left", "right")
    ]
    with np.load(folder / "motorcycle_disp.npz") as stored:
      disparity = stored["arr_0"].astype(np.float32)
    rows, columns = (round(n * scale) for n in disparity.shape)
    # Averaging would mix depths and unknown values. The exact variant uses the
    # centers of pixels, as the resizing of the frames does.
    small = cv2.resize(
      disparity, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT
    )
    small = np.where(np.isfinite(small), small, np.nan)
    ratio = columns / disparity.shape[1]
    flow = np.stack([-small * np.float32(ratio), small * 0], -1)
    self._example = {
      "frames": np.stack([resizing.resize(f, rows, columns) for f in frames]),
      "flow": flow,
      "occluded": np.zeros(flow.shape[:2], bool),
    }

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> Example:
    range(1)[index]
    return {name: value.copy() for name, value in self._example.items()}
