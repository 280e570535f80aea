"""Two frames of a scene, with the exact flow and what is occluded.

Every layer is at home in the second frame: the first frame is drawn by looking
up, for each of its pixels x, where the layer's motion takes it. So the flow is
that place less x and needs no inverse. Shapes: H, W of the frames.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from perceiver_jax.data.flow.motion import inverted
from perceiver_jax.data.flow.scene import Layer

# A layer shows at a pixel if it covers half of it.
_HALF = 128
_NOWHERE = 255
_ON_PIXEL = np.float32(0.05)
# Of the fixed-point search for where a pixel of the second frame came from.
_STEPS = 60


class Pair(NamedTuple):
  """What is rendered.

  Attributes:
    frames: uint8 [2, H, W, 3].
    flow: float32 [H, W, 2] in pixels, of the layer that shows most.
    occluded: bool [H, W]: the pixel's own place is hidden in the second frame
      by another layer, or lies outside of it.
    labels: uint8 [2, H, W]: which layer shows, 0 the background.
  """

  frames: np.ndarray
  flow: np.ndarray
  occluded: np.ndarray
  labels: np.ndarray


def render(layers: Sequence[Layer], height: int, width: int) -> Pair:
  """Draws the layers from back to front.

  Args:
    layers: the first covers everything; 255 at most.
    height: H.
    width: W.
  """
  frames = np.zeros((2, height, width, 3), np.uint8)
  labels = np.zeros((2, height, width), np.uint8)
  flow = np.zeros((height, width, 2), np.float32)
  for number, layer in enumerate(layers):
    _draw_first(layer, number, frames[0], labels[0], flow)
    _draw_second(layer, number, frames[1], labels[1])
  return Pair(frames, flow, _occluded(flow, labels), labels)


def backward_flow(layers: Sequence[Layer], pair: Pair) -> np.ndarray:
  """The flow from the second frame to the first, by search.

  It is as exact as the forward flow but takes a hundred times as long: it is
  for judging approximations, not for training.

  Returns:
    float32 [H, W, 2].
  """
  height, width = pair.flow.shape[:2]
  places = _grid(height, width)
  result = np.zeros_like(pair.flow)
  for number, layer in enumerate(layers):
    shows = pair.labels[1] == number
    if not shows.any():
      continue
    target = places[shows].astype(np.float64)
    matrix = inverted(layer.motion.matrix)
    back = lambda y, matrix=matrix: y @ matrix[:, :2].T + matrix[:, 2]
    x = back(target)
    for _ in range(_STEPS):
      x = back(target - _bend_at(layer, x))
    result[shows] = x - target
  return result


def _bend_at(layer: Layer, points: np.ndarray) -> np.ndarray:
  """The bend of a motion [n, 2] at points [n, 2], between pixels linearly."""
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


def _draw_first(
  layer: Layer,
  number: int,
  frame: np.ndarray,
  labels: np.ndarray,
  flow: np.ndarray,
) -> None:
  part = layer.first_box.within(*labels.shape)
  if not all(part.shape):
    return
  places = layer.motion.field(part)
  colour = _sample(layer.texture, _through(layer.place, places))
  cover = None
  if layer.mask is not None:
    corner = np.float32([layer.mask_box.left, layer.mask_box.top])
    cover = _sample(layer.mask, places - corner, cv2.BORDER_CONSTANT)
  shows = _blend(frame[part.slices], labels[part.slices], colour, cover, number)
  places[..., 0] -= np.arange(part.left, part.right, dtype=np.float32)
  places[..., 1] -= np.arange(part.top, part.bottom, dtype=np.float32)[:, None]
  np.copyto(flow[part.slices], places, where=shows[..., None])


def _draw_second(
  layer: Layer, number: int, frame: np.ndarray, labels: np.ndarray
) -> None:
  part = layer.mask_box.within(*labels.shape)
  if not all(part.shape):
    return
  place = layer.place.copy()
  place[:, 2] += place[:, :2] @ (part.left, part.top)
  colour = cv2.warpAffine(
    layer.texture,
    place,
    part.shape[::-1],
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REFLECT_101,
  )
  cover = None
  if layer.mask is not None:
    top, left = part.top - layer.mask_box.top, part.left - layer.mask_box.left
    rows, columns = part.shape
    cover = layer.mask[top : top + rows, left : left + columns]
  _blend(frame[part.slices], labels[part.slices], colour, cover, number)


def _blend(
  frame: np.ndarray,
  labels: np.ndarray,
  colour: np.ndarray,
  cover: np.ndarray | None,
  number: int,
) -> np.ndarray:
  """Puts a layer on what is there; returns where it shows, bool [h, w]."""
  if cover is None:
    frame[:], labels[:] = colour, number
    return np.ones(labels.shape, bool)
  share = cover * np.float32(1 / 255)
  frame[:] = cv2.blendLinear(colour, np.ascontiguousarray(frame), share,
                             1 - share)  # fmt: skip
  shows = cover >= _HALF
  labels[shows] = number
  return shows


def _through(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
  return cv2.transform(places, matrix)


def _sample(
  image: np.ndarray, places: np.ndarray, border: int = cv2.BORDER_REFLECT_101
) -> np.ndarray:
  return cv2.remap(image, places, None, cv2.INTER_LINEAR, borderMode=border)


def _occluded(flow: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Where a pixel's layer is not what the second frame shows at its place."""
  height, width = labels.shape[1:]
  places = _grid(height, width) + flow
  x, y = places[..., 0], places[..., 1]
  inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
  seen = np.zeros(labels.shape[1:], bool)
  # Any of the four pixels around it: at an edge, the nearest may be another's.
  # Those as good as not looked up, since it lies on a pixel, are left out.
  columns = [np.floor(x + _ON_PIXEL), np.ceil(x - _ON_PIXEL)]
  rows = [np.floor(y + _ON_PIXEL), np.ceil(y - _ON_PIXEL)]
  for row, column in itertools.product(rows, columns):
    found = cv2.remap(
      labels[1],
      column,
      row,
      cv2.INTER_NEAREST,
      borderMode=cv2.BORDER_CONSTANT,
      borderValue=_NOWHERE,
    )
    seen |= found == labels[0]
  return ~(inside & seen)


def _grid(height: int, width: int) -> np.ndarray:
  grid = np.empty((height, width, 2), np.float32)
  grid[..., 0] = np.arange(width)
  grid[..., 1] = np.arange(height)[:, None]
  return grid
