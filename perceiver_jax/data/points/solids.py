"""Point clouds of parametric solids, generated.

Some of the 16 solids differ only by a subtle shape, such as the cylinder, the
slightly tapered one, the rounded one and the barrel. Each example has shape
parameters, an anisotropic scale, a rotation about the vertical axis z, noise,
and in half of the examples a part that a viewer does not see. The splits have
disjoint ranges of the shape parameters. Nothing is read or downloaded.
"""

import functools
from collections.abc import Callable

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import preprocessing
from perceiver_jax.errors import UserError

_SPLITS = ("train", "test")
# Test examples have their shape parameters in this part of each range, and
# training examples in the rest.
_TEST_RANGE = (0.4, 0.6)
_SLENDERNESS = (0.6, 1.8)  # Height over width, the first shape parameter.
_WIDTHS = (0.7, 1.0)  # Width along y over that along x.
_NOISE = 0.015  # Standard deviation; the radius of a solid is about 1.
_NUM_POINTS = (192, 512)  # Before a part is left out.
_PARTIAL_VIEWS = 0.5  # Share of the examples.
_MAX_LEFT_OUT = 0.4  # Share of the points of a partial view.
_ARC = 6  # Segments of a quarter of a circle.

# A polyline [k, 2]: of (radius, height) for a profile, of (x, y) for a section.
_Line = np.ndarray


class Solids:
  """Labeled clouds of solids; example i is deterministic.

  Args:
    split: "train" or "test".
    length: Number of examples.

  Raises:
    UserError: There is no such split, or no example.
  """

  in_memory = True
  class_names: tuple[str, ...]

  def __init__(self, split: str, length: int):
    check_choice(split, _SPLITS, "split", "the data")
    if length < 1:
      raise UserError(
        f"config.data.source_args.solids.num_{split} is {length}; give at least"
        " 1"
      )
    self._split = split
    self._length = length
    self.class_names = tuple(SOLIDS)
    self.num_classes = len(SOLIDS)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    """Returns `points` float32 [n, 3], with varying n, and `label` int32."""
    if not 0 <= index < self._length:
      raise IndexError(index)
    rng = np.random.default_rng([_SPLITS.index(self._split), index])
    label = index % self.num_classes
    slenderness, form = shape_parameters(self._split, rng)
    points = _points(self.class_names[label], form, rng)
    points[:, 2] *= _SLENDERNESS[0] + slenderness * np.ptp(_SLENDERNESS)
    points[:, 1] *= rng.uniform(*_WIDTHS)
    points = preprocessing.rotate(points, rng.uniform(0, 2 * np.pi))
    if rng.random() < _PARTIAL_VIEWS:
      points = _partial_view(points, rng)
    points += rng.normal(0, _NOISE, points.shape)
    return {"points": points.astype(np.float32), "label": np.int32(label)}


def solids(
  split: str, num_train: int = 16_384, num_test: int = 2_048
) -> Solids:
  """Makes the solids of a split.

  Args:
    split: "train" or "test".
    num_train: Number of training examples.
    num_test: Number of test examples.
  """
  return Solids(split, num_train if split == "train" else num_test)


def shape_parameters(split: str, rng: np.random.Generator) -> np.ndarray:
  """Returns two shape parameters in [0, 1]: slenderness and form.

  Those of the test split lie in the middle of the range, where no training
  example has any.
  """
  low, high = _TEST_RANGE
  u = rng.random(2)
  if split == "test":
    return low + u * (high - low)
  u = u * (1 - (high - low))
  return np.where(u < low, u, u + (high - low))


def _points(name: str, form: float, rng: np.random.Generator) -> np.ndarray:
  """Returns points on the surface of a solid, float64 [n, 3]."""
  profile, section = SOLIDS[name](form)
  return sample_sections(
    profile, section, rng.integers(*_NUM_POINTS, endpoint=True), rng
  )


def sample_sections(
  profile: _Line, section: _Line, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns points distributed uniformly over the surface of a solid.

  The surface is the section at each radius and height of the profile. It
  consists of flat cells, one for each segment of both lines.

  Args:
    profile: Radius and height, from one end to the other [k, 2].
    section: A closed curve around the axis, at radius 1 [m, 2].
    count: Number of points.
    rng: Random generator.

  Returns:
    float64 [count, 3].
  """
  (r0, h0), (r1, h1) = profile[:-1].T, profile[1:].T
  edge = np.roll(section, -1, axis=0) - section
  across = np.hypot(*edge.T)
  # Twice the area of the triangle of the axis and an edge, at radius 1.
  to_axis = section[:, 0] * edge[:, 1] - section[:, 1] * edge[:, 0]
  areas = (r0 + r1)[:, None] * np.hypot(
    np.multiply.outer(r1 - r0, to_axis), np.multiply.outer(h1 - h0, across)
  )
  ends = np.cumsum(areas)
  cell = np.searchsorted(ends, rng.random(count) * ends[-1])
  i, j = np.divmod(cell, len(section))
  # The width of a cell grows with its radius, so the radius is drawn uniformly
  # in its square, and the height follows from it.
  u = rng.random(count)
  radius = np.sqrt(r0[i] ** 2 + u * (r1[i] ** 2 - r0[i] ** 2))
  height = h0[i] + (h1 - h0)[i] * u * (r0 + r1)[i] / (r0[i] + radius)
  along = section[j] + rng.random((count, 1)) * edge[j]
  return np.concatenate([radius[:, None] * along, height[:, None]], axis=1)


def _partial_view(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Leaves out the points that are farthest from a viewer at the side."""
  angle = rng.uniform(0, 2 * np.pi)
  distance = points[:, :2] @ [np.cos(angle), np.sin(angle)]
  visible = len(points) * (1 - rng.uniform(0, _MAX_LEFT_OUT))
  return points[np.argsort(distance)[: round(visible)]]


@functools.cache
def _arc(start: float, end: float, quarters: int = 1) -> _Line:
  """Returns points of the unit circle between two angles in degrees."""
  angle = np.radians(np.linspace(start, end, quarters * _ARC + 1))
  return np.stack([np.cos(angle), np.sin(angle)], 1)


def _closed(line: _Line) -> _Line:
  """Returns a profile with flat ends: from the axis and back to it."""
  bottom, top = line[0, 1], line[-1, 1]
  return np.concatenate([[[0, bottom]], line, [[0, top]]])


def _straight(bottom: float, top: float) -> _Line:
  """Returns a straight side from the radius below to that above."""
  return np.array([[bottom, -1], [top, 1]], float)


def _curved(bulge: float) -> _Line:
  """Returns a side whose radius changes by `bulge` in the middle."""
  height = np.linspace(-1, 1, 2 * _ARC + 1)
  radius = 1 - max(bulge, 0) + bulge * (1 - height**2)
  return np.stack([radius, height], 1)


def _rounded(radius: float) -> _Line:
  """Returns a side with rounded edges."""
  top = 1 - radius + radius * _arc(0, 90)
  return np.concatenate([top[::-1] * [1, -1], top])


def _capsule(straight: float) -> _Line:
  """Returns a half circle around a straight part of this share of the side."""
  shift = [0, straight]
  top = _arc(0, 90) * [1, 1 - straight] + shift
  return np.concatenate([top[::-1] * [1, -1], top])


def _ring(cross_section: _Line, thickness: float) -> _Line:
  """Returns a closed profile around the axis, with outer radius 1."""
  ring = cross_section * thickness
  return ring[np.arange(len(ring) + 1) % len(ring)] + [1 - thickness, 0]


def _polygon(corners: int) -> _Line:
  """Returns a regular polygon around the unit circle."""
  angle = 2 * np.pi * (np.arange(corners) + 0.5) / corners
  points = np.stack([np.cos(angle), np.sin(angle)], 1)
  return points / np.cos(np.pi / corners)


def _rounded_square(radius: float) -> _Line:
  """Returns a square with rounded corners."""
  turns = (_arc(start, start + 90) for start in (0, 90, 180, 270))
  centers = (1 - radius) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
  return np.concatenate(
    [c + radius * arc for c, arc in zip(centers, turns, strict=True)]
  )


def _between(low: float, high: float, form: float) -> float:
  return low + form * (high - low)


_CIRCLE, _SQUARE = _polygon(24), _polygon(4)
# The profile and the section of each solid, given its form in [0, 1].
SOLIDS: dict[str, Callable[[float], tuple[_Line, _Line]]] = {
  "ellipsoid": lambda form: (_arc(-90, 90, 2), _CIRCLE),
  "capsule": lambda form: (_capsule(_between(0.25, 0.5, form)), _CIRCLE),
  "dome": lambda form: (_closed(_arc(0, 90) * [1, 2] - [0, 1]), _CIRCLE),
  "cone": lambda form: (_closed(_straight(1, 0)), _CIRCLE),
  "cylinder": lambda form: (_closed(_straight(1, 1)), _CIRCLE),
  "tapered cylinder": lambda form: (
    _closed(_straight(1, _between(0.6, 0.85, form))), _CIRCLE
  ),
  "rounded cylinder": lambda form: (
    _closed(_rounded(_between(0.25, 0.5, form))), _CIRCLE
  ),
  "barrel": lambda form: (
    _closed(_curved(_between(0.15, 0.4, form))), _CIRCLE
  ),
  "hourglass": lambda form: (
    _closed(_curved(-_between(0.15, 0.4, form))), _CIRCLE
  ),
  "torus": lambda form: (_ring(_CIRCLE, _between(0.25, 0.45, form)), _CIRCLE),
  "square torus": lambda form: (
    _ring(_SQUARE, _between(0.25, 0.45, form)), _CIRCLE
  ),
  "box": lambda form: (_closed(_straight(1, 1)), _SQUARE),
  "rounded box": lambda form: (
    _closed(_rounded(_between(0.25, 0.5, form))),
    _rounded_square(_between(0.25, 0.5, form)),
  ),
  "tapered box": lambda form: (
    _closed(_straight(1, _between(0.6, 0.85, form))), _SQUARE
  ),
  "pyramid": lambda form: (_closed(_straight(1, 0)), _SQUARE),
  "hexagonal prism": lambda form: (_closed(_straight(1, 1)), _polygon(6)),
}  # fmt: skip
