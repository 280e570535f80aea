"""Tests of the preprocessing of point clouds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_jax.data.points import preprocessing

_clouds = hnp.arrays(
  np.float32,
  st.tuples(st.integers(1, 40), st.just(3)),
  elements=st.floats(-100, 100, width=32),
)
_few = settings(max_examples=50, deadline=None)


@_few
@given(_clouds)
def test_normalized_clouds_have_zero_mean_in_the_unit_cube(points):
  out = preprocessing.normalize(points)
  assert out.dtype == np.float32
  assert np.isfinite(out).all()
  assert np.abs(out).max() <= 1.001
  if np.ptp(points, axis=0).max() > 0.1:
    np.testing.assert_allclose(np.abs(out).max(), 1, rtol=1e-3)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)


def test_each_point_is_scaled_by_its_own_factor():
  rng = np.random.default_rng(0)
  points = rng.normal((4, 5, 6), size=(500, 3)).astype(np.float32)
  out = preprocessing.augment(points, rng, point_scale=0.01, rotation=0.0)
  centered = points - points.mean(0, dtype=np.float64)
  factors = out / centered
  # The three coordinates of a point have one factor.
  np.testing.assert_allclose(factors, factors[:, :1] + [0, 0, 0], atol=1e-3)
  assert 0.99 - 1e-3 <= factors[:, 0].min() < 0.9905
  assert 1.0095 < factors[:, 0].max() <= 1.01 + 1e-3


def test_rotations_are_about_the_vertical_axis():
  rng = np.random.default_rng(1)
  points = rng.normal(size=(50, 3)).astype(np.float32)
  out = preprocessing.augment(points, rng, point_scale=0.0, rotation=180.0)
  centered = points - points.mean(0)
  np.testing.assert_allclose(out[:, 2], centered[:, 2], atol=1e-5)
  norm = lambda x: np.hypot(x[:, 0], x[:, 1])
  np.testing.assert_allclose(norm(out), norm(centered), atol=1e-5)
  assert np.abs(out - centered).max() > 0.1


def test_padding_is_masked():
  points, mask = preprocessing.pad(np.ones((2, 3), np.float32), 4)
  assert points.tolist() == [[1, 1, 1]] * 2 + [[0, 0, 0]] * 2
  assert mask.tolist() == [True, True, False, False]


def test_the_largest_coordinates_do_not_overflow():
  points = np.array([[3e38, 0, 0], [-3e38, 0, 1e38]], np.float32)
  scaled = preprocessing.augment(
    1e-2 * points, np.random.default_rng(0), point_scale=0.01, rotation=0.0
  )
  for cloud in (points, scaled):
    out = preprocessing.normalize(cloud)
    np.testing.assert_allclose(out[:, 0], [1, -1], rtol=0.05)
