"""Tests of sampling points on surfaces and from clouds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from scipy import stats

from perceiver_jax.data.points import sampling
from perceiver_jax.errors import UserError

COUNT = 20_000
# Triangles in one plane, of areas 1/2, 2, 9/2 and 0, side by side.
VERTICES = np.float32(
  [[0, 0, 5], [1, 0, 5], [0, 1, 5],
   [10, 0, 5], [12, 0, 5], [10, 2, 5],
   [20, 0, 5], [23, 0, 5], [20, 3, 5],
   [30, 0, 5], [31, 0, 5], [33, 0, 5]]
)  # fmt: skip
FACES = np.arange(12, dtype=np.int32).reshape(4, 3)

clouds = st_np.arrays(
  np.float32,
  st.tuples(st.integers(1, 12), st.just(3)),
  elements=st.floats(-1e3, 1e3, width=32),
)


def test_triangles_are_drawn_in_proportion_to_their_areas():
  rng = np.random.default_rng(0)
  points = sampling.sample_surface(VERTICES, FACES, COUNT, rng)
  assert points.shape == (COUNT, 3)
  assert points.dtype == np.float32
  counts = np.bincount((points[:, 0] // 10).astype(int), minlength=4)
  assert counts[3] == 0
  expected = COUNT * np.array([0.5, 2, 4.5]) / 7
  assert stats.chisquare(counts[:3], expected).pvalue > 0.01


def test_points_are_uniform_within_a_triangle():
  rng = np.random.default_rng(1)
  corners = np.float32([[1, 2, 3], [4, 2, 3], [1, 7, 5]])
  points = sampling.sample_surface(corners, np.array([[0, 1, 2]]), COUNT, rng)
  edges = (corners[1:] - corners[0]).T
  weights = np.linalg.lstsq(edges, (points - corners[0]).T, rcond=None)[0]
  # An affine map to the triangle of corners 0, (1, 0) and (0, 1) keeps ratios
  # of areas. Its cells of a grid are squares, or halves on the diagonal.
  cells = np.floor(weights * 8).astype(int)
  counts = np.zeros((8, 8))
  np.add.at(counts, tuple(cells), 1)
  areas = np.where(np.add.outer(range(8), range(8)) == 7, 0.5, 1)
  inside = np.add.outer(range(8), range(8)) <= 7
  assert not counts[~inside].any()
  expected = COUNT * areas[inside] / areas[inside].sum()
  assert stats.chisquare(counts[inside], expected).pvalue > 0.01


@settings(deadline=None, max_examples=50)
@given(corners=clouds, seed=st.integers(0, 1000))
def test_sampled_points_lie_in_a_triangle_of_the_mesh(corners, seed):
  corners = np.concatenate([corners, corners[:1] + np.eye(3, dtype="f4")])
  rng = np.random.default_rng(seed)
  faces = rng.integers(0, len(corners), (5, 3))
  faces[0] = np.arange(3) + len(corners) - 3  # A triangle with area.
  points = sampling.sample_surface(corners, faces, 7, rng)
  areas = sampling.triangle_areas(corners, faces)
  triangles = corners[faces[areas > 0]].astype(np.float64)
  a, b, c = np.moveaxis(triangles, 1, 0)
  whole = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
  for point in points:
    parts = sum(
      np.linalg.norm(np.cross(p - point, q - point), axis=-1)
      for p, q in ((a, b), (b, c), (c, a))
    )
    # The three parts that a point inside cuts a triangle into fill it.
    size = 1 + np.abs(triangles).max()
    assert np.min(parts - whole) < 1e-5 * size**2


@pytest.mark.parametrize("faces", [[[0, 1, 1]], [[0, 1, 2]], []])
def test_a_mesh_without_surface_is_refused(faces):
  line = np.float32([[0, 0, 0], [1, 1, 1], [2, 2, 2]])
  with pytest.raises(UserError, match="has no surface"):
    sampling.sample_surface(
      line, np.reshape(faces, (-1, 3)).astype(int), 4, np.random.default_rng(0)
    )


@settings(deadline=None, max_examples=50)
@given(cloud=clouds, count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_points_repeat_only_if_there_are_too_few(cloud, count, seed):
  # The first coordinate tells the points apart.
  cloud = cloud.copy()
  cloud[:, 0] = np.arange(len(cloud))
  points = sampling.sample_points(cloud, count, np.random.default_rng(seed))
  assert points.shape == (count, 3)
  numbers = points[:, 0].astype(int)
  np.testing.assert_array_equal(points, cloud[numbers])
  counts = np.bincount(numbers, minlength=len(cloud))
  assert counts.max() - counts.min() <= 1


def test_an_empty_cloud_is_refused():
  with pytest.raises(UserError, match="no point"):
    sampling.sample_points(np.zeros((0, 3)), 4, np.random.default_rng(0))


@pytest.mark.parametrize(
  "example",
  [
    {"vertices": VERTICES, "faces": FACES, "label": np.int32(1)},
    {"points": VERTICES, "label": np.int32(1)},
  ],
)
def test_a_sample_depends_on_the_generator_or_on_the_object(example):
  draw = lambda rng=None: sampling.sample(example, 6, rng)
  new = np.random.default_rng
  np.testing.assert_array_equal(draw(new(3)), draw(new(3)))
  assert not np.array_equal(draw(new(3)), draw(new(4)))
  fixed = draw()
  np.testing.assert_array_equal(fixed, draw())
  moved = {
    name: x + np.float32(1) if x.dtype == np.float32 else x
    for name, x in example.items()
  }
  shifted = sampling.sample(moved, 6)
  assert not np.allclose(shifted - 1, fixed)
