"""RandAugment (https://arxiv.org/abs/1909.13719): random image operations.

Each layer applies one of sixteen operations, drawn uniformly with replacement,
at the same level from 0 to 10. The Perceiver papers state only the number of
layers (4) and the level (5). The rest, including all constants, follows the
TensorFlow RandAugment of EfficientNet, which the authors' training code uses
and which imitates Pillow:

- Color, Contrast, Brightness and Sharpness change nothing at level 5, where
  their factor is 1.
- Posterize keeps more bits at higher levels, so it is weaker there: 2 at
  level 5. Below level 2.5 it keeps one bit instead of none.
- Solarize is weaker at higher levels too: its threshold is 128 at level 5.
- Contrast is relative to the mean gray of the image. The authors' code intends
  the same, but computes min(255, pixels / 256) as the mean.
- Geometric operations sample the nearest pixel; pixels from outside the image
  are gray, 128.

Images are uint8 [H, W, 3]. Operations do not change their argument, but may
return it.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import ArrayLike

from perceiver_jax.checks import check_leaf

Operation = Callable[[np.ndarray, float, np.ndarray], np.ndarray]

MAX_LEVEL = 10
_GRAY = 128
_LEVELS = np.arange(256)
# OpenCV rounds to nearest, but Pillow and TensorFlow drop the fraction. Adding
# slightly more than -1/2 does the same and keeps integers unchanged.
_FLOOR_OFFSET = -0.499
# OpenCV rounds positions half-way between pixels to the even one, which would
# repeat every other pixel of a sheared row. With a small shift to the right and
# down they round up, as in TensorFlow. A smaller one would be lost in float32.
_ROUND_UP = np.array([[0, 0, 3e-4], [0, 0, 3e-4]])
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def rand_augment(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  num_layers: int = 4,
  magnitude: float = 5.0,
) -> np.ndarray:
  """Applies randomly drawn operations, one after the other.

  Args:
    image: uint8 [H, W, 3]; it is not changed.
    rng: draws the operations, their directions and positions.
    num_layers: number of operations.
    magnitude: level of the operations, from 0 to 10.

  Returns:
    uint8 [H, W, 3]; `image` itself if nothing changes.

  Raises:
    ValueError: `image` has another type or shape, or no pixel.
    UserError: `num_layers` or `magnitude` is out of range.
  """
  _check(image, num_layers, magnitude)
  names = list(OPERATIONS)
  for index in rng.integers(len(names), size=num_layers):
    image = OPERATIONS[names[index]](image, magnitude, rng.random(2))
  return image


def auto_contrast(image: np.ndarray) -> np.ndarray:
  """Stretches each channel to 0..255; constant channels stay."""
  # One axis at a time, since NumPy is far slower over both at once.
  low = image.min(axis=0).min(axis=0).astype(np.float64)
  high = image.max(axis=0).max(axis=0).astype(np.float64)
  scale = 255 / np.maximum(high - low, 1)
  levels = _LEVELS[:, None]
  return _look_up(
    image, np.where(high > low, levels * scale - low * scale, levels)
  )


def equalize(image: np.ndarray) -> np.ndarray:
  """Equalizes the histogram of each channel."""
  tables = [_equalize_table(counts) for counts in _histograms(image)]
  return _look_up(image, np.stack(tables, axis=-1))


def invert(image: np.ndarray) -> np.ndarray:
  """Inverts all values."""
  return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keeps only the highest `bits` of each value, at least one."""
  # Without any bits the image would be black. TensorFlow shifts by at most 7.
  shift = 8 - max(1, bits)
  return image & np.uint8(0xFF >> shift << shift)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Inverts the values of `threshold` or more."""
  table = np.concatenate([_LEVELS[:threshold], 255 - _LEVELS[threshold:]])
  return _look_up(image, table)


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
  """Adds `addition` to the values below 128."""
  return _look_up(image, _LEVELS + addition * (_LEVELS < 128))


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """Increases (`factor` > 1) or reduces saturation; 0 makes it gray."""
  gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  return _blend(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Moves all values away from (`factor` > 1) or towards the mean gray."""
  mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
  gray = int(mean + 0.5)
  return _look_up(image, gray + np.float32(factor) * np.float32(_LEVELS - gray))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """Multiplies all values by `factor`."""
  return _look_up(image, np.float32(factor) * np.float32(_LEVELS))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Sharpens (`factor` > 1) or blurs; the outermost pixels stay."""
  smooth = cv2.filter2D(image, -1, _SMOOTH)
  smooth[[0, -1]] = image[[0, -1]]
  smooth[:, [0, -1]] = image[:, [0, -1]]
  return _blend(smooth, image, factor)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Rotates the image counterclockwise around its center."""
  height, width = image.shape[:2]
  center = ((width - 1) / 2, (height - 1) / 2)
  return _warp(image, cv2.getRotationMatrix2D(center, -degrees, 1))


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
  """Moves row y to the left by `slope` * y pixels."""
  return _warp(image, [[1, slope, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
  """Moves column x up by `slope` * x pixels."""
  return _warp(image, [[1, 0, 0], [slope, 1, 0]])


def translate_x(image: np.ndarray, pixels: float) -> np.ndarray:
  """Translates the image to the left."""
  return _warp(image, [[1, 0, pixels], [0, 1, 0]])


def translate_y(image: np.ndarray, pixels: float) -> np.ndarray:
  """Translates the image up."""
  return _warp(image, [[1, 0, 0], [0, 1, pixels]])


def cutout(
  image: np.ndarray, half_side: int, center: tuple[int, int]
) -> np.ndarray:
  """Paints a gray square, clipped to the image.

  Args:
    image: uint8 [H, W, 3].
    half_side: pixels from the square's center to its edges.
    center: first row and column of the square's lower right quarter.
  """
  rows, columns = (slice(max(0, c - half_side), c + half_side) for c in center)
  out = image.copy()
  out[rows, columns] = _GRAY
  return out


def _check(image: np.ndarray, num_layers: int, magnitude: float) -> None:
  """Checks the arguments of `rand_augment`."""
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f"image must be uint8 [H, W, 3], got {image.dtype} {image.shape}"
    )
  if not image.size:
    raise ValueError(f"image has no pixel: shape {image.shape}")
  leaf = "data.rand_augment"
  check_leaf(f"{leaf}.num_layers", num_layers, num_layers >= 0, "0 or more")
  check_leaf(
    f"{leaf}.magnitude",
    magnitude,
    0 <= magnitude <= MAX_LEVEL,
    f"a number from 0 to {MAX_LEVEL}",
  )


def _histograms(image: np.ndarray) -> list[np.ndarray]:
  """Returns the histogram int64 [256] of each channel."""
  return [
    cv2.calcHist([image], [channel], None, [256], [0, 256])
    .ravel()
    .astype(np.int64)
    for channel in range(3)
  ]


def _equalize_table(counts: np.ndarray) -> np.ndarray:
  """Returns the look-up table [256] that equalizes a histogram."""
  lightest = np.flatnonzero(counts)[-1]
  step = (counts.sum() - counts[lightest]) // 255
  if step == 0:
    return _LEVELS
  darker = np.cumsum(counts) - counts
  return (darker + step // 2) // step


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
  """Looks values up in a table, [256] or [256, 3], converted to uint8."""
  return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])


def _blend(ground: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
  """Returns floor(ground + factor * (image - ground))."""
  return cv2.addWeighted(image, factor, ground, 1 - factor, _FLOOR_OFFSET)


def _warp(image: np.ndarray, matrix: ArrayLike) -> np.ndarray:
  """Warps an image; `matrix` [2, 3] maps output (x, y) to input positions."""
  return cv2.warpAffine(
    image,
    np.asarray(matrix) + _ROUND_UP,
    image.shape[1::-1],
    flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    borderValue=(_GRAY,) * 3,
  )


def _without_level(apply: Callable) -> Operation:
  """Makes an operation that ignores the level."""
  return lambda image, level, draw: apply(image)


def _integer(apply: Callable, maximum: int) -> Operation:
  """Makes an operation with an integer argument, `maximum` at level 10."""
  return lambda image, level, draw: apply(
    image, int(level / MAX_LEVEL * maximum)
  )


def _random_sign(apply: Callable, maximum: float) -> Operation:
  """Makes an operation whose argument has a random sign."""

  def operation(image, level, draw):
    amount = level / MAX_LEVEL * maximum
    return apply(image, amount if draw[0] < 0.5 else -amount)

  return operation


def _enhance(apply: Callable) -> Operation:
  """Makes an operation with a factor: 0.1 at level 0, 1.9 at level 10."""

  def operation(image, level, draw):
    factor = level / MAX_LEVEL * 1.8 + 0.1
    return image if factor == 1 else apply(image, factor)

  return operation


def _random_position(apply: Callable, maximum: int) -> Operation:
  """Makes an operation at a random pixel, of size `maximum` at level 10."""

  def operation(image, level, draw):
    height, width = image.shape[:2]
    center = (int(draw[0] * height), int(draw[1] * width))
    return apply(image, int(level / MAX_LEVEL * maximum), center)

  return operation


# The operations, as functions of an image, a level and two uniform random
# numbers in [0, 1). If the first is 0.5 or more, a random sign is negative. The
# two are a random position, as fractions of height and width.
OPERATIONS: dict[str, Operation] = {
  "AutoContrast": _without_level(auto_contrast),
  "Equalize": _without_level(equalize),
  "Invert": _without_level(invert),
  "Rotate": _random_sign(rotate, 30.0),
  "Posterize": _integer(posterize, 4),
  "Solarize": _integer(solarize, 256),
  "Color": _enhance(color),
  "Contrast": _enhance(contrast),
  "Brightness": _enhance(brightness),
  "Sharpness": _enhance(sharpness),
  "ShearX": _random_sign(shear_x, 0.3),
  "ShearY": _random_sign(shear_y, 0.3),
  "TranslateX": _random_sign(translate_x, 100.0),
  "TranslateY": _random_sign(translate_y, 100.0),
  "Cutout": _random_position(cutout, 40),
  "SolarizeAdd": _integer(solarize_add, 110),
}
