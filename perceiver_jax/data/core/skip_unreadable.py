"""A source that replaces examples which cannot be read."""

import threading
from collections.abc import Callable

import numpy as np
from absl import logging

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.errors import UserError

# Up to this many unreadable examples are accepted, whatever their share.
_MAX_ACCEPTED = 10
# Number of unreadable examples that warnings and errors name.
_MAX_NAMED = 3


class SkipUnreadable:
  """A source that replaces unreadable examples by the next readable one.

  The label is replaced as well. An example's `unreadable` is float32 1 if it
  was replaced, else 0. Warnings name the first few unreadable examples. Every
  process counts separately; a copy in a worker process starts at zero.

  Args:
    source: the examples; fetching an unreadable one raises a UserError.
    max_share: share of the examples read that may be unreadable; a higher share
      is an error once there are more than ten.
    kind: the kind of example, for messages.
    num_files: number of files if examples are parts of files; example i is then
      part of file i % num_files, and each file counts once.
  """

  def __init__(
    self,
    source: Source,
    max_share: float = 0.01,
    kind: str = "image",
    num_files: int = 0,
  ):
    self.source = source
    self._kind = kind
    self.class_names = source.class_names
    self.num_classes = source.num_classes
    self.in_memory = source.in_memory
    self._max_share, self._num_files = max_share, num_files or len(source)
    self._lock = threading.Lock()
    self._num_read = 0
    self._unreadable: set[int] = set()
    self._reasons: list[str] = []  # Errors of the first few.

  @property
  def labels(self) -> np.ndarray | None:
    """Returns the labels of all examples, or None if they are not known."""
    return getattr(self.source, "labels", None)

  def __reduce__(self) -> tuple[type, tuple[Source, float, str, int]]:
    return type(self), (
      self.source,
      self._max_share,
      self._kind,
      self._num_files,
    )

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
    """Returns the example, or the next one that `read` can read.

    Args:
      index: index of the example.
      read: maps an index to an example; raises UserError if it is unreadable.
    """
    position = index
    for _ in range(len(self)):
      example = self._read(position, read)
      if example is not None:
        return {**example, "unreadable": np.float32(position != index)}
      position = (position + 1) % len(self)
    raise self._too_many()

  def _read(self, index: int, read: Callable[[int], Example]) -> Example | None:
    """Returns the example, or None if it cannot be read."""
    try:
      example = read(index)
    except UserError as error:
      self._note(index % self._num_files, str(error))
      return None
    with self._lock:
      self._num_read += 1
    return example

  def _note(self, number: int, reason: str) -> None:
    """Counts an unreadable example; raises UserError if there are too many."""
    with self._lock:
      self._num_read += 1
      # Each example counts once, so that later epochs do not change the share.
      if number not in self._unreadable and len(self._reasons) < _MAX_NAMED:
        self._reasons.append(reason)
        logging.warning("%s; the next %s takes its place", reason, self._kind)
      self._unreadable.add(number)
      num_distinct = min(self._num_read, self._num_files)
      if len(self._unreadable) > max(
        _MAX_ACCEPTED, self._max_share * num_distinct
      ):
        raise self._too_many()

  def _too_many(self) -> UserError:
    return UserError(
      f"{len(self._unreadable)} {self._kind}s cannot be read, of"
      f" {self._num_read} tried, which is too many to skip: "
      + "; ".join(self._reasons)
    )
