"""Exact backward flow of rendered pairs, to compare approximations with."""

from collections.abc import Sequence

import numpy as np

from perceiver_jax.data.flow.motion import inverted
from perceiver_jax.data.flow.render import Pair
from perceiver_jax.data.flow.scene import Layer

_STEPS = 60  # Of the fixed-point iteration.


def backward_flow(layers: Sequence[Layer], pair: Pair) -> np.ndarray:
  """Returns the flow from the second frame to the first.

  A fixed-point iteration makes it as exact as the forward flow, and a hundred
  times as slow.

  Returns:
    float32 [H, W, 2].
  """
  height, width = pair.flow.shape[:2]
  places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
  result = np.zeros_like(pair.flow)
  for number, layer in enumerate(layers):
    visible = pair.labels[1] == number
    if not visible.any():
      continue
    target = places[visible].astype(np.float64)
    matrix = inverted(layer.motion.matrix)
    back = lambda y, matrix=matrix: y @ matrix[:, :2].T + matrix[:, 2]
    x = back(target)
    for _ in range(_STEPS):
      x = back(target - _bend_at(layer, x))
    result[visible] = x - target
  return result


def _bend_at(layer: Layer, points: np.ndarray) -> np.ndarray:
  """Interpolates the bend of a motion linearly at points [n, 2]."""
  motion = layer.motion
  if motion.bend is None:
    return np.zeros_like(points)
  low = np.floor(points.min(0)).astype(int)
  high = np.ceil(points.max(0)).astype(int) + 2
  part = motion.box._replace(
    left=int(low[0]), top=int(low[1]), right=int(high[0]), bottom=int(high[1])
  )
  straight = motion._replace(bend=None)
  bend = motion.field(part) - straight.field(part)
  cell = np.floor(points - low).astype(int)
  (u, v), total = (points - low - cell).T, 0.0
  for down, weight in ((0, 1 - v), (1, v)):
    for right, share in ((0, 1 - u), (1, u)):
      value = bend[cell[:, 1] + down, cell[:, 0] + right]
      total = total + (weight * share)[:, None] * value
  return total
