"""Point clouds in HDF5 files: the release modelnet40_ply_hdf5_2048."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from perceiver_jax.data.core import splits
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import object_files
from perceiver_jax.errors import UserError

_EXPECTED = (
  "expected the folder modelnet40_ply_hdf5_2048 with shape_names.txt,"
  " train_files.txt, test_files.txt and ply_data_train0.h5 and so on"
)


class Hdf5Clouds:
  """Point clouds of HDF5 files, held in memory.

  A copy in a worker process reads the files again.

  Args:
    directory: folder of the files.
    split: name of a split, or a slice.
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
    directory: the folder.
    split: "train" or "test", or a slice; see `splits`.

  Returns:
    A source of `points` float32 [2048, 3], `label` and the `unreadable` of
    `SkipUnreadable`.

  Raises:
    UserError: a file is missing or damaged, or h5py is not installed.
  """
  return SkipUnreadable(Hdf5Clouds(directory, split), kind="object")


def _load(
  paths: Sequence[Path], num_classes: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Reads points [N, n, 3], labels [N] and names of all files."""
  files = [_load_file(path, num_classes) for path in paths]
  sizes = {points.shape[1] for points, _ in files}
  if len(sizes) != 1:
    raise UserError(
      f"the {len(paths)} files have clouds of {sorted(sizes)} points each; one"
      f" number is needed; {_EXPECTED}"
    )
  names = [
    f"{path.stem}/{row:04d}"
    for path, (points, _) in zip(paths, files, strict=True)
    for row in range(len(points))
  ]
  points, labels = map(np.concatenate, zip(*files, strict=True))
  return points, labels, names


def _load_file(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  try:
    with _import_h5py().File(path, "r") as file:
      points = np.asarray(file["data"], np.float32)
      labels = np.asarray(file["label"]).reshape(-1).astype(np.int32)
  # h5py raises these for a missing, damaged or other file.
  except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
    if isinstance(error, UserError):
      raise
    reason = " ".join(str(error).split())
    raise UserError(
      f"{str(path)!r} cannot be read: {reason}; {_EXPECTED}"
    ) from error
  if points.ndim != 3 or points.shape[2] != 3 or len(points) != len(labels):
    raise UserError(
      f"{str(path)!r} has data {list(points.shape)} and {len(labels)} labels;"
      " data [N, n, 3] and a label for each are needed"
    )
  if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
    raise UserError(
      f"{str(path)!r} has labels from {labels.min()} to {labels.max()}, and"
      f" shape_names.txt has {num_classes} names"
    )
  return points, labels


def _import_h5py() -> ModuleType:
  try:
    import h5py
  except ImportError as error:
    raise UserError(
      "HDF5 files need h5py: pip install 'perceiver_jax[points]'"
    ) from error
  return h5py
