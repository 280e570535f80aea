"""Reverses pairs of frames in time, with approximate flow."""

import numpy as np

from perceiver_jax.data.core.source import Example


def reverse_flow(flow: np.ndarray) -> np.ndarray:
  """Approximates the flow from the second frame to the first.

  The flow of a pixel is minus the mean of all vectors that end nearest to it
  (IO, app. H). This mixes surfaces at occlusions.

  Args:
    flow: float32 [H, W, 2] in pixels; NaN where it is unknown.

  Returns:
    float32 [H, W, 2]; NaN if no vector ends at a pixel.
  """
  height, width = flow.shape[:2]
  y, x = np.indices((height, width))
  known = np.isfinite(flow).all(-1)
  u, v = flow[known].T
  column, row = x[known] + np.rint(u), y[known] + np.rint(v)
  inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  pixel = (row[inside] * width + column[inside]).astype(np.int64)
  size = height * width
  count = np.bincount(pixel, minlength=size)
  sums = [np.bincount(pixel, w[inside], size) for w in (u, v)]
  with np.errstate(invalid="ignore"):
    mean = np.stack(sums, -1) / count[:, None]
  return (-mean).astype(np.float32).reshape(height, width, 2)


def reverse(example: Example) -> Example:
  """Swaps the frames of a pair; its occlusion becomes unknown."""
  flow = reverse_flow(example["flow"])
  return {
    **example,
    "frames": example["frames"][::-1].copy(),
    "flow": flow,
    "occluded": np.zeros(flow.shape[:2], bool),
  }
