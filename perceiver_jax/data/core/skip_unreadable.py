"""Skips examples that cannot be read."""

import threading
from collections.abc import Callable

import numpy as np
from absl import logging

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.errors import UserError

# Unreadable examples that a small data set may have, whatever their share.
_FEW = 10
# Unreadable examples that are named.
_NAMED = 3


class SkipUnreadable:
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
    return SkipUnreadable, (self.source, self._most, self._what, self._count)

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
