"""Tests of the figures of learned positions."""

import numpy as np
import pytest

from perceiver_jax.viz import learned_positions

_GRID = (8, 12)


def _positions(noise=0.0):
  """Returns positions that know their row and column."""
  rows, columns = np.divmod(np.arange(_GRID[0] * _GRID[1]), _GRID[1])
  angles = [np.pi * rows / _GRID[0], np.pi * columns / _GRID[1]]
  table = np.concatenate([[np.sin(a), np.cos(a)] for a in angles]).T
  return table + noise * np.random.default_rng(0).normal(size=table.shape)


def test_neighbors_of_positions_that_know_the_grid_are_near():
  assert learned_positions.neighbor_distance(_positions(), _GRID) < 1.3
  unknown = learned_positions.neighbor_distance(_positions(100.0), _GRID)
  assert 4 < unknown < 7


def test_the_neighbor_distance_is_the_same_in_parts(monkeypatch):
  table = _positions(1.0)
  whole = learned_positions.neighbor_distance(table, _GRID)
  monkeypatch.setattr(learned_positions, "_CHUNK", 7)
  parts = learned_positions.neighbor_distance(table, _GRID)
  assert parts == pytest.approx(whole)


def test_a_shift_of_all_positions_changes_no_similarity():
  table = _positions()
  rows = np.array([3, 50])
  similar = learned_positions.similarities(table, rows)
  assert similar.shape == (2, len(table))
  np.testing.assert_allclose(similar[[0, 1], rows], 1, atol=1e-6)
  np.testing.assert_allclose(
    learned_positions.similarities(table + 5, rows), similar, atol=1e-6
  )


def test_main_components_change_smoothly_over_the_grid():
  colors = learned_positions.principal_colors(_positions(), _GRID)
  assert colors.shape == (*_GRID, 3)
  steps = np.abs(np.diff(colors.astype(int), axis=1))
  assert np.ptp(colors) > 200 > 2.5 * steps.max()


def test_the_figure_has_maps_beside_colors():
  figure = learned_positions.figure(_positions(), _GRID)
  assert figure.dtype == np.uint8
  assert figure.shape[1] > 2 * 4 * 90
  section = learned_positions.section(_positions(), _GRID)
  assert "elements away on average" in section.description
  assert "<img" in section.body
