"""Crops, normalization and affine distortion of images.

Shapes: H height, W width, C channels (1 gray, 3 RGB). Pixels are uint8 in
0..255 until `normalize` scales them.
"""

import math

import cv2
import numpy as np

from perceiver_jax.data.images import codec, resizing
from perceiver_jax.errors import UserError

# White, mean and standard deviation: x = (pixel / white - mean) / deviation.
# ImageNet's mean and deviation are those of its training images.
_STATISTICS = {
  "unit": (127.5, (1.0,), (1.0,)),
  "zero_one": (255.0, (0.0,), (1.0,)),
  "imagenet": (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
NORMALIZATIONS = tuple(_STATISTICS)
# Mean level of the border above which an image has a bright background.
_BRIGHT = 127.5
# Of training crops, as in DeepMind's code.
_CROP_ATTEMPTS = 10
_MIN_OBJECT_COVERED = 0.1
_FALLBACK_FRACTION = 224 / 256


def inception_crop(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """Draws a random crop for training (Perceiver, section 4.1).

  Has the distribution of TensorFlow's `sample_distorted_bounding_box` for an
  object that fills the image, which DeepMind's code uses: the aspect ratio is
  uniform, then the height among those of an allowed area. A crop that covers
  less than a tenth of the image is drawn again. After ten failures, or if the
  crop is the whole image, it is the central square of `center_crop_box` with
  the fraction 224/256.

  Args:
    height: Height of the image.
    width: Width of the image.
    rng: Random generator.
    area: Minimum and maximum area, relative to that of the image.
    aspect: Minimum and maximum ratio of width to height.

  Returns:
    (top, left, height, width) of the crop, in pixels.
  """
  for _ in range(_CROP_ATTEMPTS):
    ratio = rng.uniform(*aspect)
    rows = _draw_rows(height, width, ratio, area, rng)
    columns = round(rows * ratio)
    if rows * columns < _MIN_OBJECT_COVERED * height * width:
      continue
    if (rows, columns) == (height, width):
      break
    # The largest offset is not drawn, as in TensorFlow.
    top = int(rng.integers(max(1, height - rows)))
    left = int(rng.integers(max(1, width - columns)))
    return top, left, rows, columns
  return center_crop_box(height, width, (1, 1), _FALLBACK_FRACTION)


def center_crop_box(
  height: int, width: int, shape: tuple[int, int], fraction: float
) -> tuple[int, int, int, int]:
  """Returns the central crop with the aspect ratio of `shape`.

  Rounds as DeepMind's code: sizes down, offsets up.

  Args:
    height: Height of the image.
    width: Width of the image.
    shape: Height and width in proportion, such as those of the model's input.
    fraction: Size of the crop relative to the largest that fits, in (0, 1].

  Returns:
    (top, left, height, width) of the crop, in pixels.
  """
  largest = min(height * shape[1], width * shape[0])
  rows = max(1, int(fraction * (largest / shape[1])))
  columns = max(1, int(fraction * (largest / shape[0])))
  return (height - rows + 1) // 2, (width - columns + 1) // 2, rows, columns


def crop_box(
  crop: tuple[int, int, int, int], height: int, width: int
) -> np.ndarray:
  """Returns the coordinates of a crop in its image, which spans [-1, 1].

  Args:
    crop: (top, left, height, width) in pixels.
    height: Height of the image.
    width: Width of the image.

  Returns:
    float32 [2, 2]: the (y, x) of the first and of the last pixel.
  """
  first = np.array(crop[:2])
  last = first + crop[2:] - 1
  spans = np.maximum(np.array([height, width]) - 1, 1)
  return (2 * np.stack([first, last]) / spans - 1).astype(np.float32)


def normalize(pixels: np.ndarray, normalization: str) -> np.ndarray:
  """Normalizes pixels for a model, without clipping.

  Args:
    pixels: uint8 or float32 [..., W, C] in 0..255.
    normalization: "unit": to [-1, 1]; "zero_one": to [0, 1]; "imagenet": by
      the mean and standard deviation of ImageNet's red, green and blue.

  Returns:
    float32 [..., W, C].

  Raises:
    UserError: there is no such normalization, or it is for other channels.
  """
  white, mean, deviation = _statistics(normalization, pixels.shape[-2:])
  # NumPy is slow if the last axis is short, so columns and channels are joined.
  x = pixels.reshape(*pixels.shape[:-2], -1) / white
  x -= mean
  x /= deviation
  return x.reshape(pixels.shape)


def pixel_scale(normalization: str) -> np.ndarray:
  """Returns the share of white that a difference of 1 is, for each channel."""
  white, _, deviation = _STATISTICS[normalization]
  return np.float32(deviation) * white / 255


def describe_normalization(normalization: str) -> str:
  """Returns the formula of `normalize` in words."""
  white, mean, deviation = _STATISTICS[normalization]
  formula = f"x / {white:g}"
  if any(mean):
    formula += f" - {mean[0]:g}" if len(mean) == 1 else f" - {list(mean)}"
  if set(deviation) != {1.0}:
    formula = f"({formula}) / {list(deviation)}"
  return f"{formula} for pixel values x from 0 to 255"


def to_pixels(x: np.ndarray, normalization: str) -> np.ndarray:
  """Inverts `normalize`, for display.

  Args:
    x: float32 [..., W, C].
    normalization: the normalization that was applied.

  Returns:
    uint8 [..., W, C], clipped to 0..255.

  Raises:
    UserError: there is no such normalization, or it is for other channels.
  """
  white, mean, deviation = _statistics(normalization, x.shape[-2:])
  pixels = (x.reshape(*x.shape[:-2], -1) * deviation + mean) * white
  return np.rint(pixels.clip(0, 255)).astype(np.uint8).reshape(x.shape)


def prepare_image(
  image: np.ndarray,
  shape: tuple[int, int, int],
  *,
  invert: bool = False,
  crop_fraction: float = 1.0,
  resize: str = "area",
  normalization: str = "unit",
) -> np.ndarray:
  """Crops, resizes and normalizes an image for a model.

  The central crop has the aspect ratio of the model's input.

  Args:
    image: uint8 [H, W] or [H, W, 1 | 3 | 4].
    shape: (height, width, channels) of the model's input.
    invert: swaps black and white, for a model of light ink on dark ground.
    crop_fraction: size of the crop over the largest that fits, in (0, 1].
    resize: see `resizing.resize_by`.
    normalization: see `normalize`.

  Returns:
    float32 `shape`.

  Raises:
    ValueError: `crop_fraction` is out of range.
    UserError: `resize` or `normalization` is unknown.
  """
  _check_fraction(crop_fraction)
  height, width, channels = shape
  image = codec.to_channels(image, channels)
  top, left, rows, columns = center_crop_box(
    *image.shape[:2], (height, width), crop_fraction
  )
  crop = image[top : top + rows, left : left + columns]
  pixels = resizing.resize_by(crop, height, width, resize)
  return normalize(255 - pixels if invert else pixels, normalization)


def random_affine(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  degrees: float = 0.0,
  scale: float = 0.0,
  shift: float = 0.0,
) -> np.ndarray:
  """Rotates, scales and translates an image, replicating its edges.

  Args:
    image: float32 [H, W, C].
    rng: random generator; every change is uniform within its bounds.
    degrees: largest rotation in either direction.
    scale: largest change of scale; 0.1 is from 0.9 to 1.1.
    shift: largest translation along each axis, in pixels.

  Returns:
    float32 [H, W, C].
  """
  angle, size, x, y = rng.uniform(-1, 1, 4) * (degrees, scale, shift, shift)
  height, width = image.shape[:2]
  center = ((width - 1) / 2, (height - 1) / 2)
  matrix = cv2.getRotationMatrix2D(center, angle, 1 + size)
  matrix[:, 2] += (x, y)
  out = cv2.warpAffine(
    image,
    matrix,
    (width, height),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REPLICATE,
  )
  return out.reshape(image.shape)


def has_bright_border(image: np.ndarray) -> bool:
  """Returns whether the border is bright, as with dark ink on paper.

  Args:
    image: uint8 [H, W] or [H, W, 1 | 3 | 4].
  """
  gray = codec.to_channels(image, 1)[..., 0]
  edges = [gray[0], gray[-1], gray[:, 0], gray[:, -1]]
  return bool(np.mean(np.concatenate(edges)) > _BRIGHT)


def _statistics(
  normalization: str, size: tuple[int, int]
) -> tuple[np.float32, np.ndarray, np.ndarray]:
  """Returns white, and the mean and deviation [W * C] of a row of pixels."""
  if normalization not in _STATISTICS:
    raise UserError(
      f"normalization is {normalization!r}; give {' or '.join(NORMALIZATIONS)}"
    )
  white, *moments = _STATISTICS[normalization]
  if len(moments[0]) not in (1, size[1]):
    raise UserError(
      f"normalization {normalization!r} is for {len(moments[0])} channels, got"
      f" {size[1]}; give one of the others"
    )
  mean, deviation = (
    np.broadcast_to(np.float32(m), size).ravel() for m in moments
  )
  return np.float32(white), mean, deviation


def _check_fraction(crop_fraction: float) -> None:
  if not 0 < crop_fraction <= 1:
    raise ValueError(f"crop_fraction must be in (0, 1], got {crop_fraction}")


def _draw_rows(
  height: int,
  width: int,
  ratio: float,
  area: tuple[float, float],
  rng: np.random.Generator,
) -> int:
  """Draws the height of a crop, or returns 0 if none has an allowed area.

  Args:
    height: Height of the image.
    width: Width of the image.
    ratio: Ratio of width to height of the crop.
    area: Minimum and maximum area, relative to that of the image.
    rng: Random generator.
  """
  columns = lambda rows: round(rows * ratio)
  least, most = (share * height * width for share in area)
  low, high = (round(math.sqrt(x / ratio)) for x in (least, most))
  if columns(high) > width:
    high = int((width + 0.5 - 1e-7) / ratio)
    high -= columns(high) > width
  high = min(high, height)
  rows = int(rng.integers(low, high + 1)) if low < high else high
  # Rounding may have made the crop slightly too small or too large.
  rows += rows * columns(rows) < least
  rows -= rows * columns(rows) > most
  fits = 0 < rows <= height and 0 < columns(rows) <= width
  return rows if fits and least <= rows * columns(rows) <= most else 0
