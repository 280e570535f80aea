"""Renders two frames of a scene with exact flow and occlusion.

Layers are defined in the second frame. A pixel x of the first frame gets the
color at the position in the second to which the motion maps x; the flow is this
position minus x. So no motion has to be inverted. Shapes: H, W of the frames.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from perceiver_jax.data.flow.scene import Layer

# A layer is visible at a pixel if it covers half of it.
_HALF = 128
_NO_LAYER = 255
# Positions closer than this to a pixel count as the pixel itself.
_TOLERANCE = np.float32(0.05)


class Pair(NamedTuple):
  """A rendered pair of frames.

  Attributes:
    frames: uint8 [2, H, W, 3].
    flow: float32 [H, W, 2], flow of the visible layer in pixels.
    occluded: bool [H, W]: the position to which a pixel moves is covered by
      another layer in the second frame, or lies outside of it.
    labels: uint8 [2, H, W], index of the visible layer; 0 is the background.
  """

  frames: np.ndarray
  flow: np.ndarray
  occluded: np.ndarray
  labels: np.ndarray


def render(layers: Sequence[Layer], height: int, width: int) -> Pair:
  """Draws layers from back to front.

  Args:
    layers: at most 255 layers; the first covers the whole frame.
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
  positions = layer.motion.field(part)
  color = _sample(layer.texture, cv2.transform(positions, layer.to_texture))
  cover = None
  if layer.mask is not None:
    corner = np.float32([layer.mask_box.left, layer.mask_box.top])
    cover = _sample(layer.mask, positions - corner, cv2.BORDER_CONSTANT)
  visible = _blend(
    frame[part.slices], labels[part.slices], color, cover, number
  )
  x = np.arange(part.left, part.right, dtype=np.float32)
  y = np.arange(part.top, part.bottom, dtype=np.float32)
  positions[..., 0] -= x
  positions[..., 1] -= y[:, None]
  np.copyto(flow[part.slices], positions, where=visible[..., None])


def _draw_second(
  layer: Layer, number: int, frame: np.ndarray, labels: np.ndarray
) -> None:
  part = layer.mask_box.within(*labels.shape)
  if not all(part.shape):
    return
  to_texture = layer.to_texture.copy()
  to_texture[:, 2] += to_texture[:, :2] @ (part.left, part.top)
  color = cv2.warpAffine(
    layer.texture,
    to_texture,
    part.shape[::-1],
    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_REFLECT_101,
  )
  cover = None
  if layer.mask is not None:
    top, left = part.top - layer.mask_box.top, part.left - layer.mask_box.left
    rows, columns = part.shape
    cover = layer.mask[top : top + rows, left : left + columns]
  _blend(frame[part.slices], labels[part.slices], color, cover, number)


def _blend(
  frame: np.ndarray,
  labels: np.ndarray,
  color: np.ndarray,
  cover: np.ndarray | None,
  number: int,
) -> np.ndarray:
  """Blends a layer into a frame; returns where it is visible, bool [h, w]."""
  if cover is None:
    frame[:], labels[:] = color, number
    return np.ones(labels.shape, bool)
  share = cover * np.float32(1 / 255)
  frame[:] = cv2.blendLinear(color, np.ascontiguousarray(frame), share,
                             1 - share)  # fmt: skip
  visible = cover >= _HALF
  labels[visible] = number
  return visible


def _sample(
  image: np.ndarray, positions: np.ndarray, border: int = cv2.BORDER_REFLECT_101
) -> np.ndarray:
  return cv2.remap(image, positions, None, cv2.INTER_LINEAR, borderMode=border)


def _occluded(flow: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns whether the first frame's pixels are occluded in the second."""
  height, width = labels.shape[1:]
  positions = _grid(height, width) + flow
  x, y = positions[..., 0], positions[..., 1]
  inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
  seen = np.zeros(labels.shape[1:], bool)
  # At an edge the nearest pixel may belong to another layer, so any of the four
  # pixels around the position counts. Positions on a pixel use that pixel only.
  columns = [np.floor(x + _TOLERANCE), np.ceil(x - _TOLERANCE)]
  rows = [np.floor(y + _TOLERANCE), np.ceil(y - _TOLERANCE)]
  for row, column in itertools.product(rows, columns):
    label = cv2.remap(
      labels[1],
      column,
      row,
      cv2.INTER_NEAREST,
      borderMode=cv2.BORDER_CONSTANT,
      borderValue=_NO_LAYER,
    )
    seen |= label == labels[0]
  return ~(inside & seen)


def _grid(height: int, width: int) -> np.ndarray:
  grid = np.empty((height, width, 2), np.float32)
  grid[..., 0] = np.arange(width)
  grid[..., 1] = np.arange(height)[:, None]
  return grid
