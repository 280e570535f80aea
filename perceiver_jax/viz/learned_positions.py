"""Figures of learned positions, which show what a model knows of a grid.

Shapes: H x W positions of E channels.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from perceiver_jax.viz import attention_maps, html, image_layout
from perceiver_jax.viz.sections import Section

_COUNT = 4  # Positions along each side whose similarities are drawn.
_SIZE = 96  # Pixels of a tile.
# Positions compared with all others at a time: those of all 224 x 224 pixels
# would take 9.4 GiB.
_CHUNK = 1024


def similarities(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Returns the cosine similarity [m, M] of some of M positions to all.

  Args:
    table: [M, E]. Its mean, which all positions share, is subtracted.
    rows: Indices [m] of the positions to compare.
  """
  centered = table - table.mean(0)
  norms = np.linalg.norm(centered, axis=-1, keepdims=True)
  unit = centered / np.maximum(norms, 1e-9)
  return unit[rows] @ unit.T


def neighbor_distance(table: np.ndarray, grid: Sequence[int]) -> float:
  """Returns how far apart the most similar positions are, in elements.

  It is the mean distance in the grid from each position to the one that is most
  similar to it. Positions that know nothing of the grid are about half a side
  apart, and 1 is the smallest value.

  Args:
    table: [H W, E].
    grid: H and W.
  """
  indices = np.arange(len(table))
  nearest = np.empty_like(indices)
  for start in range(0, len(table), _CHUNK):
    chunk = indices[start : start + _CHUNK]
    similar = similarities(table, chunk)
    similar[np.arange(len(chunk)), chunk] = -np.inf
    nearest[chunk] = similar.argmax(-1)
  rows, columns = np.divmod(indices, grid[1])
  distances = np.hypot(rows - rows[nearest], columns - columns[nearest])
  return float(distances.mean())


def principal_colors(table: np.ndarray, grid: Sequence[int]) -> np.ndarray:
  """Returns three principal components as red, green and blue.

  Args:
    table: [H W, E], with E of at least 3.
    grid: H and W.

  Returns:
    uint8 [H, W, 3], each component stretched to 0..255.
  """
  centered = table - table.mean(0)
  _, _, directions = np.linalg.svd(centered, full_matrices=False)
  colors = centered @ directions[:3].T
  low, high = np.percentile(colors, (1, 99), axis=0)
  colors = (colors - low) / np.maximum(high - low, 1e-9)
  return np.uint8(255 * colors.clip(0, 1)).reshape(*grid, 3)


def figure(table: np.ndarray, grid: Sequence[int]) -> np.ndarray:
  """Draws the similarity of some positions to all others, and main components.

  Args:
    table: [H W, E].
    grid: H and W.

  Returns:
    uint8 [h, w, 3]: a square of maps, each with its own position at its place
    in the square, beside the principal components.
  """
  height, width = grid
  rows, columns = (
    (2 * np.arange(_COUNT) + 1) * side // (2 * _COUNT) for side in grid
  )
  drawn = (rows[:, None] * width + columns).ravel()
  tiles = [_tile(x.reshape(height, width)) for x in similarities(table, drawn)]
  square = np.concatenate(
    [
      np.concatenate(tiles[i : i + _COUNT], 1)
      for i in range(0, len(tiles), _COUNT)
    ]
  )
  colors = _enlarge(principal_colors(table, grid), square.shape[:2])
  return image_layout.side_by_side(
    {"similarity of 16 positions to all": square, "main components": colors}
  )


def section(table: np.ndarray, grid: Sequence[int]) -> Section:
  """Shows learned positions in the report.

  Args:
    table: [H W, E].
    grid: H and W.
  """
  drawing = figure(table, grid)
  distance = neighbor_distance(table, grid)
  return Section(
    "Learned positions",
    html.render("figure", image=drawing, alt="maps of learned positions"),
    f"Each small map shows how similar one position is to all others (cosine,"
    " bright is high); the model was never told where an element is. The most"
    f" similar position is {distance:.1f} elements away on average. On the"
    " right, three principal components as red, green and blue.",
  )


def _tile(values: np.ndarray) -> np.ndarray:
  """Returns a map in colors, with a white frame."""
  heat = attention_maps.heat_map(values, (_SIZE, _SIZE))
  return np.pad(heat[2:-2, 2:-2], ((2, 2), (2, 2), (0, 0)), constant_values=255)


def _enlarge(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  shape = (size[1], size[0])
  return cv2.resize(image, shape, interpolation=cv2.INTER_NEAREST)
