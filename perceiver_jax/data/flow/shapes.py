"""Masks of random polygons and smooth blobs.

Shapes: h, w are the height and width of a mask's bounding box.
"""

from typing import NamedTuple

import cv2
import numpy as np

from perceiver_jax.data.flow.motion import Box

# OpenCV takes vertices in units of 1/16 pixel.
_SHIFT = 4
_BLOB_POINTS = 48
_BLOB_WAVES = 4
# Radius of a hole, as a fraction of the shape's.
_HOLE = (0.3, 0.6)


class Outline(NamedTuple):
  """Settings of random shapes, with AutoFlow's names if it has them.

  Attributes:
    vertices: minimum and maximum number of vertices of a polygon.
    irregularity: irregularity of their angles, 0 to 1.
    spikiness: standard deviation of a vertex's radius over the mean radius.
    blob_share: share of shapes that are smooth.
    hole_share: share of shapes with a hole.
    elongation: largest ratio of a shape's axes.
  """

  vertices: tuple[int, int]
  irregularity: float
  spikiness: float
  blob_share: float
  hole_share: float
  elongation: float


def random_shape(
  rng: np.random.Generator,
  outline: Outline,
  center: np.ndarray,
  diameter: float,
) -> tuple[np.ndarray, Box]:
  """Draws a shape.

  Args:
    rng: random generator.
    outline: settings of the shape.
    center: (x, y) in pixels.
    diameter: approximate diameter in pixels.

  Returns:
    The shape's coverage uint8 [h, w], smooth at the edge, and its bounding box.
  """
  blob = rng.random() < outline.blob_share
  unit = _blob(rng, outline) if blob else _polygon(rng, outline)
  points = center + unit @ _stretch(rng, outline.elongation) * diameter / 2
  # The margin of two pixels lets interpolation fall to zero.
  low = np.floor(points.min(0)).astype(int) - 2
  high = np.ceil(points.max(0)).astype(int) + 3
  box = Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
  mask = np.zeros(box.shape, np.uint8)
  _fill(mask, points - low, 255)
  if rng.random() < outline.hole_share:
    hole = center + (points - center) * rng.uniform(*_HOLE)
    _fill(mask, hole - low, 0)
  return mask, box


def _polygon(rng: np.random.Generator, outline: Outline) -> np.ndarray:
  low, high = outline.vertices
  count = int(rng.integers(low, high + 1))
  gaps = 1 + outline.irregularity * rng.uniform(-0.9, 0.9, count)
  angles = np.cumsum(gaps) * 2 * np.pi / gaps.sum()
  radii = np.clip(rng.normal(1, outline.spikiness, count), 0.3, 1.7)
  return _around(angles, radii)


def _blob(rng: np.random.Generator, outline: Outline) -> np.ndarray:
  angles = np.linspace(0, 2 * np.pi, _BLOB_POINTS, endpoint=False)
  waves = np.arange(1, _BLOB_WAVES + 1)[:, None]
  sizes = rng.normal(0, outline.spikiness, (_BLOB_WAVES, 1)) / waves
  phases = rng.uniform(0, 2 * np.pi, (_BLOB_WAVES, 1))
  radii = 1 + (sizes * np.sin(waves * angles + phases)).sum(0)
  return _around(angles, np.clip(radii, 0.3, 1.7))


def _around(angles: np.ndarray, radii: np.ndarray) -> np.ndarray:
  return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def _stretch(rng: np.random.Generator, elongation: float) -> np.ndarray:
  """Draws a matrix that stretches shapes and keeps their area."""
  ratio = np.sqrt(np.exp(rng.uniform(0, np.log(elongation))))
  angle = rng.uniform(0, np.pi)
  turn = np.array(
    [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
  )
  return turn.T @ np.diag([ratio, 1 / ratio]) @ turn


def _fill(mask: np.ndarray, points: np.ndarray, value: int) -> None:
  fixed = np.rint(points * 2**_SHIFT).astype(np.int32)
  cv2.fillPoly(mask, [fixed], value, cv2.LINE_AA, _SHIFT)
