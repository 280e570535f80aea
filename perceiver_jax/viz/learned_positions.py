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


def similarities(table: np.ndarray) -> np.ndarray:
  """Returns the cosine similarity [M, M] of every two of M positions.

  Args:
    table: [M, E]. Its mean, which all positions share, is subtracted.
  """
  centered = table - table.mean(0)
  norms = np.linalg.norm(centered, axis=-1, keepdims=True)
  unit = centered / np.maximum(norms, 1e-9)
  return unit @ unit.T


def neighbor_distance(table: np.ndarray, grid: Sequence[int]) -> float:
  """Returns how far apart the most similar positions are, in elements.

  It is the mean distance in the grid from each position to the one that is most
  similar to it. Positions that know nothing of the grid are about half a side
  apart, and 1 is the smallest value.

  Args:
    table: [H W, E].
    grid: H and W.
  """
  similar = similarities(table)
  np.fill_diagonal(similar, -np.inf)
  rows, columns = np.divmod(np.arange(len(table)), grid[1])
  nearest = similar.argmax(-1)
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
  similar = similarities(table).reshape(height, width, height, width)
  maps = []
  for i in range(_COUNT):
    row = (2 * i + 1) * height // (2 * _COUNT)
    columns = [(2 * j + 1) * width // (2 * _COUNT) for j in range(_COUNT)]
    tiles = [_tile(similar[row, column]) for column in columns]
    maps.append(np.concatenate(tiles, 1))
  square = np.concatenate(maps, 0)
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
