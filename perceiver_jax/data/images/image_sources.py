"""Images on a disk: folders, and data sets TensorFlow Datasets has prepared."""

import os
import threading
from collections.abc import (
  Callable,
  Sequence,
)
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from perceiver_jax.data.core import tfds as tfds_sources
from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.data.images import images
from perceiver_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_EXPECTED = (
  f"expected DIRECTORY/SPLIT/CLASS/*{{{','.join(IMAGE_SUFFIXES)}}}; change the"
  " directory or the split"
)
# Unreadable images that a small data set may have, whatever their share.
_FEW = 10
# Unreadable images that are named.
_NAMED = 3


class ImageFolder:
  """Images in one folder a class, decoded when asked for.

  Args:
    paths: of the images.
    labels: of the images, positions in `class_names`.
    class_names: name of each label.
  """

  in_memory = False

  def __init__(
    self, paths: Sequence[str], labels: np.ndarray, class_names: Sequence[str]
  ):
    self.paths = tuple(paths)
    self.labels = np.asarray(labels, np.int32)
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> Example:
    return {
      "image": images.read_image(self.paths[index]),
      "label": self.labels[index],
    }


class Tfds:
  """The image and label of a TensorFlow Datasets random-access source.

  Args:
    data_source: of TensorFlow Datasets, with undecoded images.
    class_names: name of each label.
  """

  in_memory = False

  def __init__(self, data_source: Any, class_names: Sequence[str]):
    self._data_source = data_source
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  @property
  def info(self) -> Any:
    """The `DatasetInfo` of all of its splits."""
    return self._data_source.dataset_info

  def __len__(self) -> int:
    return len(self._data_source)

  def __getitem__(self, index: int) -> Example:
    name = f"example {index} of {self.info.name}"
    example = tfds_sources.fetch(self._data_source, index)
    if "file_name" in example:
      name = f"{example['file_name'].decode(errors='replace')!r} ({name})"
    return {
      "image": images.decode_image(example["image"], name=name),
      "label": np.int32(example["label"]),
    }


class Tolerant:
  """A source some of whose images cannot be read.

  An unreadable image is replaced by the next one that can be read, with its
  label, and the example says so: `unreadable` is float32 1, else 0. The first
  few are named in warnings. Every process counts for itself: a copy that is
  sent to a worker starts anew.

  Args:
    source: the examples; fetching an unreadable one raises a UserError.
    most: share of the images read that may be unreadable before it is an
      error, once there are more than ten.
    what: what an example is, for messages.
    count: how many of that there are, if examples are parts of them: example i
      is then of number i % count, which counts once.
  """

  def __init__(
    self,
    source: Source,
    most: float = 0.01,
    what: str = "image",
    count: int = 0,
  ):
    self.source = source
    self._what = what
    self.class_names = source.class_names
    self.num_classes = source.num_classes
    self.in_memory = source.in_memory
    self._most, self._count = most, count or len(source)
    self._lock = threading.Lock()
    self._num_read = 0
    self._unreadable: set[int] = set()
    self._reasons: list[str] = []  # Of the first few.

  def __reduce__(self) -> tuple[type, tuple[Source, float, str, int]]:
    return Tolerant, (self.source, self._most, self._what, self._count)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    """Returns the example, or the next one that can be read.

    Raises:
      UserError: too many, or all, cannot be read.
    """
    return self.first_readable(index, self.source.__getitem__)

  def first_readable(
    self, index: int, read: Callable[[int], Example]
  ) -> Example:
    """The same where examples are fetched in another way.

    Args:
      index: of the example.
      read: from an index to an example; raises UserError for a bad one.
    """
    position = index
    for _ in range(len(self)):
      example = self._read(position, read)
      if example is not None:
        return {**example, "unreadable": np.float32(position != index)}
      position = (position + 1) % len(self)
    raise self._too_many()

  def _read(self, index: int, read: Callable[[int], Example]) -> Example | None:
    """The example, or None if it can't be read."""
    try:
      example = read(index)
    except UserError as error:
      self._note(index % self._count, str(error))
      return None
    with self._lock:
      self._num_read += 1
    return example

  def _note(self, number: int, reason: str) -> None:
    """Notes an unreadable image; raises UserError if there are too many."""
    with self._lock:
      self._num_read += 1
      # Each counts once, however often it comes: epochs change no share.
      if number not in self._unreadable and len(self._reasons) < _NAMED:
        self._reasons.append(reason)
        logging.warning("%s; the next %s takes its place", reason, self._what)
      self._unreadable.add(number)
      different = min(self._num_read, self._count)
      if len(self._unreadable) > max(_FEW, self._most * different):
        raise self._too_many()

  def _too_many(self) -> UserError:
    return UserError(
      f"{len(self._unreadable)} {self._what}s cannot be read after"
      f" {self._num_read} were tried, which is too many to leave out: "
      + "; ".join(self._reasons)
    )


def image_folder(directory: str | os.PathLike[str], split: str) -> Tolerant:
  """Images laid out as `directory/split/CLASS/*.jpg`.

  A class is any folder that holds an image in any split, so labels mean the
  same in all splits even where one of them lacks a class. Names that start
  with a dot are ignored.

  Args:
    directory: holds one folder a split.
    split: the folder to use, "train" for example.

  Returns:
    A source of image uint8 [H, W, 3] of each file's own size, label int32 and
    `unreadable` of `Tolerant`; classes and files in the order of their names.

  Raises:
    UserError: the directory or the split is missing, or has no image.
  """
  splits = folder_splits(directory)
  root = Path(directory).expanduser()
  if split not in splits:
    found = ", ".join(splits) or "no folder"
    raise UserError(
      f"no split {split!r} in {str(root)!r} (found: {found}); {_EXPECTED}"
    )
  class_names = _class_names(root)
  paths, labels = [], []
  for label, name in enumerate(class_names):
    files = sorted(_image_files(root / split / name))
    paths.extend(files)
    labels.extend([label] * len(files))
  if not paths:
    raise UserError(
      f"empty dataset: no image in {str(root / split)!r}; {_EXPECTED}"
    )
  return Tolerant(ImageFolder(paths, np.array(labels), class_names))


def folder_splits(directory: str | os.PathLike[str]) -> list[str]:
  """Names of the splits of an image folder, sorted.

  Args:
    directory: holds one folder a split.

  Raises:
    UserError: there is no such directory.
  """
  # A config leaf nobody filled in; Path would make "" the current directory.
  if not directory:
    raise UserError(
      "no directory is given; set"
      f" config.data.source_args.image_folder.directory, {_EXPECTED}"
    )
  root = Path(directory).expanduser()
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {_EXPECTED}")
  return _subfolders(root)


def tfds(name: str, split: str, data_dir: str = "") -> Tolerant:
  """A data set that TensorFlow Datasets has already prepared on disk.

  Nothing is downloaded, and TensorFlow is not imported.

  Args:
    name: a TFDS name, with config and version if wanted: "imagenet2012".
    split: a TFDS split, slices allowed: "train[10000:]".
    data_dir: where it was prepared; empty for TFDS's own default.

  Returns:
    A source of image uint8 [H, W, 3], label int32 and `unreadable` of
    `Tolerant`.

  Raises:
    UserError: it is unknown, not prepared in the array_record format, lacks
      the split, or has no image and label.
  """
  import tensorflow_datasets

  # Its own decoder dies of a damaged image and does not say which.
  decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
  data_source = tfds_sources.open_prepared(name, split, data_dir, decoders)
  return Tolerant(_tfds_images(data_source, name, split))


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
