"""Several sources as one, each with its share of the examples."""

import math
from collections.abc import (
  Mapping,
  Sequence,
)
from typing import Any

import numpy as np

from perceiver_jax.data.core.source import Example

# Positions over which a mixture keeps its weights.
_PATTERN = 1000


class Mixture:
  """Sources mixed by weight, the same way every time.

  An epoch is as long as it takes for every example of every source to come at
  least once; small sources come again.

  Args:
    sources: by name, each with an example or more.
    weights: share of each; they need not add up to 1. They are kept in whole
      thousandths.

  Raises:
    ValueError: there is no source, or a weight is not a positive number.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, sources: Mapping[str, Any], weights: Mapping[str, float]):
    if not sources or any(not 0 < weights[n] < math.inf for n in sources):
      raise ValueError(f"weights of a mixture are positive: {dict(weights)}")
    self._sources = list(sources.values())
    self.in_memory = all(source.in_memory for source in self._sources)
    shares = np.array([weights[name] for name in sources], np.float64)
    self._counts = _whole_counts(shares / shares.sum(), _PATTERN)
    owners = np.repeat(np.arange(len(shares)), self._counts)
    owners = np.random.default_rng(0).permutation(owners)
    self._owners = owners
    # The how-manieth of its source in the pattern each position is.
    ranks = np.zeros(_PATTERN, np.int64)
    for source in range(len(shares)):
      mine = owners == source
      ranks[mine] = np.arange(mine.sum())
    self._ranks = ranks
    sizes = map(len, self._sources)
    rounds = (
      math.ceil(size / count)
      for size, count in zip(sizes, self._counts, strict=True)
    )
    alone = len(self._sources) == 1
    self._length = len(self._sources[0]) if alone else max(rounds) * _PATTERN

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    turn, place = divmod(index, _PATTERN)
    owner = self._owners[place]
    within = turn * int(self._counts[owner]) + int(self._ranks[place])
    source = self._sources[owner]
    return {**source[within % len(source)], "position": index}


def _whole_counts(shares: np.ndarray, total: int) -> np.ndarray:
  """Integers of 1 or more that add up to `total`, nearest to the shares."""
  exact = shares * total
  counts = np.maximum(np.floor(exact).astype(np.int64), 1)
  order: Sequence[int] = np.argsort(counts - exact, kind="stable")
  for i in order[: max(0, total - counts.sum())]:
    counts[i] += 1
  # Tiny shares that were raised to 1 are taken from the largest.
  counts[counts.argmax()] -= counts.sum() - total
  return counts
