"""Sources: labelled examples that can be fetched in any order.

A source has a length and returns example i as a dict of numpy arrays, here
`image` [H, W, C] and `label` (int32 scalar, a position in `class_names`).
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from perceiver_jax.data import images
from perceiver_jax.errors import UserError

Example = dict[str, np.ndarray]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Every fifth digit of each class is held out: 360 of 1,797.
_DIGITS_TEST_STRIDE = 5


class Source(Protocol):
  """What a pipeline needs of a data set.

  Attributes:
    class_names: name of each label.
    num_classes: their number.
    in_memory: whether fetching an example costs no reading or decoding.
  """

  class_names: tuple[str, ...]
  num_classes: int
  in_memory: bool

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


class InMemory:
  """Examples held as arrays whose first axis counts examples."""

  in_memory = True

  def __init__(
    self, arrays: Mapping[str, np.ndarray], class_names: Sequence[str]
  ):
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
      raise ValueError(f"arrays differ in length: {lengths}")
    if not any(lengths.values()):
      raise UserError("empty dataset: the arrays hold no example")
    self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
    self._length = next(iter(lengths.values()))
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    # Copies, so that a transform working in place leaves the data as it is.
    return {name: np.array(a[index]) for name, a in self._arrays.items()}


class ImageFolder:
  """Images in one folder a class, decoded when asked for."""

  in_memory = False

  def __init__(
    self, paths: Sequence[str], labels: np.ndarray, class_names: Sequence[str]
  ):
    self._paths = list(paths)
    self._labels = np.asarray(labels, np.int32)
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> Example:
    return {
      "image": images.read_image(self._paths[index]),
      "label": self._labels[index],
    }


class Tfds:
  """The image and label of a TensorFlow Datasets random-access source."""

  in_memory = False

  def __init__(self, data_source: Any, class_names: Sequence[str]):
    self._data_source = data_source
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self._data_source)

  def __getitem__(self, index: int) -> Example:
    example = self._data_source[index]
    return {"image": example["image"], "label": np.int32(example["label"])}


def in_memory(
  arrays: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> InMemory:
  """Makes a source of arrays already in memory.

  Args:
    arrays: name to array [N, ...], all of the same length N.
    class_names: name of each label.

  Raises:
    UserError: there is no example.
    ValueError: the arrays differ in length.
  """
  return InMemory(arrays, class_names)


def digits(split: str) -> InMemory:
  """Handwritten digits that ship with scikit-learn: 1,797 images of 8 x 8.

  The held-out part is fixed: every fifth image of each class.

  Args:
    split: "train" (1,437 examples) or "test" (360).

  Returns:
    A source of image float32 [8, 8, 1] in [-1, 1], light ink on a dark
    ground, and label int32.

  Raises:
    UserError: there is no such split.
  """
  _check_choice(split, ("train", "test"), "split", "digits")
  # Imported here: scikit-learn takes a second that other sources need not pay.
  from sklearn import datasets

  data = datasets.load_digits()
  # Sorted by class first, so that the stride takes a fifth of every class.
  by_class = np.argsort(data.target, kind="stable")
  held_out = np.zeros(len(by_class), bool)
  held_out[by_class[::_DIGITS_TEST_STRIDE]] = True
  chosen = held_out if split == "test" else ~held_out
  pixels = data.images[chosen].astype(np.float32) / np.float32(8)
  arrays = {
    "image": pixels[..., None] - np.float32(1),
    "label": data.target[chosen].astype(np.int32),
  }
  return InMemory(arrays, [str(name) for name in data.target_names])


def image_folder(directory: str | os.PathLike[str], split: str) -> ImageFolder:
  """Images laid out as `directory/split/CLASS/*.jpg`.

  A class is any folder that holds an image in any split, so labels mean the
  same in all splits even where one of them lacks a class. Names that start
  with a dot are ignored.

  Args:
    directory: holds one folder a split.
    split: the folder to use, "train" for example.

  Returns:
    A source of image uint8 [H, W, 3] of each file's own size and label int32;
    classes and files in the order of their names. An image that cannot be
    read raises a UserError that names it.

  Raises:
    UserError: the directory or the split is missing, or has no image.
  """
  expected = (
    f"expected DIRECTORY/SPLIT/CLASS/*{{{','.join(IMAGE_SUFFIXES)}}}; change "
    "the directory or the split"
  )
  # A config leaf nobody filled in; Path would make "" the current directory.
  if not directory:
    raise UserError(f"no directory is given; {expected}")
  root = Path(directory).expanduser()
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {expected}")
  splits = _subfolders(root)
  if split not in splits:
    found = ", ".join(splits) or "no folder"
    raise UserError(
      f"no split {split!r} in {str(root)!r} (found: {found}); {expected}"
    )
  class_names = _class_names(root)
  paths, labels = [], []
  for label, name in enumerate(class_names):
    files = sorted(_image_files(root / split / name))
    paths.extend(files)
    labels.extend([label] * len(files))
  if not paths:
    raise UserError(
      f"empty dataset: no image in {str(root / split)!r}; {expected}"
    )
  return ImageFolder(paths, np.array(labels, np.int32), class_names)


def tfds(name: str, split: str, data_dir: str = "") -> Tfds:
  """A data set that TensorFlow Datasets has already prepared on disk.

  Nothing is downloaded, and TensorFlow is not imported.

  Args:
    name: a TFDS name, with config and version if wanted: "imagenet2012".
    split: a TFDS split, slices allowed: "train[10000:]".
    data_dir: where it was prepared; empty for TFDS's own default.

  Returns:
    A source of image uint8 [H, W, C] and label int32.

  Raises:
    UserError: it is unknown, not prepared in the array_record format, lacks
      the split, or has no image and label.
  """
  import tensorflow_datasets

  where = data_dir or "the default TFDS directory"
  try:
    data_source = tensorflow_datasets.data_source(
      name, split=split, data_dir=data_dir or None, download=False
    )
  except tensorflow_datasets.core.DatasetNotFoundError as error:
    raise UserError(
      f"TensorFlow Datasets has no {name!r} in {where}; check the name and "
      "data_dir"
    ) from error
  # TFDS says "not prepared" in four ways, by what it finds on the disk.
  except (NotImplementedError, AssertionError, KeyError, OSError) as error:
    raise UserError(
      f"{name!r} split {split!r} is not prepared in {where}: prepare it once "
      "where TensorFlow is installed, with tfds.builder(name, data_dir="
      "data_dir, file_format='array_record').download_and_prepare(), or "
      "change data_dir"
    ) from error
  except ValueError as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(
      f"{name!r} split {split!r} cannot be opened in {where}: {reason}"
    ) from error
  return _tfds_images(data_source, name, split)


# Named as in a config; `in_memory` takes arrays, which no config can hold.
SOURCES: dict[str, Callable[..., Source]] = {
  "digits": digits,
  "image_folder": image_folder,
  "tfds": tfds,
}


def make_source(name: str, /, **kwargs: Any) -> Source:
  """Makes the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: its arguments, one of which may be called `name` too.

  Raises:
    UserError: the name or an argument is unknown, or the data is missing.
  """
  _check_choice(name, tuple(SOURCES), "source", "the data")
  try:
    inspect.signature(SOURCES[name]).bind(**kwargs)
  except TypeError as error:
    takes = ", ".join(inspect.signature(SOURCES[name]).parameters)
    raise UserError(
      f"source {name!r} got wrong arguments ({error}); it takes: {takes}"
    ) from error
  source = SOURCES[name](**kwargs)
  if not len(source):
    raise UserError(f"empty dataset: source {name!r} with {kwargs} is empty")
  return source


def _check_choice(
  given: str, allowed: tuple[str, ...], what: str, owner: str
) -> None:
  """Raises UserError with the choices unless `given` is one of them."""
  if given not in allowed:
    raise UserError(
      f"unknown {what} {given!r} for {owner}; choose one of: "
      + ", ".join(allowed)
    )


def _subfolders(directory: Path) -> list[str]:
  """Names of the visible folders in a directory, sorted."""
  with os.scandir(directory) as entries:
    names = [e.name for e in entries if e.is_dir()]
  return sorted(name for name in names if not name.startswith("."))


def _image_files(directory: Path) -> list[str]:
  """Paths of the visible image files in a directory, if it exists."""
  if not directory.is_dir():
    return []
  with os.scandir(directory) as entries:
    return [e.path for e in entries if _is_image(e)]


def _is_image(entry: os.DirEntry[str]) -> bool:
  """Whether a directory entry is a visible file with an image's suffix."""
  suffix = os.path.splitext(entry.name)[1].lower()
  visible = not entry.name.startswith(".")
  return visible and suffix in IMAGE_SUFFIXES and entry.is_file()


def _class_names(root: Path) -> list[str]:
  """Sorted names of the folders that hold an image in any split."""
  names = set()
  for split in _subfolders(root):
    for name in _subfolders(root / split):
      with os.scandir(root / split / name) as entries:
        if any(_is_image(entry) for entry in entries):
          names.add(name)
  return sorted(names)


def _tfds_images(data_source: Any, name: str, split: str) -> Tfds:
  """Checks that a TFDS source has what image classification needs."""
  # A FeaturesDict is no Mapping: it has `items` but no `get`.
  features = dict(data_source.dataset_info.features.items())
  names = getattr(features.get("label"), "names", None)
  if "image" not in features or names is None:
    raise UserError(
      f"{name!r} has features {', '.join(sorted(features))}; image and label "
      "are needed: choose a TFDS image classification data set"
    )
  if not len(data_source):
    raise UserError(f"empty dataset: {name!r} split {split!r} has no example")
  return Tfds(data_source, names)
