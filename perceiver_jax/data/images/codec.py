"""Reads, decodes and encodes image files.

Shapes: H height, W width; channels are 1 (gray), 3 (RGB) or 4 (RGBA).
"""

import os
import re

import cv2
import numpy as np

from perceiver_jax import files, limits
from perceiver_jax.errors import UserError

# Grain already decodes in several threads; those of OpenCV would compete with
# them for the same cores.
cv2.setNumThreads(0)
# Files that cannot be decoded are reported by the UserError below.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Names of the files that are taken for images in folders; the type of an image
# follows from its bytes.
SUFFIXES = (
  ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm",
  ".pgm",
)  # fmt: skip
_ORIENTED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
_JPEG_MAGIC = b"\xff\xd8"


class TooManyPixelsError(Exception):
  """An image is larger than allowed; the message says how to read it."""

  def __init__(self):
    super().__init__(
      f"has more than {limits.MAX_PIXELS:,} pixels; the environment variable"
      f" {limits.PIXELS_VARIABLE} sets this limit"
    )


def read_image(path: str | os.PathLike[str], channels: int = 3) -> np.ndarray:
  """Reads an image file; see `decode_image`.

  Args:
    path: a file that OpenCV decodes: JPEG, PNG, WebP, BMP and others.
    channels: 1 (gray) or 3 (RGB).

  Returns:
    uint8 [H, W, channels], channels in RGB order.

  Raises:
    UserError: the file is missing, empty, a directory or not an image.
  """
  return decode_image(_read_bytes(path), channels, repr(str(path)))


def decode_image(
  data: bytes, channels: int = 3, name: str = "the image"
) -> np.ndarray:
  """Decodes an encoded image; the type follows from its bytes.

  The EXIF orientation is applied, except to images with transparency, where
  OpenCV ignores it. Transparent pixels are composited on white, 16-bit images
  are scaled to 8 bits, and CMYK JPEGs are assumed to be inverted, as Adobe
  writes them.

  Args:
    data: the bytes of the file.
    channels: 1 (gray) or 3 (RGB).
    name: name of the image in errors.

  Returns:
    uint8 [H, W, channels], channels in RGB order.

  Raises:
    UserError: the bytes are not a complete image, or it has more pixels than
      `limits.MAX_PIXELS`.
  """
  try:
    image = _decode(data)
  except TooManyPixelsError as error:
    raise UserError(f"{name} {error}; replace or remove it") from error
  if image is None:
    raise UserError(
      f"{name} cannot be read as an image: it is damaged, incomplete or of"
      " another type; replace or remove it"
    )
  return to_channels(_to_uint8(image, name), channels)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Converts between gray, RGB and RGBA.

  Args:
    image: uint8 [H, W] or [H, W, 1 | 3 | 4]; four channels are RGBA and are
      composited on white.
    channels: 1 (gray, by luma) or 3 (RGB).

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: `image` has another shape, or `channels` is neither.
  """
  if channels not in (1, 3):
    raise ValueError(f"channels must be 1 or 3, got {channels}")
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
    raise ValueError(f"not a gray, RGB or RGBA image: shape {image.shape}")
  if image.shape[2] == 4:
    image = _composite_on_white(image)
  if image.shape[2] == channels:
    return image
  if channels == 3:
    return np.repeat(image, 3, axis=2)
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def encode_png(image: np.ndarray) -> bytes:
  """Encodes uint8 [H, W], [H, W, 1], RGB or RGBA pixels as a PNG file.

  Raises:
    ValueError: `image` is not uint8.
  """
  if image.dtype != np.uint8:
    raise ValueError(f"pixels must be uint8, got {image.dtype}")
  if image.ndim == 3 and image.shape[2] in (3, 4):
    code = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[image.shape[2]]
    image = cv2.cvtColor(image, code)
  return cv2.imencode(".png", image)[1].tobytes()


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
  """Reads a file; raises UserError if it is empty or cannot be read."""
  try:
    data = files.read_bytes(path)
  except OSError as error:
    reason = error.strerror or type(error).__name__
    raise UserError(
      f"cannot read the image {str(path)!r}: {reason.lower()}; give the path "
      "of an image file"
    ) from error
  if not data:
    raise UserError(
      f"the image {str(path)!r} is empty (0 bytes); replace or remove it"
    )
  return data


def imdecode(data: bytes, flags: int) -> np.ndarray | None:
  """Decodes with `cv2.imdecode`; returns None if the data is damaged.

  Raises:
    TooManyPixelsError: the header tells more pixels than are allowed.
  """
  try:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error as error:
    if "MAX_IMAGE" in str(error):
      raise TooManyPixelsError from error
    return None


def _decode(data: bytes) -> np.ndarray | None:
  """Decodes to gray, RGB or RGBA of the stored depth; None if undecodable."""
  if data.startswith(_JPEG_MAGIC):
    # Most images are JPEGs; decoding them to RGB at once saves a copy.
    return imdecode(data, cv2.IMREAD_COLOR_RGB)
  image = imdecode(data, cv2.IMREAD_UNCHANGED)
  if image is None:
    return None
  # OpenCV applies the orientation only in modes that drop alpha.
  if image.shape[2:] != (4,) and re.search(b"exif", data, re.IGNORECASE):
    image = imdecode(data, _ORIENTED)
  if image is None or image.ndim == 2:
    return image
  code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[image.shape[2]]
  return cv2.cvtColor(image, code)


def _to_uint8(image: np.ndarray, name: str) -> np.ndarray:
  """Scales 16-bit pixels to 8 bits; raises UserError for other depths."""
  if image.dtype == np.uint8:
    return image
  if image.dtype == np.uint16:
    small = np.empty(image.shape, np.uint8)
    # By rows, because a large image would take a gigabyte in 32 bits; so below.
    for row, small_row in zip(image, small, strict=True):
      small_row[...] = (row.astype(np.uint32) + 128) // 257
    return small
  raise UserError(
    f"{name} has {image.dtype} pixels; only 8 and 16 bits per channel are"
    " read: convert it to PNG or JPEG"
  )


def _composite_on_white(image: np.ndarray) -> np.ndarray:
  """Composites uint8 RGBA [H, W, 4] on white; uint8 [H, W, 3]."""
  composite = np.empty((*image.shape[:2], 3), np.uint8)
  for row, composite_row in zip(image, composite, strict=True):
    color, alpha = np.split(row.astype(np.uint32), [3], axis=1)
    blend = color * alpha + 255 * (255 - alpha)
    composite_row[...] = (blend + 127) // 255
  return composite
