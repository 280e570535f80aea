"""Initialization of a model from the weights of another."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from perceiver_jax.weights import model

# Learned tables of a grid of image elements, by the kind of adapter. Tables of
# the same name in other kinds, such as "text", are of positions in a sequence.
_IMAGE_POSITIONS = {
  "image": "adapter/positions/embeddings",
  "grouped": "adapter/positions_image/embeddings",
}
_MAX_NAMES = 6


class Report(NamedTuple):
  """Report of an initialization; leaves are named 'module/name'.

  Attributes:
    loaded: Leaves initialized from the weights.
    interpolated: Position tables resized from the weights.
    initialized: Leaves of the model that the weights lack or have in another
      shape, and that keep their random initialization.
    skipped: Leaves of the weights that the model lacks or has in another shape.
    differences: Messages about settings without parameters that differ.
  """

  loaded: list[str]
  interpolated: list[str]
  initialized: list[str]
  skipped: list[str]
  differences: list[str]

  def text(self) -> str:
    """Returns one line for each group of leaves, for the run summary."""
    lines = [f"  {len(self.loaded)} arrays loaded"]
    for kind in ("interpolated", "initialized", "skipped"):
      names = getattr(self, kind)
      if names:
        text = ", ".join(names[:_MAX_NAMES])
        if len(names) > _MAX_NAMES:
          text += f" and {len(names) - _MAX_NAMES} more"
        lines.append(f"  {len(names)} {kind}: {text}")
    lines += [f"  differs: {line}" for line in self.differences]
    return "\n".join(lines)


def initialize_from(
  weights: model.Weights, params: model.Tree, spec: Mapping[str, Any]
) -> tuple[dict[str, dict[str, np.ndarray]], Report]:
  """Replaces parameters by the weights of the same name and shape.

  A learned table of image positions is resized to the model's grid (bicubic) if
  both grids are square, since a spec doesn't tell their sides. Other parameters
  of another shape, such as a head for other classes, keep their initial values.

  Args:
    weights: Weights to initialize from.
    params: Initial parameters of the model.
    spec: Spec of the model.

  Returns:
    The parameters, and a report on each leaf.
  """
  initial, saved = model.flatten(params), model.flatten(weights.params)
  positions = _image_positions(spec)
  if positions != _image_positions(weights.spec):
    positions = None
  merged, loaded, interpolated = {}, [], []
  for name, leaf in initial.items():
    source = saved.get(name)
    if source is None:
      continue
    if source.shape == leaf.shape:
      merged[name] = source.astype(leaf.dtype)
      loaded.append(name)
    elif name == positions and _are_grids(source, leaf):
      merged[name] = _resize_grid(source, leaf.shape[0]).astype(leaf.dtype)
      interpolated.append(name)
  report = Report(
    loaded,
    interpolated,
    [name for name in initial if name not in merged],
    [name for name in saved if name not in merged],
    differences(spec, weights.spec),
  )
  return model.unflatten(initial | merged), report


def _image_positions(spec: Mapping[str, Any]) -> str | None:
  """Returns the name of the table of image positions, if there may be one."""
  return _IMAGE_POSITIONS.get(spec["adapter"].get("kind", "image"))


def _are_grids(source: Any, target: Any) -> bool:
  """Returns whether both tables are square grids with the same channels."""
  if source.ndim != 2:
    return False
  sides = [math.isqrt(len(table)) for table in (source, target)]
  square = sides[0] ** 2 == len(source) and sides[1] ** 2 == len(target)
  return square and source.shape[1] == target.shape[1]


def _resize_grid(table: np.ndarray, count: int) -> np.ndarray:
  old, new = math.isqrt(len(table)), math.isqrt(count)
  grid = table.reshape(old, old, -1)
  resized = jax.image.resize(grid, (new, new, grid.shape[-1]), "bicubic")
  return np.asarray(resized).reshape(count, -1)


def differences(
  spec: Mapping[str, Any], other_spec: Mapping[str, Any]
) -> list[str]:
  """Describes the leaves of both specs that have different values."""
  here, there = _leaves(spec), _leaves(other_spec)
  return [
    f"{name} is {here[name]!r} here and {there[name]!r} in the weights"
    for name in sorted(set(here) & set(there))
    if here[name] != there[name]
  ]


def _leaves(spec: Mapping[str, Any], path: str = "model") -> dict[str, Any]:
  """Returns the leaves of a spec by dotted name, with lists as tuples."""
  leaves = {}
  for key, value in spec.items():
    name = f"{path}.{key}"
    if isinstance(value, Mapping):
      leaves |= _leaves(value, name)
    else:
      leaves[name] = tuple(value) if isinstance(value, list) else value
  return leaves
