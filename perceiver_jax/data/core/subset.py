"""A source of some examples of another."""

from collections.abc import Sequence

from perceiver_jax.data.core.source import Example, Source


class Subset:
  """The examples of a source at the given positions.

  Args:
    source: the examples.
    positions: positions in the source; one may occur several times.
  """

  def __init__(self, source: Source, positions: Sequence[int]):
    self._source, self._positions = source, tuple(positions)
    self.class_names = source.class_names
    self.num_classes = source.num_classes
    self.in_memory = source.in_memory

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, index: int) -> Example:
    return self._source[self._positions[index]]
