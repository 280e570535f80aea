"""Augmentation of training pairs: color jitter, erasing, scaling, cropping.

Follows AutoFlow's released code for RAFT, which the paper uses with a
curriculum on its severity (IO, app. H). That code has two ranges of
log2 scales: -0.2 to 0.5 by default, as in RAFT, and 0.2 to 1 in a configuration
file shared with another model. The paper does not say which it used;
the default here is the former. Shapes: H, W of the pair; h, w of the input of
the model.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.flow import settings as flow_settings
from perceiver_jax.errors import UserError


class Augmentation(NamedTuple):
  """Strength of the augmentation at severity 1; severity 0 turns it off.

  Attributes:
    brightness: largest change of brightness, as a fraction.
    contrast: largest change of the distance from the mean color.
    saturation: largest change of the distance from gray.
    hue: largest rotation of hues, as a fraction of the circle.
    asymmetric_share: share of pairs whose frames get different colors.
    erase_share: share of pairs with one or two boxes erased in frame 2.
    erase_size: minimum and maximum side of a box in pixels.
    spatial_share: share of pairs that are scaled.
    min_scale: minimum scale, log2.
    max_scale: maximum scale, log2.
    stretch_share: share of scaled pairs whose axes are scaled differently.
    stretch: largest difference from the common scale, log2.
    left_right_share: share of pairs flipped horizontally.
    up_down_share: share of pairs flipped vertically.
    crop_margin: pixels by which a crop, at the scale of the model, may start
      beyond the borders of the pair before it is moved inside. It makes crops
      at the borders more frequent.
  """

  brightness: float = 0.4
  contrast: float = 0.4
  saturation: float = 0.4
  hue: float = 0.5 / 3.14
  asymmetric_share: float = 0.2
  erase_share: float = 0.5
  erase_size: tuple[int, int] = (50, 100)
  spatial_share: float = 0.8
  min_scale: float = -0.2
  max_scale: float = 0.5
  stretch_share: float = 0.8
  stretch: float = 0.2
  left_right_share: float = 0.5
  up_down_share: float = 0.1
  crop_margin: int = 20


def make_augmentation(settings: Mapping[str, Any]) -> Augmentation:
  """Makes an `Augmentation` from the leaves of a config.

  Raises:
    UserError: a leaf is unknown or out of range, or a minimum exceeds its
      maximum.
  """
  augmentation = flow_settings.make(Augmentation, "data.augmentation", settings)
  margin = augmentation.crop_margin
  leaf = "data.augmentation.crop_margin"
  check_leaf(leaf, margin, margin >= 0, "0 or more pixels")
  ranges = {
    "erase_size": augmentation.erase_size,
    "min_scale to max_scale": (augmentation.min_scale, augmentation.max_scale),
  }
  for name, (low, high) in ranges.items():
    if low > high:
      raise UserError(
        f"config.data.augmentation has {name} from {low} to {high}; give the"
        " minimum and the maximum"
      )
  return augmentation


def augment(
  example: Example,
  rng: np.random.Generator,
  settings: Augmentation,
  size: tuple[int, int],
  severity: float,
) -> Example:
  """Augments a pair and crops it to the size of the model.

  Args:
    example: see `sources`.
    rng: random generator.
    settings: the augmentation at severity 1.
    size: (h, w).
    severity: 0 to 1; shares and strengths are multiplied by it.

  Returns:
    The example at [h, w].
  """
  frames = example["frames"]
  if severity:
    frames = _colors(frames, rng, settings, severity)
    if rng.random() < severity * settings.erase_share:
      frames = _erased(frames, rng, settings.erase_size)
  scales = _scales(rng, settings, severity)
  example = resized_crop(
    {**example, "frames": frames}, rng, size, scales, settings.crop_margin
  )
  for axis, share in (
    (1, settings.left_right_share),
    (0, settings.up_down_share),
  ):
    if rng.random() < severity * share:
      example = flip(example, axis)
  return example


def resized_crop(
  example: Example,
  rng: np.random.Generator | None,
  size: tuple[int, int],
  scales: tuple[float, float] = (1.0, 1.0),
  margin: int = 0,
) -> Example:
  """Crops a pair and resizes the crop to a size.

  The crop is limited to the size of the pair.

  Args:
    example: see `sources`.
    rng: draws the position; None crops the center.
    size: (h, w) of the result.
    scales: vertical and horizontal scale.
    margin: see `Augmentation.crop_margin`.
  """
  shape = example["flow"].shape[:2]
  part, start = [], []
  for have, want, scale in zip(shape, size, scales, strict=True):
    length = int(np.clip(round(want / scale), 1, have))
    part.append(length)
    start.append(_offset(have - length, round(margin / scale), rng))
  where = tuple(slice(s, s + n) for s, n in zip(start, part, strict=True))
  frames, flow = example["frames"][:, *where], example["flow"][where]
  occluded = example["occluded"][where]
  if tuple(part) != tuple(size):
    rows, columns = size
    # The scale after rounding the size of the crop.
    ratio = np.float32([columns / part[1], rows / part[0]])
    frames = np.stack([_resize(f, size, cv2.INTER_LINEAR) for f in frames])
    flow = _resized_flow(flow, size) * ratio
    # INTER_NEAREST ignores the centers of pixels and would displace the mask.
    interpolation = cv2.INTER_NEAREST_EXACT
    occluded = _resize(occluded.astype(np.uint8), size, interpolation) > 0
  return {**example, "frames": frames, "flow": flow, "occluded": occluded}


def _offset(room: int, margin: int, rng: np.random.Generator | None) -> int:
  """Draws where a crop starts, from 0 to `room`; see `resized_crop`."""
  if rng is None:
    return room // 2
  # With a margin, the largest offset is not drawn, as in the released code.
  drawn = rng.integers(-margin, room + max(margin, 1))
  return int(np.clip(drawn, 0, room))


def flip(example: Example, axis: int) -> Example:
  """Flips a pair along axis 0 (vertical) or 1 (horizontal)."""
  signs = np.float32([1, -1] if axis == 0 else [-1, 1])
  return {
    **example,
    "frames": np.flip(example["frames"], axis + 1),
    "flow": np.flip(example["flow"], axis) * signs,
    "occluded": np.flip(example["occluded"], axis),
  }


def _scales(
  rng: np.random.Generator, settings: Augmentation, severity: float
) -> tuple[float, float]:
  """Draws the vertical and horizontal scale."""
  both, along = 0.0, np.zeros(2)
  if rng.random() < severity * settings.spatial_share:
    both = severity * rng.uniform(settings.min_scale, settings.max_scale)
    if rng.random() < severity * settings.stretch_share:
      along = severity * rng.uniform(-settings.stretch, settings.stretch, 2)
  down, across = 2.0 ** (both + along)
  return float(down), float(across)


def _colors(
  frames: np.ndarray,
  rng: np.random.Generator,
  settings: Augmentation,
  severity: float,
) -> np.ndarray:
  """Jitters the colors of both frames equally, or of each separately."""
  if rng.random() < severity * settings.asymmetric_share:
    return np.stack(
      [_jittered(f[None], rng, settings, severity)[0] for f in frames]
    )
  return _jittered(frames, rng, settings, severity)


def _jittered(
  frames: np.ndarray,
  rng: np.random.Generator,
  settings: Augmentation,
  severity: float,
) -> np.ndarray:
  """Jitters brightness, contrast, saturation and hue; uint8 [n, H, W, 3]."""
  largest = np.array(
    [settings.brightness, settings.contrast, settings.saturation, settings.hue]
  )
  light, contrast, saturation, hue = severity * largest * rng.uniform(-1, 1, 4)
  pixels = frames.reshape(-1, frames.shape[2], 3)
  mean = np.array(cv2.mean(pixels)[:3])
  gray = np.tile([0.299, 0.587, 0.114], (3, 1))
  matrix = (1 + saturation) * np.eye(3) - saturation * gray
  matrix *= (1 + light) * (1 + contrast)
  offset = (
    -contrast
    * (1 + light)
    * (((1 + saturation) * np.eye(3) - saturation * gray) @ mean)
  )
  pixels = cv2.transform(pixels, np.column_stack([matrix, offset]))
  turn = round(256 * hue)
  if turn:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(turn % 256)
    pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
  return pixels.reshape(frames.shape)


def _erased(
  frames: np.ndarray, rng: np.random.Generator, sides: tuple[int, int]
) -> np.ndarray:
  """Fills boxes of the second frame with its mean color."""
  frames = frames.copy()
  height, width = frames.shape[1:3]
  mean = np.array(cv2.mean(frames[1])[:3])
  for _ in range(rng.integers(1, 3)):
    top, left = rng.integers(height), rng.integers(width)
    rows, columns = rng.integers(sides[0], sides[1] + 1, 2)
    frames[1, top : top + rows, left : left + columns] = np.rint(mean)
  return frames


def _resized_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes flow to [h, w]; sparse values are moved, not interpolated.

  A value is moved to the pixel that contains the center of its old pixel.
  Pixels without a measurement stay unknown.
  """
  known = np.isfinite(flow).all(-1)
  if known.all():
    return _resize(flow, size, cv2.INTER_LINEAR)
  ratios = np.divide(size, known.shape)
  places = np.floor((np.argwhere(known) + 0.5) * ratios).astype(int)
  resized = np.full((*size, 2), np.nan, np.float32)
  resized[tuple(places.T)] = flow[known]
  return resized


def _resize(
  image: np.ndarray, size: tuple[int, int], interpolation: int
) -> np.ndarray:
  return cv2.resize(image, size[::-1], interpolation=interpolation)
