"""Optical flow of images of any size, from a model of one size.

An image is covered with overlapping tiles of the model's size; where they
overlap, predictions are averaged with the distance to the nearest edge of the
tile as weight (Perceiver IO, 4.2). Shapes: H, W image; h, w tile; n tiles.
"""

import math
from collections.abc import Callable

import numpy as np

# Input size of the published model (Perceiver IO, app. H).
TRAINING_SIZE = (368, 496)
# From the authors' notebook; the paper does not give a value.
MIN_OVERLAP = 20

SPACINGS = ("even", "released")

# Limits the memory of small tiles with many latents.
_MAX_BATCH = 16

Predict = Callable[[np.ndarray], np.ndarray]
# Maps two uint8 frames [H, W, 3] of any size to flow [H, W, 2] in pixels.
Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def tiled_flow(
  frames: np.ndarray,
  predict: Predict,
  *,
  tile: tuple[int, int] = TRAINING_SIZE,
  min_overlap: int = MIN_OVERLAP,
  spacing: str = "even",
  batch_size: int = 1,
) -> np.ndarray:
  """Predicts flow tile by tile and blends the tiles.

  An image smaller than the tile along an axis is padded with its edge pixels
  to the right or below.

  Args:
    frames: [2, H, W, C], of any type that `predict` takes.
    predict: maps frames [b, 2, h, w, C] to flow [b, h, w, 2] in pixels. All
      calls have the same b, so that a jitted function compiles once.
    tile: (h, w).
    min_overlap: smallest overlap of neighboring tiles in pixels.
    spacing: 'even', as in the paper, or 'released', as in the authors'
      notebook; see `tile_starts`.
    batch_size: largest number of tiles per call.

  Returns:
    Flow float32 [H, W, 2].

  Raises:
    ValueError: a shape, the spacing or the overlap is invalid.
  """
  if frames.ndim != 4 or frames.shape[0] != 2 or not frames.size:
    raise ValueError(f"frames are [2, H, W, C], got {frames.shape}")
  height, width = frames.shape[1:3]
  missing = [max(0, t - s) for t, s in zip(tile, (height, width), strict=True)]
  edges = ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0))
  frames = np.pad(frames, edges, mode="edge")
  tiles = [
    (slice(None), slice(y, y + tile[0]), slice(x, x + tile[1]))
    for y in tile_starts(frames.shape[1], tile[0], min_overlap, spacing)
    for x in tile_starts(frames.shape[2], tile[1], min_overlap, spacing)
  ]
  weights = edge_distance(*tile)[..., None]
  # In float64, equal predictions blend to exactly themselves.
  total = np.zeros((*frames.shape[1:3], 2))
  weight = np.zeros((*frames.shape[1:3], 1))
  flows = _in_batches(predict, [frames[index] for index in tiles], batch_size)
  for (_, rows, columns), flow in zip(tiles, flows, strict=True):
    total[rows, columns] += weights * flow
    weight[rows, columns] += weights
  return (total / weight)[:height, :width].astype(np.float32)


def estimator(
  predict: Predict,
  tile: tuple[int, int],
  spacing: str = "even",
  num_devices: int = 1,
) -> Estimate:
  """Returns a model of one size as a function of two frames of any size.

  Args:
    predict: frames uint8 [b, 2, h, w, 3] to flow [b, h, w, 2] in pixels.
    tile: the model's size (h, w).
    spacing: see `tile_starts`.
    num_devices: number of devices over which `predict` splits a batch.
  """
  return lambda first, second: tiled_flow(
    np.stack([first, second]),
    predict,
    tile=tile,
    min_overlap=overlap(tile),
    spacing=spacing,
    batch_size=tiles_at_once(tile) * num_devices,
  )


def overlap(tile: tuple[int, int]) -> int:
  """Returns the published model's overlap, scaled to tiles (h, w)."""
  share = min(tile) / min(TRAINING_SIZE)
  return min(max(1, round(MIN_OVERLAP * share)), min(tile) - 1)


def tiles_at_once(tile: tuple[int, int]) -> int:
  """Returns the batch size of tiles (h, w), limited by their total pixels."""
  fitting = math.prod(TRAINING_SIZE) // math.prod(tile)
  return max(1, min(fitting, _MAX_BATCH))


def tile_starts(
  size: int,
  tile: int,
  min_overlap: int = MIN_OVERLAP,
  spacing: str = "even",
) -> list[int]:
  """Returns the start of every tile along one axis.

  Args:
    size: pixels of the image, at least `tile`.
    tile: pixels of a tile.
    min_overlap: smallest overlap of neighboring tiles in pixels.
    spacing: 'even': the fewest tiles possible, evenly spaced (1024 by 496: 0,
      264, 528). 'released': a tile every `tile - min_overlap` pixels, the last
      one flush with the border (0, 476, 528).

  Returns:
    Ascending starts from 0 to `size - tile`, without repeats.

  Raises:
    ValueError: an argument is out of range.
  """
  if spacing not in SPACINGS:
    raise ValueError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
  if not 0 <= min_overlap < tile <= size:
    raise ValueError(
      f"min_overlap, tile and size must ascend, got {min_overlap}, {tile} and "
      f"{size}"
    )
  stride, last = tile - min_overlap, size - tile
  if spacing == "released":
    return [*range(0, last, stride), last]
  steps = math.ceil(last / stride)
  return [round(last * step / steps) for step in range(steps)] + [last]


def edge_distance(height: int, width: int) -> np.ndarray:
  """Returns the distance of each pixel from the nearest edge, 1 at the edge.

  Returns:
    float64 [height, width].
  """
  y, x = np.indices((height, width))
  vertical = np.minimum(y + 1, height - y)
  horizontal = np.minimum(x + 1, width - x)
  return np.minimum(vertical, horizontal).astype(np.float64)


def _in_batches(
  predict: Predict, tiles: list[np.ndarray], batch_size: int
) -> list[np.ndarray]:
  """Predicts the flow of every tile in batches of equal size.

  The last batch is padded by repeating its last tile.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, got {batch_size}")
  calls = math.ceil(len(tiles) / batch_size)
  size = math.ceil(len(tiles) / calls)
  flows: list[np.ndarray] = []
  for first in range(0, len(tiles), size):
    batch = tiles[first : first + size]
    batch += batch[-1:] * (size - len(batch))
    stacked = np.stack(batch)
    flow = np.asarray(predict(stacked))
    if flow.shape != (size, *stacked.shape[2:4], 2):
      raise ValueError(
        f"predict gave {flow.shape} for frames {stacked.shape}; flow is "
        "[b, h, w, 2]"
      )
    flows.extend(flow)
  return flows[: len(tiles)]
