"""Images with any number of labels, from a list DIRECTORY/SPLIT.csv."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_jax import files
from perceiver_jax.data.core import csv_rows
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example, multi_hot, read_class_names
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError

_SUFFIXES = (".csv", ".jsonl")
_CLASSES = "classes.txt"
_EXPECTED = (
  "expected DIRECTORY/SPLIT.csv with the columns image,labels, where semicolons"
  " join several labels of an image, or DIRECTORY/SPLIT.jsonl of"
  ' {"image": ..., "labels": [...]}'
)


class ImageList:
  """Images with any number of labels, decoded when fetched.

  Args:
    paths: Paths of the images.
    labels: Labels of all images, concatenated; indices of `class_names`.
    ends: Index in `labels` after the last label of each image.
    class_names: Name of each label.
  """

  in_memory = False

  def __init__(
    self,
    paths: Sequence[str],
    labels: np.ndarray,
    ends: np.ndarray,
    class_names: Sequence[str],
  ):
    self.paths = tuple(paths)
    self._labels = np.asarray(labels, np.int32)
    self._ends = np.asarray(ends, np.int64)
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> Example:
    start = self._ends[index - 1] if index else 0
    labels = self._labels[start : self._ends[index]]
    return {
      "image": codec.read_image(self.paths[index]),
      "label": multi_hot(labels, self.num_classes),
    }


def image_list(directory: str | os.PathLike[str], split: str) -> SkipUnreadable:
  """Returns the images of a list, each with any number of labels.

  The list is DIRECTORY/SPLIT.csv or DIRECTORY/SPLIT.jsonl, with the path of
  each image, relative to the directory, and the names of its labels. The
  classes are the lines of DIRECTORY/classes.txt or, without it, all labels of
  the directory's lists, sorted.

  Args:
    directory: Folder of the lists.
    split: Name of a list, such as "train".

  Returns:
    A source of `image` uint8 [H, W, 3] of any size, `label` float32 multi-hot
    [P] and `unreadable` of `SkipUnreadable`.

  Raises:
    UserError: The directory or the list is missing, empty or malformed.
  """
  lists = _lists(directory)
  if split not in lists:
    names = ", ".join(sorted(lists)) or "no list"
    raise UserError(
      f"no list {split!r} in {str(directory)!r} (it has {names}); {_EXPECTED}"
    )
  rows = list(_rows(lists[split]))
  if not rows:
    raise UserError(f"empty dataset: {lists[split]} names no image")
  class_names = _class_names(files.local_folder(directory), lists)
  number = {name: i for i, name in enumerate(class_names)}
  paths, labels, ends = [], [], []
  for line, image, names in rows:
    unknown = [name for name in names if name not in number]
    if unknown:
      raise UserError(
        f"{lists[split]}, line {line}: {unknown[0]!r} is not in"
        f" {_CLASSES}; add it there, or remove the label"
      )
    paths.append(str(lists[split].parent / image))
    labels.extend(number[name] for name in names)
    ends.append(len(labels))
  return SkipUnreadable(ImageList(paths, labels, ends, class_names))


def _lists(directory: str | os.PathLike[str]) -> dict[str, Path]:
  """Returns the paths of the lists in a directory by name of split."""
  # An unset config leaf; Path would make "" the current directory.
  if not directory:
    raise UserError(
      "no directory is given; set"
      f" config.data.source_args.image_list.directory, {_EXPECTED}"
    )
  root = files.local_folder(directory)
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {_EXPECTED}")
  return {
    path.stem: path
    for path in sorted(root.iterdir())
    if path.suffix in _SUFFIXES
  }


def _class_names(root: Path, lists: dict[str, Path]) -> list[str]:
  """Returns the names of the classes, the same for all splits."""
  file = root / _CLASSES
  if file.exists():
    return read_class_names(file)
  classes: set[str] = set()
  for path in lists.values():
    for _, _, names in _rows(path):
      classes.update(names)
  return sorted(classes)


def _rows(path: Path) -> Iterator[tuple[int, str, list[str]]]:
  """Yields line number, image and labels of the rows of a list."""
  read = _csv_rows if path.suffix == ".csv" else _jsonl_rows
  try:
    with files.open_regular(
      path, "r", newline="", encoding="utf-8-sig"
    ) as file:
      yield from read(file)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} can't be read: {error}; {_EXPECTED}") from error


def _csv_rows(file: Iterator[str]) -> Iterator[tuple[int, str, list[str]]]:
  rows = csv_rows.read(file)
  _, columns = next(rows, (1, []))
  missing = {"image", "labels"} - set(columns)
  if missing:
    raise ValueError(f"it has no column {' and no column '.join(missing)}")
  for line, fields in rows:
    try:
      row = csv_rows.by_column(columns, fields)
    except ValueError as error:
      raise ValueError(f"line {line}: {error}") from error
    if not row.get("image"):
      raise ValueError(f"line {line} names no image")
    labels = [name.strip() for name in row.get("labels", "").split(";")]
    yield line, row["image"], [name for name in labels if name]


def _jsonl_rows(file: Iterator[str]) -> Iterator[tuple[int, str, list[str]]]:
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      row = files.parse_json(line)
      labels = row["labels"]
      if not isinstance(labels, list) or not isinstance(row["image"], str):
        raise TypeError("image must be a string and labels a list")
      yield number, row["image"], list(dict.fromkeys(map(_label, labels)))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"line {number}: {error!r}") from error


def _label(value: Any) -> str:
  """Returns a label of JSON, which is a name or a number of a class."""
  if type(value) not in (str, int) or not str(value).strip():
    raise TypeError(f"the label {value!r} is not a name")
  return str(value).strip()
