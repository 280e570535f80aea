"""Point clouds in HDF5 files: the release modelnet40_ply_hdf5_2048."""

import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from perceiver_jax import files, limits
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import hdf5_chunks, object_files
from perceiver_jax.errors import UserError

_EXPECTED = (
  "expected the folder modelnet40_ply_hdf5_2048 with shape_names.txt,"
  " train_files.txt, test_files.txt and ply_data_train0.h5 and so on"
)


class Hdf5Clouds:
  """Point clouds of HDF5 files, held in memory.

  A copy in a worker process reads the files again.

  Args:
    directory: Folder of the files.
    split: Name of a split, or a slice.
  """

  in_memory = True

  def __init__(self, directory: str, split: str):
    self._arguments = directory, split
    root = object_files.check_directory(directory, "hdf5", _EXPECTED)
    selected = splits.parse(split)
    self.class_names = tuple(
      object_files.read_lines(root / "shape_names.txt", _EXPECTED)
    )
    self.num_classes = len(self.class_names)
    listed = object_files.read_lines(
      root / f"{selected.name}_files.txt", _EXPECTED
    )
    # The lists have paths on the machine of those who made the release.
    paths = [root / Path(name).name for name in listed]
    points, labels, names = _load(paths, self.num_classes)
    order = selected.order(names)
    self._points, self.labels = points[order], labels[order]
    self.names = tuple(names[i] for i in order)

  def __reduce__(self) -> tuple[type, tuple[str, str]]:
    return Hdf5Clouds, self._arguments

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    points = self._points[index]
    if not np.isfinite(points).all():
      raise UserError(
        f"the cloud {self.names[index]!r} has a coordinate that is not finite"
      )
    return {"points": points.copy(), "label": self.labels[index]}


def hdf5(directory: str, split: str) -> SkipUnreadable:
  """Returns the clouds of the release modelnet40_ply_hdf5_2048.

  Args:
    directory: The folder.
    split: "train" or "test", or a slice; see `splits`.

  Returns:
    A source of `points` float32 [2048, 3], `label` and the `unreadable` of
    `SkipUnreadable`.

  Raises:
    UserError: A file is missing or damaged, or h5py is not installed.
  """
  return SkipUnreadable(Hdf5Clouds(directory, split), kind="object")


def _load(
  paths: Sequence[Path], num_classes: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Reads points [N, n, 3], labels [N] and names of all files."""
  loaded, size = [], 0
  for path in paths:
    loaded.append(_load_file(path, num_classes, limits.MAX_CLOUDS_BYTES - size))
    size += loaded[-1][0].nbytes
  sizes = {points.shape[1] for points, _ in loaded}
  if len(sizes) != 1:
    raise UserError(
      f"the {len(paths)} files have clouds of {sorted(sizes)} points each; one"
      f" number is needed; {_EXPECTED}"
    )
  names = [
    f"{path.stem}/{row:04d}"
    for path, (points, _) in zip(paths, loaded, strict=True)
    for row in range(len(points))
  ]
  points, labels = map(np.concatenate, zip(*loaded, strict=True))
  return points, labels, names


def _load_file(
  path: Path, num_classes: int, max_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads points float32 [N, n, 3] and labels int32 [N] of a file."""
  try:
    with _import_h5py().File(files.local_file(path), "r") as file:
      data, label = _dataset(file, "data", "fiu"), _dataset(file, "label", "iu")
      _check_shapes(data.shape, label.shape, data.dtype.itemsize, max_bytes)
      for dataset in (data, label):
        hdf5_chunks.check_chunks(dataset, limits.MAX_CLOUDS_BYTES)
      points = np.asarray(data, np.float32)
      labels = np.asarray(label).reshape(-1)
  # h5py raises these for a missing, damaged or other file.
  except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
    if isinstance(error, UserError):
      raise
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    raise UserError(
      f"{str(path)!r} cannot be read: {reason}; {_EXPECTED}"
    ) from error
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise UserError(
      f"{str(path)!r} has labels from {labels.min()} to {labels.max()}, and"
      f" shape_names.txt has {num_classes} names"
    )
  return points, labels.astype(np.int32)


def _dataset(file: Any, name: str, kinds: str) -> Any:
  """Returns a dataset of numbers that are stored in the file itself.

  Args:
    file: An open HDF5 file.
    name: Name of the dataset.
    kinds: Allowed kinds of its type, as in NumPy.

  Raises:
    KeyError: There is none of this name.
    ValueError: It is of another type, or lies in another file.
  """
  h5py = _import_h5py()
  if not isinstance(file.get(name, getlink=True), h5py.HardLink | None):
    raise ValueError(f"{name!r} is a link; copy the data into the file")
  dataset = file[name]
  if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in kinds:
    kind = "integers" if kinds == "iu" else "numbers"
    raise ValueError(f"{name!r} is no array of {kind}")
  if dataset.external or dataset.is_virtual:
    raise ValueError(
      f"{name!r} is stored in other files; copy the data into the file"
    )
  return dataset


def _check_shapes(
  data: tuple[int, ...] | None,
  label: tuple[int, ...] | None,
  itemsize: int,
  max_bytes: int,
) -> None:
  """Checks shapes before the arrays are read, which may be of any size.

  Args:
    data: Shape of the points; None if there is no array.
    label: Shape of the labels.
    itemsize: Bytes of a coordinate.
    max_bytes: Limit on the bytes of the points.

  Raises:
    ValueError: The shapes are wrong, or the points too many.
  """
  data, label = data or (), label or ()
  num_labels = math.prod(label) if label else 0
  if len(data) != 3 or data[1] < 1 or data[2] != 3 or data[0] != num_labels:
    raise ValueError(
      f"it has data {list(data)} and {num_labels} labels; data [N, n, 3] and a"
      " label for each are needed"
    )
  if math.prod(data) * max(itemsize, 4) > max_bytes:
    raise ValueError(
      f"it has data {list(data)}, and the files of a split may have"
      f" {limits.MAX_CLOUDS_BYTES:,} bytes together; take fewer points"
    )


def _import_h5py() -> ModuleType:
  try:
    import h5py
  except ImportError as error:
    raise UserError(
      "HDF5 files need h5py: pip install 'perceiver_jax[points]'"
    ) from error
  return h5py
