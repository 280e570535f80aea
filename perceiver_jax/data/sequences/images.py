"""Images as sequences of their values, in raster order.

Shapes: H, W, C height, width and channels.
"""

import numpy as np

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.data.images import resizing
from perceiver_jax.data.sequences.source import NUM_SPECIAL, SOS
from perceiver_jax.errors import UserError


def positions(shape: tuple[int, int, int]) -> np.ndarray:
  """Returns the column, row and channel of each token of an image, from 2.

  Args:
    shape: (H, W, C).

  Returns:
    int32 [1 + H * W * C, 3]; the first, of SOS, are 1.
  """
  rows, columns, channels = np.indices(shape)
  grid = np.stack([columns, rows, channels], -1).reshape(-1, 3)
  return np.concatenate([[[1, 1, 1]], grid + 2]).astype(np.int32)


class Images:
  """The values of each pixel, after SOS; nothing marks the end.

  Args:
    source: Images uint8.
    shape: (H, W, C); images of another size are resized by area, and gray is
      the mean of colors.
  """

  first_target = 1

  def __init__(self, source: Source, shape: tuple[int, int, int]):
    self._source = source
    self._shape = tuple(shape)
    self.in_memory = source.in_memory
    self._positions = positions(self._shape)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    image = self._source[index]["image"]
    if image.dtype != np.uint8:
      raise UserError(
        f"this source has images of {image.dtype}, whose values are no tokens;"
        " set config.data.source_args.images.source to one of uint8, such as"
        " image_folder, tfds or digit_pairs"
      )
    image = _fitted(image, self._shape)
    values = image.reshape(-1).astype(np.int32) + NUM_SPECIAL
    return {
      "tokens": np.append(np.int32(SOS), values),
      "positions": self._positions,
      "num_units": len(values),
    }

  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each image."""
    return np.full(len(self), len(self._positions), np.int64)


def _fitted(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  """Returns an image of the given size and number of channels."""
  if image.ndim == 2:
    image = image[..., None]
  height, width, channels = shape
  if image.shape[:2] != (height, width):
    image = resizing.fit(image, height, width).reshape(height, width, -1)
  if image.shape[-1] == channels:
    return image
  gray = image.mean(-1, keepdims=True).round().astype(np.uint8)
  return np.broadcast_to(gray, shape)
