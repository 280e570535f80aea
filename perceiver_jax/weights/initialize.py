"""Starting a model from the weights of another: what fits is taken over."""

import math
from collections.abc import Mapping
from typing import (
  Any,
  NamedTuple,
)

import jax
import numpy as np

from perceiver_jax.weights import model

_IMAGE_POSITIONS = "adapter/positions/embeddings"
_SHOWN = 6


class Report(NamedTuple):
  """What became of each leaf, by 'module/name'.

  Attributes:
    loaded: Taken over as they are.
    interpolated: Position tables taken over at another size.
    initialised: Of this model, not in the weights or of another shape there.
    skipped: Of the weights, not in this model or of another shape here.
    differences: Settings without parameters that differ, in words.
  """

  loaded: list[str]
  interpolated: list[str]
  initialised: list[str]
  skipped: list[str]
  differences: list[str]

  def text(self) -> str:
    """One line a kind, for the start-up summary."""
    lines = [f"  {len(self.loaded)} arrays loaded"]
    for kind in ("interpolated", "initialised", "skipped"):
      names = getattr(self, kind)
      if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(
          f"  {len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"
        )
    lines += [f"  differs: {line}" for line in self.differences]
    return "\n".join(lines)


def merge(
  fresh: model.Tree, weights: model.Weights, spec: Mapping[str, Any]
) -> tuple[dict[str, dict[str, np.ndarray]], Report]:
  """Parameters that come from `weights` where they fit, else from `fresh`.

  A learned table of image positions is resized to another grid (bicubic); the
  rest of another shape, such as a head for other classes, starts anew.

  Args:
    fresh: Parameters of the model as initialised.
    weights: What to start from.
    spec: Of the model.
  """
  own, given = model.flat(fresh), model.flat(weights.params)
  merged, loaded, interpolated = {}, [], []
  for name, leaf in own.items():
    source = given.get(name)
    if source is None:
      continue
    if source.shape == leaf.shape:
      merged[name] = source.astype(leaf.dtype)
      loaded.append(name)
    elif name == _IMAGE_POSITIONS and _are_grids(source, leaf):
      merged[name] = _resize_grid(source, leaf.shape[0]).astype(leaf.dtype)
      interpolated.append(name)
  report = Report(
    loaded,
    interpolated,
    [name for name in own if name not in merged],
    [name for name in given if name not in merged],
    _differences(spec, weights.spec),
  )
  return model.nested(own | merged), report


def _are_grids(source: Any, target: Any) -> bool:
  """Whether both tables are of square images, with as many channels."""
  sides = [math.isqrt(len(table)) for table in (source, target)]
  square = sides[0] ** 2 == len(source) and sides[1] ** 2 == len(target)
  return square and source.shape[1] == target.shape[1]


def _resize_grid(table: np.ndarray, count: int) -> np.ndarray:
  old, new = math.isqrt(len(table)), math.isqrt(count)
  grid = table.reshape(old, old, -1)
  resized = jax.image.resize(grid, (new, new, grid.shape[-1]), "bicubic")
  return np.asarray(resized).reshape(count, -1)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list:
  """Leaves of two specs that differ, those of missing sections left out."""
  mine, other = _leaves(ours), _leaves(theirs)
  return [
    f"{name} is {mine[name]!r} here and {other[name]!r} in the weights"
    for name in sorted(set(mine) & set(other))
    if mine[name] != other[name]
  ]


def _leaves(spec: Mapping[str, Any], path: str = "model") -> dict[str, Any]:
  found = {}
  for name, value in spec.items():
    where = f"{path}.{name}"
    if isinstance(value, Mapping):
      found |= _leaves(value, where)
    else:
      found[where] = tuple(value) if isinstance(value, list) else value
  return found
