"""Images in folders: DIRECTORY/SPLIT/CLASS/*.jpg, or without splits."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from perceiver_jax import files
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

# The split of a directory that holds the folders of the classes themselves.
ALL = "all"
_EXPECTED = (
  f"expected DIRECTORY/CLASS/*{{{','.join(codec.SUFFIXES)}}}, or"
  " DIRECTORY/SPLIT/CLASS/* with splits such as train and test; change the"
  " directory or the split"
)


class ImageFolder:
  """Images in one folder per class, decoded when fetched.

  Args:
    paths: path of each image.
    labels: label of each image, an index of `class_names`.
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
      "image": codec.read_image(self.paths[index]),
      "label": self.labels[index],
    }


def image_folder(
  directory: str | os.PathLike[str], split: str
) -> SkipUnreadable:
  """Returns images laid out as `directory/split/CLASS/*.jpg`.

  The images of `directory/CLASS/*.jpg` are the split "all". A class is any
  folder that holds an image in any split, so that labels are the same in all
  splits even if one of them lacks a class. Names that start with a dot are
  ignored. Warnings tell of folders whose files have other suffixes only, and of
  images that are not in the folder of a class itself.

  Args:
    directory: contains one folder per split, or one per class.
    split: name of the folder, such as "train", or "all"; or a slice of one, see
      `data.core.splits`.

  Returns:
    A source of `image` uint8 [H, W, 3] of any size, `label` int32 and
    `unreadable` of `SkipUnreadable`; classes and files are sorted by name.

  Raises:
    UserError: the directory or the split is missing, or has no image in the
      folder of a class.
  """
  folders = _split_folders(directory)
  selected = splits.Split(split, "", "")
  if split not in folders:
    selected = splits.parse(split)
  if selected.name not in folders:
    raise UserError(
      f"no split {selected.name!r} in {str(directory)!r} (found:"
      f" {', '.join(folders) or 'no folder'}); {_EXPECTED}"
    )
  class_names = sorted(set(_classes(folders)))
  folder = folders[selected.name]
  _warn_of_other_files(folder)
  _warn_of_misplaced_images(folder)
  paths, labels = [], []
  for label, name in enumerate(class_names):
    files = sorted(_image_files(folder / name))
    paths.extend(files)
    labels.extend([label] * len(files))
  if not paths:
    raise UserError(
      f"empty dataset: no image in {str(folder)!r} is in the folder of a class;"
      f" {_EXPECTED}"
    )
  if selected.is_slice:
    order = selected.order([os.path.relpath(path, folder) for path in paths])
    paths, labels = [paths[i] for i in order], [labels[i] for i in order]
  return SkipUnreadable(ImageFolder(paths, np.array(labels), class_names))


def folder_splits(directory: str | os.PathLike[str]) -> list[str]:
  """Returns the sorted names of the splits of an image folder.

  Args:
    directory: contains one folder per split, or one per class.

  Returns:
    The names of the folders, or "all" alone if they are those of classes.

  Raises:
    UserError: there is no such directory, it has no image in the folder of a
      class, or its folders may be classes as well as splits.
  """
  folders = _split_folders(directory)
  mixed = [name for name, folder in folders.items() if _has_image(folder)]
  if mixed and len(folders) > 1 and not splits.NAMES & folders.keys():
    raise UserError(
      f"{str(directory)!r} has images both in its folders, such as"
      f" {mixed[0]!r}, and in the folders of these, such as"
      f" {next(_classes(folders))!r}; move all to one level: {_EXPECTED}"
    )
  return list(folders)


def _split_folders(directory: str | os.PathLike[str]) -> dict[str, Path]:
  """Returns the folder of each split, which has a folder for each class."""
  # An unset config leaf; Path would make "" the current directory.
  if not directory:
    raise UserError(
      "no directory is given; set"
      f" config.data.source_args.image_folder.directory, {_EXPECTED}"
    )
  root = files.local_folder(directory)
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {_EXPECTED}")
  folders = {name: root / name for name in _subfolders(root)}
  # The published test split of ImageNet has no folders of classes.
  if any(_classes(folders)):
    return folders
  has_images = any(_has_image(folder) for folder in folders.values())
  reserved = sorted(splits.NAMES & folders.keys())
  if has_images and not reserved:
    return {ALL: root}
  if has_images:
    found = (
      f"{reserved[0]!r} is read as a split and has none; rename it if it is a"
      " class"
    )
  elif _has_image(root):
    found = "its images are outside of folders"
  else:
    found = f"found: {', '.join(folders) or 'no folder'}"
  raise UserError(
    f"no image in {str(root)!r} is in the folder of a class ({found});"
    f" {_EXPECTED}"
  )


def _subfolders(directory: Path) -> list[str]:
  """Returns the sorted names of the visible folders in a directory."""
  with os.scandir(directory) as entries:
    names = [e.name for e in entries if e.is_dir()]
  return sorted(name for name in names if not name.startswith("."))


def _image_files(directory: Path) -> list[str]:
  """Returns the paths of visible image files in a directory, if it exists."""
  if not directory.is_dir():
    return []
  with os.scandir(directory) as entries:
    return [e.path for e in entries if _is_image(e)]


def _is_image(entry: os.DirEntry[str]) -> bool:
  """Returns whether an entry is a visible file with an image's suffix."""
  return _is_image_name(entry.name) and entry.is_file()


def _is_image_name(name: str) -> bool:
  suffix = os.path.splitext(name)[1].lower()
  return not name.startswith(".") and suffix in codec.SUFFIXES


def _has_image(directory: Path) -> bool:
  with os.scandir(directory) as entries:
    return any(_is_image(entry) for entry in entries)


def _warn_of_other_files(folder: Path) -> None:
  """Warns of folders in a split that have files, but no image."""
  others: dict[str, int] = {}
  for name in _subfolders(folder):
    if not _has_image(folder / name):
      with os.scandir(folder / name) as entries:
        count = sum(e.is_file() and e.name[0] != "." for e in entries)
      if count:
        others[name] = count
  if others:
    logging.warning(
      "%s: %d files in folders without an image are left out, the first of"
      " them in %r; images end in %s",
      folder, sum(others.values()), next(iter(others)),
      ", ".join(codec.SUFFIXES),
    )  # fmt: skip


def _warn_of_misplaced_images(folder: Path) -> None:
  """Warns of images of a split that are not in the folder of a class itself."""
  misplaced = []
  for parent, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    if Path(parent).parent != folder:
      images = sorted(filter(_is_image_name, names))
      misplaced += [os.path.join(parent, name) for name in images]
  if misplaced:
    logging.warning(
      "%s: %d images that are not in the folder of a class itself are left out,"
      " the first of them %r; move them there",
      folder, len(misplaced), os.path.relpath(misplaced[0], folder),
    )  # fmt: skip


def _classes(folders: Mapping[str, Path]) -> Iterator[str]:
  """Yields the names of folders with an image, for each split that has them."""
  for folder in folders.values():
    for name in _subfolders(folder):
      if _has_image(folder / name):
        yield name
