"""Crops of a few real photos that ship with scikit-learn and scikit-image.

The task is to classify which photo a crop comes from, by its texture and
colors. It exercises a real input pipeline without a download; its accuracy says
nothing about ImageNet.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec, resizing
from perceiver_jax.errors import UserError

# Files by package and folder; their stems are the class names.
_FILES = {
  ("sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
  ("skimage", "data"): (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
  ),
}
_NAMES = tuple(Path(name).stem for names in _FILES.values() for name in names)
NUM_CLASSES = len(_NAMES)
_SPLITS = ("train", "test")


class PhotoCrops:
  """Random square crops of photos; example i is deterministic.

  Args:
    photos: uint8 [H, W, 3] of any sizes; the label is the index in this list.
    class_names: name of each photo.
    length: number of examples.
    size: rows and columns of an example.
    scale: largest factor between the side of a crop and `size`.
    seed: random seed.
  """

  in_memory = True

  def __init__(
    self,
    photos: Sequence[np.ndarray],
    class_names: Sequence[str],
    *,
    length: int,
    size: int,
    scale: float,
    seed: int,
  ):
    self._photos = list(photos)
    self._length, self._size, self._scale = length, size, scale
    self._seed = seed
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    index = range(self._length)[index]
    label = index % self.num_classes
    rng = np.random.default_rng((self._seed, index))
    crop = self._crop(self._photos[label], rng)
    return {
      "image": resizing.resize(crop, self._size, self._size),
      "label": np.int32(label),
    }

  def _crop(self, photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = photo.shape[:2]
    factor = self._scale ** rng.uniform(-1, 1)
    side = min(max(1, round(self._size * factor)), height, width)
    top = rng.integers(height - side + 1)
    left = rng.integers(width - side + 1)
    return photo[top : top + side, left : left + side]


def photos(
  split: str,
  size: int = 64,
  scale: float = 1.5,
  num_train: int = 4096,
  num_test: int = 1024,
) -> PhotoCrops:
  """Returns square crops of 17 photos, labeled with the photo they are from.

  Crops of "test" come from the right third of each photo and those of "train"
  from the rest, so no pixel is in both. All photos have the same number of
  examples, up to one. Example i is deterministic.

  Args:
    split: "train" or "test".
    size: rows and columns of an example, in pixels.
    scale: largest factor between the side of a crop and `size`; 1 keeps the
      photo's resolution.
    num_train: number of examples of "train".
    num_test: number of examples of "test".

  Returns:
    A source of image uint8 [size, size, 3] and label int32.

  Raises:
    UserError: there is no such split, a number is out of range, or
      scikit-image is not installed.
  """
  check_choice(split, _SPLITS, "split", "photos")
  if size < 1 or scale < 1:
    raise UserError(
      f"photos got size {size} and scale {scale}; give 1 or more of each"
    )
  return PhotoCrops(
    list(parts(split).values()),
    _NAMES,
    length=num_test if split == "test" else num_train,
    size=size,
    scale=scale,
    seed=_SPLITS.index(split),
  )


def parts(split: str) -> dict[str, np.ndarray]:
  """Returns the part of each photo that belongs to a split, by photo name.

  Returns:
    uint8 [H, W, 3] of several sizes.

  Raises:
    UserError: there is no such split, or scikit-image is not installed.
  """
  check_choice(split, _SPLITS, "split", "photos")
  return {path.stem: _part(codec.read_image(path), split) for path in _paths()}


def _paths() -> list[Path]:
  """Returns the paths of the photos."""
  return [
    _folder(package) / folder / name
    for (package, folder), names in _FILES.items()
    for name in names
  ]


def _folder(package: str) -> Path:
  # Importing the packages would take a second; only their files are needed.
  spec = importlib.util.find_spec(package)
  if spec is None:
    raise UserError(
      "the photos come with scikit-learn and scikit-image, and there is no"
      f" {package}; pip install scikit-learn scikit-image"
    )
  return Path(spec.submodule_search_locations[0])


def _part(photo: np.ndarray, split: str) -> np.ndarray:
  """Returns the right third of a photo for "test", the rest for "train"."""
  seam = photo.shape[1] - photo.shape[1] // 3
  return photo[:, seam:] if split == "test" else photo[:, :seam]
