"""Images in IDX files, the format of MNIST and Fashion-MNIST.

A data set is four files, two for each split, such as train-images-idx3-ubyte
and train-labels-idx1-ubyte, as they are or compressed by gzip.
"""

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from perceiver_jax import files, limits
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.data.core.source import read_class_names
from perceiver_jax.errors import UserError

_NAME = re.compile(
  r"(?:.*-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?"
)
_GZIP_MAGIC = b"\x1f\x8b"
_UINT8 = 8  # The format's number of this type.
_CLASSES = "classes.txt"  # The format itself has no names of classes.
_EXPECTED = (
  "expected train-images-idx3-ubyte, train-labels-idx1-ubyte,"
  " t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each as it is or with"
  " .gz; change config.data.source_args.idx.directory or the split"
)


def idx(directory: str | os.PathLike[str], split: str) -> InMemoryArrays:
  """Returns images from IDX files, as MNIST and Fashion-MNIST are published.

  The names of the classes are the lines of DIRECTORY/classes.txt or, without
  it, the numbers from 0 to the largest label of all splits.

  Args:
    directory: folder of the files. Those of the split "test" begin with t10k
      or test, after an optional name as in emnist-letters-train-images.
    split: "train" or "test", or a slice; see `data.core.splits`.

  Returns:
    A source of image uint8 [H, W, 1] and label int32, all in memory.

  Raises:
    UserError: a file is missing or damaged, or the two of a split differ in
      length.
  """
  paths = _paths(directory)
  selected = splits.parse(split)
  if selected.name not in paths:
    raise UserError(
      f"no split {selected.name!r} in {str(directory)!r} (it has"
      f" {', '.join(paths)}); {_EXPECTED}"
    )
  labels = {name: _read(each["labels"], 1) for name, each in paths.items()}
  largest = max(int(each.max(initial=0)) for each in labels.values())
  label = labels[selected.name]
  path = paths[selected.name]["images"]
  image = _read(path, 3)
  if len(image) != len(label):
    raise UserError(
      f"{path} has {len(image):,} images and"
      f" {paths[selected.name]['labels'].name} {len(label):,} labels; give the"
      " files of one data set"
    )
  if selected.is_slice:
    rows = selected.order([str(i) for i in range(len(label))])
    image, label = image[rows], label[rows]
  return InMemoryArrays(
    {"image": image[..., None], "label": label.astype(np.int32)},
    _class_names(files.local_folder(directory) / _CLASSES, largest + 1),
  )


def idx_splits(directory: str | os.PathLike[str]) -> list[str]:
  """Returns the splits of which a folder has IDX files.

  Raises:
    UserError: there is no such folder, it has no IDX files, or a split lacks
      one of its files.
  """
  return list(_paths(directory))


def _paths(directory: str | os.PathLike[str]) -> dict[str, dict[str, Path]]:
  """Returns the paths of "images" and "labels" by split."""
  # An unset config leaf; Path would make "" the current directory.
  if not directory:
    raise UserError(f"no directory is given; {_EXPECTED}")
  root = files.local_folder(directory)
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {_EXPECTED}")
  paths: dict[str, dict[str, Path]] = {}
  # A file that is there plain and compressed is read as the latter.
  for path in sorted(root.iterdir()):
    if not (match := _NAME.fullmatch(path.name)):
      continue
    split = "train" if match[1] == "train" else "test"
    known = paths.setdefault(split, {}).setdefault(match[2], path)
    if known.name.removesuffix(".gz") != path.name.removesuffix(".gz"):
      raise UserError(
        f"{str(root)!r} has two data sets, {known.name} and {path.name}; move"
        " one to a folder of its own"
      )
  if not paths:
    raise UserError(
      f"no split in {str(root)!r} (it has no IDX files); {_EXPECTED}"
    )
  for split, parts in paths.items():
    if len(parts) < 2:
      (path,) = parts.values()
      other = "labels" if "images" in parts else "images"
      raise UserError(
        f"{str(root)!r} has {path.name} but no {other} of {split!r};"
        f" {_EXPECTED}"
      )
  return dict(sorted(paths.items(), reverse=True))  # Training first.


def _read(path: Path, num_dimensions: int) -> np.ndarray:
  """Reads the array of an IDX file.

  Raises:
    UserError: it can't be read, or is not a complete file of uint8 with this
      number of dimensions.
  """
  try:
    with files.open_regular(path) as file:
      magic = file.read(len(_GZIP_MAGIC))
      file.seek(0)
      if magic != _GZIP_MAGIC:
        return _parse(file, num_dimensions)
      with gzip.GzipFile(fileobj=file) as content:
        return _parse(content, num_dimensions)
  except (OSError, EOFError, ValueError, zlib.error) as error:
    raise UserError(
      f"{path} can't be read as an IDX file: {error}; replace the file"
    ) from error


def _parse(file: IO[bytes], num_dimensions: int) -> np.ndarray:
  magic = file.read(4)
  expected = bytes([0, 0, _UINT8, num_dimensions])
  if magic != expected:
    raise ValueError(
      f"it starts with {magic.hex() or 'nothing'} and not {expected.hex()}, for"
      f" uint8 with {num_dimensions} dimensions"
    )
  header = file.read(4 * num_dimensions)
  if len(header) < 4 * num_dimensions:
    raise ValueError("it ends within its header")
  shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
  size = math.prod(shape)
  if not size:
    raise ValueError(f"its shape is {shape}, which has no values")
  if size > limits.MAX_IDX_BYTES:
    raise ValueError(
      f"its shape is {shape}, more than {limits.MAX_IDX_BYTES:,} values"
    )
  data = file.read(size + 1)
  if len(data) != size:
    have = f"only {len(data):,}" if len(data) < size else "more"
    raise ValueError(
      f"its shape is {shape}, {size:,} values, and it has {have}"
    )
  return np.frombuffer(data, np.uint8).reshape(shape)


def _class_names(path: Path, count: int) -> list[str]:
  if not path.exists():
    return [str(i) for i in range(count)]
  names = read_class_names(path)
  if len(names) < count:
    raise UserError(
      f"{path} has {len(names)} names, and the labels go up to {count - 1};"
      " give a line for each class"
    )
  return names
