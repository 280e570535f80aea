"""Textures of rendered layers: photos, noise, or a folder of images."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from perceiver_jax import files
from perceiver_jax.data.images import codec, photos, resizing
from perceiver_jax.errors import UserError

# Every tenth image of a folder is reserved for held-out pairs.
_HELD_OUT_STRIDE = 10
_OCTAVES = 6
_TRIES = 20
# The photo of the real pair that models are evaluated on.
_NOT_FOR_TRAINING = ("motorcycle_left",)


class Textures:
  """Random textures of any size.

  Args:
    split: "train" or "test", which share no pixel of a photo.
    directory: a folder of images, including subfolders; empty for the photos
      that ship with scikit-learn and scikit-image.
    noise_share: share of the textures that are procedural noise.
    scale: minimum and maximum scale from pixels of a photo to pixels of a
      frame, the same along both axes.
    detail: minimum mean difference between neighboring pixels, in levels of
      255. A part of a photo with less is drawn again, up to 20 times.

  Raises:
    UserError: the folder is missing or has too few images.
  """

  def __init__(
    self,
    split: str,
    directory: str | os.PathLike[str] = "",
    noise_share: float = 0.2,
    scale: tuple[float, float] = (0.5, 2.0),
    detail: float = 0.0,
  ):
    self._noise_share, self._scale = noise_share, scale
    self._detail = detail
    self._paths = _folder(directory, split) if directory else ()
    self._split = split

  def draw(
    self, rng: np.random.Generator, height: int, width: int
  ) -> np.ndarray:
    """Draws a texture; the colors of photos are changed.

    Returns:
      uint8 [height, width, 3].
    """
    if rng.random() < self._noise_share:
      return noise(rng, height, width)
    for _ in range(_TRIES):
      part = self._part(rng, height, width)
      if not self._detail or _detail(part) >= self._detail:
        break
    return _recolored(rng, part)

  def _part(
    self, rng: np.random.Generator, height: int, width: int
  ) -> np.ndarray:
    """Draws a resized part of a photo, extended by reflection if too small."""
    photo = self._photo(rng)
    scale = np.exp(rng.uniform(*np.log(self._scale)))
    # From fewer pixels of the photo, tiny layers would be a single color.
    rows, columns = (max(8, round(n / scale)) for n in (height, width))
    top = rng.integers(max(0, photo.shape[0] - rows) + 1)
    left = rng.integers(max(0, photo.shape[1] - columns) + 1)
    part = photo[top : top + rows, left : left + columns]
    missing = rows - part.shape[0], columns - part.shape[1]
    if any(missing):
      below, right = missing
      part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REFLECT)
    part = part[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    return resizing.resize(np.ascontiguousarray(part), height, width)

  def _photo(self, rng: np.random.Generator) -> np.ndarray:
    if self._paths:
      return codec.read_image(self._paths[rng.integers(len(self._paths))])
    installed = _photos(self._split)
    return installed[rng.integers(len(installed))]


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns colored noise of several octaves; finer ones are weaker.

  Returns:
    uint8 [height, width, 3].
  """
  total = np.zeros((height, width, 3), np.float32)
  for octave in range(_OCTAVES):
    cells = 2 ** (octave + 1)
    if cells > min(height, width):
      break
    grid = rng.normal(size=(cells, cells, 3)).astype(np.float32)
    weight = 60 * rng.uniform(0.3, 1) / (octave + 1) ** 0.5
    size = (width, height)
    total += weight * cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
  # Correlates the channels, so that not all noise is rainbow-colored.
  gray = total.mean(axis=2, keepdims=True)
  total = gray + rng.uniform(0, 1) * (total - gray) + rng.uniform(60, 196, 3)
  return total.clip(0, 255).astype(np.uint8)


def _detail(image: np.ndarray) -> float:
  """Returns the mean difference between neighboring pixels."""
  return float(cv2.absdiff(image[:, 1:], image[:, :-1]).mean())


def _recolored(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
  """Permutes the channels and scales each by a random gain."""
  gains, offsets = rng.uniform(0.6, 1.3, 3), rng.uniform(-20, 20, 3)
  matrix = np.diag(gains)[:, rng.permutation(3)]
  return cv2.transform(image, np.column_stack([matrix, offsets]))


@functools.cache
def _photos(split: str) -> Sequence[np.ndarray]:
  return [
    photo
    for name, photo in photos.parts(split).items()
    if name not in _NOT_FOR_TRAINING
  ]


def _folder(directory: str | os.PathLike[str], split: str) -> Sequence[Path]:
  root = files.local_folder(directory)
  if not root.is_dir():
    raise UserError(
      f"no directory {str(root)!r} of images for textures; change it or"
      " leave it empty to use photos that are installed"
    )
  paths = sorted(
    path for path in root.rglob("*") if path.suffix.lower() in codec.SUFFIXES
  )
  if len(paths) < 2:
    raise UserError(
      f"{str(root)!r} has {len(paths)} images; textures need two or more,"
      " since some are held out"
    )
  held_out = set(paths[::_HELD_OUT_STRIDE])
  return [path for path in paths if (path in held_out) == (split == "test")]
