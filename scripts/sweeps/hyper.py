"""The object that `get_hyper(h)` of a config file receives.

It has the functions of the hyperparameter language of Google's research
codebases (Vision Transformer's and Big Vision's configs, for example), which
write points as lists of mappings.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from perceiver_jax.errors import UserError

Points = list[dict[str, Any]]


def sweep(leaf: str, values: Iterable[Any]) -> Points:
  """Returns a point for each value of a leaf, with or without "config."."""
  return [{leaf.removeprefix("config."): value} for value in values]


def fixed(leaf: str, value: Any, length: int) -> Points:
  """Returns `length` equal points, to zip with others."""
  return sweep(leaf, [value] * length)


def product(sweeps: Sequence[Points]) -> Points:
  """Returns every combination of points; the last sweep varies fastest.

  Raises:
    UserError: Two sweeps set the same leaf.
  """
  return [merge(points) for points in itertools.product(*sweeps)]


def zipit(sweeps: Sequence[Points]) -> Points:
  """Returns the first points of all sweeps as one, the second ones, and so on.

  Raises:
    UserError: The sweeps differ in length, or set the same leaf.
  """
  lengths = {len(points) for points in sweeps}
  if len(lengths) > 1:
    raise UserError(
      f"h.zipit got sweeps of {', '.join(map(str, sorted(lengths)))} points;"
      " give sweeps of the same length, with h.fixed if a value is fixed"
    )
  return [merge(points) for points in zip(*sweeps, strict=True)]


def chainit(sweeps: Sequence[Points]) -> Points:
  """Returns the points of all sweeps, one after the other."""
  return list(itertools.chain.from_iterable(sweeps))


def merge(points: Iterable[dict[str, Any]]) -> dict[str, Any]:
  """Returns the leaves of several points as one.

  Raises:
    UserError: Two points set the same leaf.
  """
  merged: dict[str, Any] = {}
  for point in points:
    for leaf, value in point.items():
      if leaf in merged:
        raise UserError(
          f"two sweeps set {leaf}, to {merged[leaf]} and {value}; combine"
          " sweeps of different leaves"
        )
      merged[leaf] = value
  return merged
