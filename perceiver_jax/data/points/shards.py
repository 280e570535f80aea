"""Point clouds in ArrayRecord files, sampled once from meshes.

`scripts.data.prepare_point_clouds` writes them: SPLIT.json, and
SPLIT-00000-of-00064.array_record and so on.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from perceiver_jax.data.core import record_writer, records, splits
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.points import sampling
from perceiver_jax.data.points.object_files import ObjectFiles
from perceiver_jax.errors import UserError


class PointShards:
  """Point clouds of prepared files; see `shards`.

  Args:
    stored: a record for each cloud of the whole split.
    order: positions of the clouds in `stored`.
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
      arrays = records.decode(self._records[self._order[index]])
    except UserError as error:
      raise UserError(f"cloud {self.names[index]!r}: {error}") from error
    return {"points": arrays["points"], "label": self.labels[index]}

  def file_of(self, index: int) -> str:
    """Returns the path of the file that holds a cloud."""
    return self._records.file_of(self._order[index])

  def check_files(self) -> None:
    """Raises UserError if a file is damaged or holds other clouds."""
    self._records.check_files()


def shards(directory: str, split: str) -> SkipUnreadable:
  """Opens the clouds that `scripts.data.prepare_point_clouds` has written.

  Args:
    directory: folder of the files.
    split: a split that was prepared, or a slice of one; see `splits`.

  Returns:
    A source of `points` float32 [n, 3], `label` and the `unreadable` of
    `SkipUnreadable`.

  Raises:
    UserError: the split is missing or incomplete.
  """
  selected = splits.parse(split)
  contents, stored = records.open_split(
    directory,
    selected.name,
    "config.data.source_args.shards.directory",
    "scripts.data.prepare_point_clouds",
  )
  order = selected.order(contents["names"])
  return SkipUnreadable(PointShards(stored, order, contents), kind="object")


def examples_to_write(
  source: ObjectFiles, num_points: int
) -> record_writer.Examples:
  """Returns the examples of a split for `record_writer.write_split`.

  Args:
    source: the meshes or clouds.
    num_points: number of points of a mesh, and the most of a cloud.
  """
  fingerprint = lambda items: _fingerprint(source.names[i] for i in items)
  return record_writer.Examples(
    range(len(source)),
    functools.partial(_encode, source, num_points),
    fingerprint,
    "objects",
    {"num_points": num_points},
  )


def _encode(source: ObjectFiles, num_points: int, index: int) -> bytes:
  """Reads an object, samples it and returns its record."""
  example = source[index]
  if "points" in example:
    num_points = min(num_points, len(example["points"]))
  return records.encode({"points": sampling.sample(example, num_points)})


def _fingerprint(names: Iterable[str]) -> str:
  return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()
