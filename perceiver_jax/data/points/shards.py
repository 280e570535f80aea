"""Point clouds in ArrayRecord files, sampled once from meshes.

`scripts.data.prepare_point_clouds` writes them: SPLIT.json, and
SPLIT-00000-of-00064.array_record and so on.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax.data.core import record_writer, records, splits
from perceiver_jax.data.core.limits import limits
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import sampling
from perceiver_jax.data.points.object_files import ObjectFiles
from perceiver_jax.errors import UserError


class Settings(NamedTuple):
  """Settings of reading and sampling objects.

  Attributes:
    num_points: Number of points of a mesh, and the most of a cloud.
    max_seconds: Limit on the time to read and sample an object.
    max_memory_mb: Limit on the memory that it takes.
  """

  num_points: int
  max_seconds: float = 60.0
  max_memory_mb: float = 2048.0


class PointShards:
  """Point clouds of prepared files; see `shards`.

  Args:
    stored: A record for each cloud of the whole split.
    order: Positions of the clouds in `stored`.
    contents: `names`, `labels` and `class_names` of the whole split.
  """

  in_memory = False

  def __init__(
    self,
    stored: records.Records,
    order: Sequence[int],
    contents: Mapping[str, Any],
  ):
    self._records, self._order = stored, list(order)
    self.names = tuple(contents["names"][i] for i in order)
    self.labels = np.array([contents["labels"][i] for i in order], np.int32)
    self.class_names = tuple(contents["class_names"])
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    try:
      points = _points(records.decode(self._records[self._order[index]]))
    except UserError as error:
      raise UserError(f"cloud {self.names[index]!r}: {error}") from error
    return {"points": points, "label": self.labels[index]}

  def file_of(self, index: int) -> str:
    """Returns the path of the file that holds a cloud."""
    return self._records.file_of(self._order[index])

  def check_files(self) -> None:
    """Raises UserError if a file is damaged or holds other clouds."""
    self._records.check_files()


def shards(directory: str, split: str) -> SkipUnreadable:
  """Opens the clouds that `scripts.data.prepare_point_clouds` has written.

  Args:
    directory: Folder of the files.
    split: A split that was prepared, or a slice of one; see `splits`.

  Returns:
    A source of `points` float32 [n, 3], `label` and the `unreadable` of
    `SkipUnreadable`.

  Raises:
    UserError: The split is missing or incomplete.
  """
  selected = splits.parse(split)
  contents, stored = records.open_split(
    directory,
    selected.name,
    "config.data.source_args.shards.directory",
    "scripts.data.prepare_point_clouds",
  )
  if any(isinstance(label, list) for label in contents["labels"]):
    raise UserError(
      f"{selected.name!r} in {str(directory)!r} has a list of labels for one"
      " cloud; prepare it again"
    )
  order = selected.order(contents["names"])
  return SkipUnreadable(PointShards(stored, order, contents), kind="object")


def examples_to_write(
  source: ObjectFiles, settings: Settings
) -> record_writer.Examples:
  """Returns the examples of a split for `record_writer.write_split`.

  Args:
    source: The meshes or clouds.
    settings: Settings of reading and sampling them.
  """
  fingerprint = lambda items: _fingerprint(source.names[i] for i in items)
  return record_writer.Examples(
    range(len(source)),
    functools.partial(_encode, source, settings),
    fingerprint,
    "objects",
    settings._asdict(),
  )


def _encode(source: ObjectFiles, settings: Settings, index: int) -> bytes:
  """Reads an object within limits, samples it and returns its record."""
  try:
    with limits(settings.max_seconds, settings.max_memory_mb):
      example = source[index]
      count = settings.num_points
      if "points" in example:
        count = min(count, len(example["points"]))
      return records.encode({"points": sampling.sample(example, count)})
  except UserError as error:
    name = source.names[index]
    raise UserError(f"the object {name!r}: {error}") from error


def _points(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the points of a record, which may be one of other data."""
  points = arrays.get("points", np.zeros(0))
  if points.dtype != np.float32 or points.shape[1:] != (3,):
    raise UserError(
      f"its points are {points.dtype} {list(points.shape)}, and not float32"
      " [n, 3]; prepare it again"
    )
  if not len(points) or not np.isfinite(points).all():
    raise UserError(
      "it has no point, or one that is not finite; prepare it again"
    )
  return points


def _fingerprint(names: Iterable[str]) -> str:
  return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()
