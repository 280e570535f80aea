"""Smooth motions of the plane: affine, and bent by thin-plate splines.

A motion maps points of the first frame to points of the second. Points are
(x, y) in pixels; flow is the new position of a point minus its old position.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

# The spline is evaluated at this many points along each axis of its box. Both
# the frames and the flow use a cubic interpolation of these values.
_COARSE = 24
# Maximum stretch or compression by bending; values below 1 prevent folds.
_STEEPEST = 0.5


class Box(NamedTuple):
  """Pixels with left <= x < right and top <= y < bottom."""

  left: int
  top: int
  right: int
  bottom: int

  @property
  def shape(self) -> tuple[int, int]:
    """Returns the numbers of rows and columns."""
    return self.bottom - self.top, self.right - self.left

  @property
  def slices(self) -> tuple[slice, slice]:
    """Returns slices that index the box in a frame [H, W]."""
    return slice(self.top, self.bottom), slice(self.left, self.right)

  def within(self, height: int, width: int) -> "Box":
    """Clips the box to a frame; the shape has a 0 if they do not overlap."""
    left, right = np.clip((self.left, self.right), 0, width)
    top, bottom = np.clip((self.top, self.bottom), 0, height)
    return Box(int(left), int(top), int(right), int(bottom))


class Motion(NamedTuple):
  """A motion that maps x to `matrix` (x, 1) + bend(x).

  Attributes:
    matrix: float64 [2, 3].
    box: domain of the bend, in the first frame.
    bend: float32 [_COARSE, _COARSE, 2] in pixels, on a grid over the box; None
      for an affine motion.
  """

  matrix: np.ndarray
  box: Box
  bend: np.ndarray | None

  def field(self, part: Box) -> np.ndarray:
    """Returns the positions to which the pixels of a box move.

    Outside of `self.box`, the bend is that of the nearest point on its edge.

    Returns:
      float32 [h, w, 2].
    """
    (a, b, c), (d, e, f) = self.matrix
    x = np.arange(part.left, part.right, dtype=np.float64)
    y = np.arange(part.top, part.bottom, dtype=np.float64)[:, None]
    positions = np.empty((*part.shape, 2), np.float32)
    positions[..., 0] = a * x + (b * y + c)
    positions[..., 1] = d * x + (e * y + f)
    if self.bend is not None:
      positions += self._displacement(part)
    return positions

  def _displacement(self, part: Box) -> np.ndarray:
    """Returns the bend at the pixels of a box, float32 [h, w, 2]."""
    box, part = self.box, np.array(part)
    across = _weights(part[0] - box.left, part[2] - box.left, box.shape[1])
    down = _weights(part[1] - box.top, part[3] - box.top, box.shape[0])
    rows = np.tensordot(down, self.bend, 1)
    return np.matmul(across, rows)


def affine(
  center: np.ndarray,
  translation: np.ndarray,
  degrees: float,
  scale: float,
  shear: float,
) -> np.ndarray:
  """Returns a matrix [2, 3] that rotates, scales, shears, then translates.

  Args:
    center: fixed point (x, y) of the motion without the translation.
    translation: (x, y) in pixels.
    degrees: counterclockwise rotation as seen in an image.
    scale: scale of both axes.
    shear: displacement along x per unit of y.
  """
  angle = np.deg2rad(degrees)
  turn = np.array(
    [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
  )
  linear = scale * turn @ np.array([[1.0, shear], [0.0, 1.0]])
  offset = center - linear @ center + translation
  return np.column_stack([linear, offset])


def inverted(matrix: np.ndarray) -> np.ndarray:
  """Returns the inverse of an affine motion [2, 3]."""
  return cv2.invertAffineTransform(matrix)


def thin_plate(
  rng: np.random.Generator, box: Box, points: int, strength: float
) -> np.ndarray:
  """Draws a thin-plate spline through randomly moved points of a box.

  Args:
    rng: random generator; the moves are normally distributed.
    box: the box to bend.
    points: number of points along each axis of the box.
    strength: standard deviation of the moves, as a fraction of the distance
      between neighboring points.

  Returns:
    float32 [_COARSE, _COARSE, 2] in pixels, limited so that nothing folds.
  """
  rows, columns = box.shape
  size = np.array([columns, rows]) / (points - 1)
  moved = rng.normal(size=(points * points, 2)) * strength
  bend = (_basis(points) @ moved).reshape(_COARSE, _COARSE, 2)
  spacing = (points - 1) / (_COARSE - 1)
  steepest = max(np.abs(np.diff(bend, axis=axis)).max() for axis in (0, 1))
  bend *= min(1.0, _STEEPEST * spacing / max(steepest, 1e-9))
  # Converts from distances between points to pixels. Both axes use the smaller
  # distance, so that moves are not too large for a narrow box.
  return (bend * size.min()).astype(np.float32)


@functools.cache
def _basis(points: int) -> np.ndarray:
  """Returns the spline of each of n points on the coarse grid, [_COARSE^2, n].

  The thin-plate spline is linear in the moves of its points (Bookstein, 1989).
  The points and the grid span the unit square.
  """
  knots, fine = _grid(points), _grid(_COARSE)
  kernel = np.block(
    [
      [_kernel(knots, knots), _linear(knots)],
      [_linear(knots).T, np.zeros((3, 3))],
    ]
  )
  evaluate = np.hstack([_kernel(fine, knots), _linear(fine)])
  return evaluate @ np.linalg.inv(kernel)[:, : len(knots)]


def _weights(start: int, stop: int, size: int) -> np.ndarray:
  """Returns cubic interpolation weights from the coarse grid to pixels.

  The kernel is that of Keys (1981) with a = -0.5. The result, for one axis of
  the box, is float32 [stop - start, _COARSE].
  """
  positions = np.arange(start, stop) * (_COARSE - 1) / max(size - 1, 1)
  positions = positions.clip(0, _COARSE - 1)
  t = np.abs(positions[:, None] - np.arange(_COARSE))
  near = (1.5 * t - 2.5) * t * t + 1
  far = ((-0.5 * t + 2.5) * t - 4) * t + 2
  weights = np.where(t < 1, near, np.where(t < 2, far, 0))
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _grid(count: int) -> np.ndarray:
  axis = np.linspace(0, 1, count)
  return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def _linear(points: np.ndarray) -> np.ndarray:
  return np.hstack([np.ones((len(points), 1)), points])


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  squares = ((a[:, None] - b[None]) ** 2).sum(-1)
  return squares * np.log(np.maximum(squares, 1e-12))
