"""Resizing of images, by area averages or TensorFlow's bicubic kernel.

Shapes: H height, W width, C channels.
"""

import functools

import cv2
import numpy as np
from scipy import sparse

from perceiver_jax.errors import UserError


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes an image: area averages to shrink, bicubic to enlarge.

  Args:
    image: uint8 or float32 [H, W, C].
    height: number of rows.
    width: number of columns.

  Returns:
    [height, width, C] of the same type; uint8 values saturate at 0 and 255.
  """
  rows, columns = image.shape[:2]
  # Area averages cannot enlarge, and bicubic interpolation aliases when it
  # shrinks. So axes that shrink come first, and axes that grow second.
  small = (min(height, rows), min(width, columns))
  out = _cv2_resize(image, *small, cv2.INTER_AREA)
  return _cv2_resize(out, height, width, cv2.INTER_CUBIC)


def fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes the largest central crop with the aspect ratio of the output.

  Args:
    image: uint8 [H, W, C].
    height: number of rows.
    width: number of columns.

  Returns:
    uint8 [height, width, C].
  """
  rows, columns = image.shape[:2]
  scale = min(rows / height, columns / width)
  rows_kept = max(1, round(height * scale))
  columns_kept = max(1, round(width * scale))
  top, left = (rows - rows_kept) // 2, (columns - columns_kept) // 2
  part = image[top : top + rows_kept, left : left + columns_kept]
  return resize(np.ascontiguousarray(part), height, width)


def cubic_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes with the cubic convolution kernel of Keys (1981), a = -0.5.

  Equals `tf.image.resize` with "bicubic" and no antialiasing: positions are
  pixel centers, each output pixel is a weighted sum of the 4 x 4 nearest, and
  pixels outside the image have no weight.

  Args:
    image: uint8 or float32 [H, W, C].
    height: number of rows.
    width: number of columns.

  Returns:
    float32 [height, width, C]; values may exceed the range of the image.
  """
  rows, columns, channels = image.shape
  # With an axis in front, resizing it is one product with a sparse matrix.
  out = cv2.transpose(image).reshape(columns, -1)
  out = _cubic_weights(columns, width) @ out
  out = cv2.transpose(out.reshape(width, rows, channels)).reshape(rows, -1)
  out = _cubic_weights(rows, height) @ out
  return out.reshape(height, width, channels)


def resize_by(
  image: np.ndarray, height: int, width: int, method: str
) -> np.ndarray:
  """Resizes an image by one of `RESIZES`.

  Args:
    image: uint8 [H, W, C].
    height: number of rows.
    width: number of columns.
    method: "area" (`resize`) or "cubic" (`cubic_resize`).

  Returns:
    [height, width, C], of the type that the method returns.

  Raises:
    UserError: there is no such method.
  """
  if method not in RESIZES:
    raise UserError(f"resize is {method!r}; give {' or '.join(RESIZES)}")
  return RESIZES[method](image, height, width)


RESIZES = {"area": resize, "cubic": cubic_resize}


@functools.lru_cache(maxsize=1024)
def _cubic_weights(size: int, new_size: int) -> sparse.csr_array:
  """Returns interpolation weights [new_size, size] along an axis."""
  center = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
  taps = np.floor(center)[:, None] + np.arange(-1, 3)
  weights = _keys_kernel(np.abs(center[:, None] - taps))
  weights[(taps < 0) | (taps >= size)] = 0
  weights /= weights.sum(axis=1, keepdims=True)
  columns = taps.clip(0, size - 1).astype(np.int32)
  ends = np.arange(0, weights.size + 1, 4, dtype=np.int32)
  return sparse.csr_array(
    (weights.astype(np.float32).ravel(), columns.ravel(), ends),
    shape=(new_size, size),
  )


def _keys_kernel(distance: np.ndarray) -> np.ndarray:
  """Evaluates Keys' kernel, a = -0.5, at distances of 0 to 2 pixels."""
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  return np.where(distance <= 1, near, far)


def _cv2_resize(
  image: np.ndarray, height: int, width: int, interpolation: int
) -> np.ndarray:
  """Resizes with OpenCV, which drops a channel axis of length one."""
  if image.shape[:2] == (height, width):
    return image
  out = cv2.resize(image, (width, height), interpolation=interpolation)
  return out.reshape(height, width, image.shape[2])
