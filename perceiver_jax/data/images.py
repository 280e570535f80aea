"""Images as numpy arrays: read, resize, crop, scale and encode.

Shapes: H height, W width, C channels (1 grey, 3 RGB). Pixels are uint8 in
0..255 until `to_float` brings them to what a model takes.
"""

import os
import re

import cv2
import numpy as np

from perceiver_jax.errors import UserError

# Grain already runs one decoder per thread; a second pool inside OpenCV would
# only fight with it for the same cores.
cv2.setNumThreads(0)
# A file that cannot be decoded is reported once, by the UserError below.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_ORIENTED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
_JPEG_MAGIC = b"\xff\xd8"
# Mean level of the outermost pixels above which a picture has a light ground.
_BRIGHT = 127.5


def read_image(path: str | os.PathLike[str], channels: int = 3) -> np.ndarray:
  """Reads an image file.

  The EXIF orientation is applied, except to images with transparency, where
  OpenCV ignores it. Transparent pixels are composited on white and 16-bit
  images are scaled to 8 bits.

  Args:
    path: any file OpenCV decodes: JPEG, PNG, WebP, BMP and others.
    channels: 1 (grey) or 3 (RGB).

  Returns:
    uint8 [H, W, channels], channels in RGB order.

  Raises:
    UserError: the file is missing, empty, a directory or not an image.
  """
  image = _decode(_read_bytes(path))
  if image is None:
    raise UserError(
      f"{str(path)!r} cannot be read as an image: it is damaged, incomplete "
      "or of another type; replace or remove it"
    )
  image = _to_uint8(image, path)
  if image.ndim == 3:
    code = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}[image.shape[2]]
    image = cv2.cvtColor(image, code)
  return to_channels(image, channels)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
  """Converts between grey, RGB and RGBA.

  Args:
    image: uint8 [H, W] or [H, W, 1 | 3 | 4]; four channels are RGBA and are
      composited on white.
    channels: 1 (grey, by luma) or 3 (RGB).

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: `image` or `channels` is of another kind.
  """
  if channels not in (1, 3):
    raise ValueError(f"channels must be 1 or 3, got {channels}")
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
    raise ValueError(f"not a grey, RGB or RGBA image: shape {image.shape}")
  if image.shape[2] == 4:
    image = _composite_on_white(image)
  if image.shape[2] == channels:
    return image
  if channels == 3:
    return np.repeat(image, 3, axis=2)
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes: averages areas on the way down, bicubic on the way up.

  Args:
    image: uint8 or float32 [H, W, C].
    height: rows wanted.
    width: columns wanted.

  Returns:
    [height, width, C] of the same type; uint8 values saturate at 0 and 255.
  """
  rows, columns = image.shape[:2]
  # Area averaging is undefined on an axis that grows, and bicubic aliases on
  # one that shrinks, so each axis goes down first and up afterwards.
  small = (min(height, rows), min(width, columns))
  out = _cv2_resize(image, *small, cv2.INTER_AREA)
  return _cv2_resize(out, height, width, cv2.INTER_CUBIC)


def centre_crop_resize(
  image: np.ndarray, size: int, crop_fraction: float = 0.875
) -> np.ndarray:
  """Cuts the central square out and resizes it.

  Args:
    image: [H, W, C].
    size: rows and columns wanted.
    crop_fraction: side of the square over the short side of the image, in
      (0, 1].

  Returns:
    [size, size, C].

  Raises:
    ValueError: `crop_fraction` is out of range.
  """
  if not 0 < crop_fraction <= 1:
    raise ValueError(f"crop_fraction must be in (0, 1], got {crop_fraction}")
  side = max(1, round(min(image.shape[:2]) * crop_fraction))
  return resize(_centre_crop(image, side, side), size, size)


def to_float(
  image: np.ndarray,
  mean: np.ndarray | None = None,
  std: np.ndarray | None = None,
) -> np.ndarray:
  """Scales pixels for a model.

  Args:
    image: uint8 [..., C].
    mean: per channel [C], in units where white is 1; with `std`.
    std: per channel [C], same units.

  Returns:
    float32 [..., C]: in [-1, 1], or (image / 255 - mean) / std when given.

  Raises:
    ValueError: `image` is not uint8, or only one of `mean`, `std` is given.
  """
  if image.dtype != np.uint8:
    raise ValueError(f"pixels must be uint8, got {image.dtype}")
  if (mean is None) != (std is None):
    raise ValueError("mean and std go together")
  if mean is None:
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)
  unit = image.astype(np.float32) / np.float32(255)
  return (unit - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


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


def prepare_image(
  image: np.ndarray, shape: tuple[int, int, int], *, invert: bool = False
) -> np.ndarray:
  """Brings any picture to a model's input.

  The largest central part with the model's aspect ratio is kept (a square of
  the short side when the model's input is square) and resized.

  Args:
    image: uint8 [H, W] or [H, W, 1 | 3 | 4].
    shape: (height, width, channels) of the model's input.
    invert: swaps black and white, for a model of light ink on a dark ground.

  Returns:
    float32 `shape` in [-1, 1].
  """
  height, width, channels = shape
  image = to_channels(image, channels)
  scale = min(image.shape[0] / height, image.shape[1] / width)
  crop = (max(1, round(height * scale)), max(1, round(width * scale)))
  pixels = to_float(resize(_centre_crop(image, *crop), height, width))
  return -pixels if invert else pixels


def random_affine(
  image: np.ndarray,
  rng: np.random.Generator,
  *,
  degrees: float = 0.0,
  scale: float = 0.0,
  shift: float = 0.0,
) -> np.ndarray:
  """Turns, scales and moves a picture; its edges fill what comes into view.

  Args:
    image: float32 [H, W, C].
    rng: draws each of the changes evenly between its bounds.
    degrees: the most it is turned, either way.
    scale: the most its size changes: 0.1 is from 0.9 to 1.1 times.
    shift: the most it is moved along each axis, in pixels.

  Returns:
    float32 [H, W, C].
  """
  angle, size, x, y = rng.uniform(-1, 1, 4) * (degrees, scale, shift, shift)
  height, width = image.shape[:2]
  centre = ((width - 1) / 2, (height - 1) / 2)
  matrix = cv2.getRotationMatrix2D(centre, angle, 1 + size)
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
  """Whether the outermost pixels are light: dark ink on paper, for example.

  Args:
    image: uint8 [H, W] or [H, W, 1 | 3 | 4].
  """
  grey = to_channels(image, 1)[..., 0]
  edges = [grey[0], grey[-1], grey[:, 0], grey[:, -1]]
  return bool(np.mean(np.concatenate(edges)) > _BRIGHT)


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
  """Reads a file that must hold something; raises UserError otherwise."""
  try:
    with open(path, "rb") as file:
      data = file.read()
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


def _decode(data: bytes) -> np.ndarray | None:
  """Decodes to grey, BGR or BGRA of the stored depth; None if undecodable."""
  buffer = np.frombuffer(data, np.uint8)
  try:
    if data.startswith(_JPEG_MAGIC):
      return cv2.imdecode(buffer, _ORIENTED)
    image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    if image is None or (image.ndim == 3 and image.shape[2] == 4):
      return image
    # OpenCV turns the picture upright only in the mode that drops alpha.
    turned = re.search(b"exif", data, re.IGNORECASE)
    return cv2.imdecode(buffer, _ORIENTED) if turned else image
  except cv2.error:
    return None


def _to_uint8(image: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
  """Scales 16-bit pixels to 8 bits; raises UserError for other depths."""
  if image.dtype == np.uint8:
    return image
  if image.dtype == np.uint16:
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
  raise UserError(
    f"the image {str(path)!r} has {image.dtype} pixels; only 8 and 16 bits "
    "per channel are read: convert it to PNG or JPEG"
  )


def _composite_on_white(image: np.ndarray) -> np.ndarray:
  """Composites uint8 RGBA [H, W, 4] on white; uint8 [H, W, 3]."""
  colour, alpha = np.split(image.astype(np.uint32), [3], axis=2)
  blend = colour * alpha + 255 * (255 - alpha)
  return ((blend + 127) // 255).astype(np.uint8)


def _centre_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Cuts the central [height, width] out, or less where there is less."""
  top = max(0, (image.shape[0] - height) // 2)
  left = max(0, (image.shape[1] - width) // 2)
  return image[top : top + height, left : left + width]


def _cv2_resize(
  image: np.ndarray, height: int, width: int, interpolation: int
) -> np.ndarray:
  """Resizes with OpenCV, which drops a channel axis of length one."""
  if image.shape[:2] == (height, width):
    return image
  out = cv2.resize(image, (width, height), interpolation=interpolation)
  return out.reshape(height, width, image.shape[2])
