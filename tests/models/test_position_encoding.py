"""Tests of position encodings against their formulas."""

import haiku as hk
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import position_encoding

_few = settings(max_examples=6, deadline=None)


def _reference(points, num_bands, resolution, concat_pos=True, sine_only=False):
  """Computes Fourier features one channel at a time."""
  angles = [
    np.pi * points[:, i] * f
    for i, r in enumerate(resolution)
    for f in np.linspace(1, r / 2, num_bands)
  ]
  channels = list(points.T) if concat_pos else []
  channels += [np.sin(a) for a in angles]
  channels += [] if sine_only else [np.cos(a) for a in angles]
  return np.stack(channels, -1)


@_few
@given(
  st.lists(st.integers(2, 9), min_size=1, max_size=3),
  st.integers(1, 4),
  st.booleans(),
  st.booleans(),
)
def test_fourier_features_agree_with_their_formula(
  resolution, num_bands, concat, sine_only
):
  points = np.random.default_rng(0).uniform(-1, 1, (5, len(resolution)))
  out = position_encoding.fourier_features(
    jnp.asarray(points, jnp.float32), num_bands, resolution, concat, sine_only
  )
  expected = _reference(points, num_bands, resolution, concat, sine_only)
  assert out.shape == expected.shape
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_fourier_features_of_k_bands_have_d_times_2k_plus_1_channels():
  out = position_encoding.fourier_grid((3, 4), 64, (224, 224))
  assert out.shape == (12, 2 * (2 * 64 + 1))


@_few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_grid_is_row_major_and_includes_both_ends(sizes):
  out = np.asarray(position_encoding.fourier_grid(sizes, 2))
  grid = np.asarray(position_encoding.linear_positions(sizes))
  assert grid.shape == (*sizes, len(sizes))
  for flat, index in enumerate(np.ndindex(*sizes)):
    expected = [
      2 * i / (n - 1) - 1 if n > 1 else -1
      for i, n in zip(index, sizes, strict=True)
    ]
    np.testing.assert_allclose(grid[index], expected, atol=1e-6)
    np.testing.assert_allclose(out[flat, : len(sizes)], expected, atol=1e-6)


def test_the_resolution_of_a_grid_defaults_to_its_sizes():
  default = position_encoding.fourier_grid((3, 5), 4)
  named = position_encoding.fourier_grid((3, 5), 4, (3, 5))
  other = position_encoding.fourier_grid((3, 5), 4, (5, 3))
  np.testing.assert_array_equal(default, named)
  assert np.abs(default - other).max() > 0.1


@pytest.mark.parametrize("resolution", [(4,), (4, 4, 4), ()])
def test_a_resolution_of_other_dimensions_is_refused(resolution):
  message = f"has {len(resolution)} dimensions, the positions have 2"
  with pytest.raises(ValueError, match=message):
    position_encoding.fourier_features(jnp.zeros((3, 2)), 4, resolution)


def test_subsampled_positions_exclude_the_end():
  out = position_encoding.subsampled_positions(jnp.asarray([0, 6, 11]), (3, 4))
  expected = [[-1, -1], [-1 + 2 / 3, 0], [1 / 3, 0.5]]
  np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_trainable_positions_start_with_a_truncated_normal(scale):
  make = lambda: position_encoding.TrainablePositions(
    200, 100, scale, name="t"
  )()
  params = hk.transform(make).init(jax.random.key(0))
  table = np.asarray(params["t"]["embeddings"])
  assert table.shape == (200, 100)
  # `scale` is the deviation of the normal before truncation at two deviations.
  assert abs(table.std() / (0.8796 * scale) - 1) < 0.02
  assert abs(table.mean()) < 0.02 * scale
  assert 1.99 * scale < np.abs(table).max() <= 2 * scale


def test_the_default_scale_of_trainable_positions_is_that_of_the_papers():
  make = lambda: position_encoding.TrainablePositions(200, 100, name="t")()
  table = hk.transform(make).init(jax.random.key(0))["t"]["embeddings"]
  assert abs(table.std() / (0.8796 * 0.02) - 1) < 0.02
  assert np.abs(table).max() <= 0.04


def test_repeat_batch_gives_every_example_the_same_rows():
  table = jnp.arange(6.0).reshape(3, 2)
  out = position_encoding.repeat_batch(table, 4)
  assert out.shape == (4, 3, 2)
  for row in out:
    np.testing.assert_array_equal(row, table)
