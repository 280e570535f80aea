"""Sources of observations by name.

A source has a length and returns observation i as a dict of arrays; see
`features`. Its `class_names` are the names of the actions and its
`unit_type_names` those of the types of units, by index. If it has several kinds
of observations, `group_names` are their names, and each observation has a
`group`: int32, the index of its kind.
"""

from collections.abc import Callable
from typing import Any, Protocol

from perceiver_jax.data.core.source import Example, make_named
from perceiver_jax.data.starcraft import battles, observations


class ObservationSource(Protocol):
  """Protocol of a data set of observations.

  Attributes:
    in_memory: Whether observations are available without reading files.
    class_names: Name of each action.
    unit_type_names: Name of each type of unit; empty if unknown.
    group_names: Name of each kind of observation; empty if there is one kind.
  """

  in_memory: bool
  class_names: tuple[str, ...]
  unit_type_names: tuple[str, ...]
  group_names: tuple[str, ...]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


SOURCES: dict[str, Callable[..., ObservationSource]] = {
  "battles": battles.battles,
  "files": observations.observation_files,
  "shards": observations.observation_shards,
}


def make_source(name: str, /, **kwargs: Any) -> ObservationSource:
  """Makes the source called `name`.

  Args:
    name: A key of `SOURCES`.
    **kwargs: Arguments of the source.

  Raises:
    UserError: The name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "the data", kwargs)
