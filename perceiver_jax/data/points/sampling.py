"""Samples points on surfaces and from point clouds.

A source returns each object as a mesh, `vertices` float32 [v, 3] and `faces`
int32 [f, 3], or as a cloud, `points` float32 [n, 3]; v, f and n vary.
"""

import zlib

import numpy as np

from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError


def sample(
  example: Example, count: int, rng: np.random.Generator | None = None
) -> np.ndarray:
  """Returns `count` points of an object, whether a mesh or a cloud.

  Args:
    example: An example of a source of this package.
    count: Number of points.
    rng: Random generator. If None, as in evaluation, the points depend only on
      the object, so that every evaluation, and a prediction for the same
      object, sees the same ones.

  Returns:
    float32 [count, 3].

  Raises:
    UserError: The object has no surface or no point.
  """
  names = ("points",) if "points" in example else ("vertices", "faces")
  arrays = [example[name] for name in names]
  if rng is None:
    rng = np.random.default_rng(
      [zlib.crc32(np.ascontiguousarray(array)) for array in arrays]
    )
  return (sample_points if len(arrays) == 1 else sample_surface)(
    *arrays, count, rng
  )


def sample_surface(
  vertices: np.ndarray,
  faces: np.ndarray,
  count: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Returns points distributed uniformly over the surface of a mesh.

  A triangle is drawn in proportion to its area, then a point in it. Triangles
  without area are never drawn.

  Args:
    vertices: [v, 3].
    faces: Corners of each triangle, indices of vertices [f, 3].
    count: Number of points.
    rng: Random generator.

  Returns:
    float32 [count, 3].

  Raises:
    UserError: The mesh has no area.
  """
  areas = triangle_areas(vertices, faces)
  total = areas.sum()
  if not total > 0:
    raise UserError(
      f"the mesh has no surface: the area of its {len(faces)} triangles is 0;"
      " give a mesh with faces"
    )
  drawn = rng.choice(len(faces), count, p=areas / total)
  # The square root makes the density uniform: the part of a triangle up to a
  # fraction r of the way from its first corner has r^2 of the area.
  r, s = np.sqrt(rng.random(count)), rng.random(count)
  weights = np.stack([1 - r, r * (1 - s), r * s], axis=1)
  corners = vertices[faces[drawn]].astype(np.float64)
  return np.einsum("nk,nkd->nd", weights, corners).astype(np.float32)


def sample_points(
  points: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns random points of a cloud, as few as possible of them twice.

  Args:
    points: [n, 3].
    count: Number of points. Up to n are distinct; beyond, every point occurs
      equally often, up to a difference of one.
    rng: Random generator.

  Returns:
    float32 [count, 3].

  Raises:
    UserError: The cloud is empty.
  """
  if not len(points):
    raise UserError("the cloud has no point; give one with points")
  passes = -(-count // len(points))
  order = np.concatenate([rng.permutation(len(points)) for _ in range(passes)])
  return points[order[:count]].astype(np.float32)


def triangle_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """Returns the area of each triangle, float64 [f]."""
  a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
  return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
