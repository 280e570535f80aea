"""Mixes several sources by weight.

`grain.MapDataset.mix` ends an epoch when its first data set is exhausted, so
that examples of the others may be missing. `Mixture` instead is a source with a
length, which the pipeline shuffles like any other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceiver_jax.data.core.source import Example

# Number of consecutive positions in which the weights hold exactly.
_PATTERN = 1000


class Mixture:
  """A deterministic mixture of sources.

  An epoch takes every example of every source at least once, and repeats the
  smaller sources.

  Args:
    sources: sources by name; none may be empty.
    weights: weight of each source; they need not add up to 1, and are rounded
      to thousandths of the total.

  Raises:
    ValueError: there is no source, or a weight is not a positive number.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, sources: Mapping[str, Any], weights: Mapping[str, float]):
    if not sources or any(not 0 < weights[n] < math.inf for n in sources):
      raise ValueError(f"mixture weights must be positive, got {dict(weights)}")
    self._sources = list(sources.values())
    self.in_memory = all(source.in_memory for source in self._sources)
    shares = np.array([weights[name] for name in sources], np.float64)
    self._counts = _whole_counts(shares / shares.sum(), _PATTERN)
    owners = np.repeat(np.arange(len(shares)), self._counts)
    owners = np.random.default_rng(0).permutation(owners)
    self._owners = owners
    # Number of earlier positions in the pattern with the same source.
    ranks = np.zeros(_PATTERN, np.int64)
    for source in range(len(shares)):
      is_owner = owners == source
      ranks[is_owner] = np.arange(is_owner.sum())
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
    turn, position = divmod(index, _PATTERN)
    owner = self._owners[position]
    within = turn * int(self._counts[owner]) + int(self._ranks[position])
    source = self._sources[owner]
    return {**source[within % len(source)], "position": index}


def _whole_counts(shares: np.ndarray, total: int) -> np.ndarray:
  """Rounds shares to positive integers that add up to `total`."""
  exact = shares * total
  counts = np.maximum(np.floor(exact).astype(np.int64), 1)
  order: Sequence[int] = np.argsort(counts - exact, kind="stable")
  for i in order[: max(0, total - counts.sum())]:
    counts[i] += 1
  # The largest share makes up for tiny ones that were raised to 1.
  counts[counts.argmax()] -= counts.sum() - total
  return counts
