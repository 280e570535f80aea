"""Smooth motions of the plane: affine, and bent by thin-plate splines.

A motion takes points of the first frame to points of the second. Points are
(x, y) in pixels; flow is where a point goes to less where it was.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

# The spline is evaluated at this many points along each axis of its box; what
# cubic interpolation makes of them is the motion, in pictures and flow alike.
_COARSE = 24
# Most that bending may stretch or squeeze anything: below 1 nothing folds.
_STEEPEST = 0.5


class Box(NamedTuple):
  """Pixels with left <= x < right and top <= y < bottom."""

  left: int
  top: int
  right: int
  bottom: int

  @property
  def shape(self) -> tuple[int, int]:
    """Rows and columns."""
    return self.bottom - self.top, self.right - self.left

  @property
  def slices(self) -> tuple[slice, slice]:
    """The index of the box in a frame [H, W]."""
    return slice(self.top, self.bottom), slice(self.left, self.right)

  def within(self, height: int, width: int) -> "Box":
    """The part of it in a frame; its shape has a 0 where there is none."""
    left, right = np.clip((self.left, self.right), 0, width)
    top, bottom = np.clip((self.top, self.bottom), 0, height)
    return Box(int(left), int(top), int(right), int(bottom))


class Motion(NamedTuple):
  """x to `matrix` (x, 1) + bend(x).

  Attributes:
    matrix: float64 [2, 3].
    box: where the bend is defined, in the first frame.
    bend: float32 [_COARSE, _COARSE, 2] in pixels, on a grid over the box, or
      None where there is none.
  """

  matrix: np.ndarray
  box: Box
  bend: np.ndarray | None

  def field(self, part: Box) -> np.ndarray:
    """Returns where pixels move; beyond `box` the bend is that of its edge.

    Returns:
      float32 [h, w, 2].
    """
    (a, b, c), (d, e, f) = self.matrix
    x = np.arange(part.left, part.right, dtype=np.float64)
    y = np.arange(part.top, part.bottom, dtype=np.float64)[:, None]
    places = np.empty((*part.shape, 2), np.float32)
    places[..., 0] = a * x + (b * y + c)
    places[..., 1] = d * x + (e * y + f)
    if self.bend is not None:
      places += self._bent(part)
    return places

  def _bent(self, part: Box) -> np.ndarray:
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
  """The matrix [2, 3] that turns, scales, shears and then moves.

  Args:
    center: what stays in place but for the translation.
    translation: (x, y) in pixels.
    degrees: anticlockwise as seen in an image.
    scale: of both axes.
    shear: how far x moves by y.
  """
  angle = np.deg2rad(degrees)
  turn = np.array(
    [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
  )
  linear = scale * turn @ np.array([[1.0, shear], [0.0, 1.0]])
  offset = center - linear @ center + translation
  return np.column_stack([linear, offset])


def inverted(matrix: np.ndarray) -> np.ndarray:
  """The inverse of an affine motion [2, 3]."""
  return cv2.invertAffineTransform(matrix)


def thin_plate(
  rng: np.random.Generator, box: Box, points: int, strength: float
) -> np.ndarray:
  """Bends a box by a thin-plate spline through randomly moved points.

  Args:
    rng: moves the points, normally distributed.
    box: what is bent.
    points: along each axis of the box.
    strength: standard deviation over the distance of neighboring points.

  Returns:
    float32 [_COARSE, _COARSE, 2] in pixels; so weak that nothing folds.
  """
  rows, columns = box.shape
  size = np.array([columns, rows]) / (points - 1)
  moved = rng.normal(size=(points * points, 2)) * strength
  bend = (_basis(points) @ moved).reshape(_COARSE, _COARSE, 2)
  spacing = (points - 1) / (_COARSE - 1)
  steepest = max(np.abs(np.diff(bend, axis=axis)).max() for axis in (0, 1))
  bend *= min(1.0, _STEEPEST * spacing / max(steepest, 1e-9))
  # What is measured in distances of points, in pixels. Along both axes by the
  # smaller one: a narrow box is not torn by moves as long as it is.
  return (bend * size.min()).astype(np.float32)


@functools.cache
def _basis(points: int) -> np.ndarray:
  """Values on the coarse grid [_COARSE^2, n] of n moved points (unit square).

  The thin-plate spline is linear in the moves of its points (Bookstein, 1989).
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
  """Cubic interpolation of the coarse grid at pixels of an axis of the box.

  Keys (1981), a = -0.5. float32 [stop - start, _COARSE].
  """
  places = np.arange(start, stop) * (_COARSE - 1) / max(size - 1, 1)
  places = places.clip(0, _COARSE - 1)
  t = np.abs(places[:, None] - np.arange(_COARSE))
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
