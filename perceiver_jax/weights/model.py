"""A model with its weights, and helpers for trees of weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.models.ops.execution import AUTO, Execution

Tree = Mapping[str, Mapping[str, Any]]

_MAX_NAMED = 3


class Weights(NamedTuple):
  """A model and its weights.

  Attributes:
    spec: Argument of `models.zoo.build`.
    params: Parameters: module name to parameter name to array.
    state: Running statistics in the same form; {} for most models.
  """

  spec: dict[str, Any]
  params: dict[str, dict[str, np.ndarray]]
  state: dict[str, dict[str, np.ndarray]]


def transform(
  spec: Mapping[str, Any], execution: Execution = AUTO
) -> hk.TransformedWithState:
  """Returns the model of a spec as pure functions `init` and `apply`.

  `apply(params, state, None, raw, **kwargs)` takes the keyword arguments of
  `models.perceiver.Perceiver`; `is_training` is False unless given.
  """

  def run(raw, is_training=False, **kwargs):
    # BatchNorm creates its running statistics only in training mode.
    is_training = is_training or hk.running_init()
    return zoo.build(spec, execution)(raw, is_training=is_training, **kwargs)

  return hk.transform_with_state(run)


def abstract_variables(spec: Mapping[str, Any], raw: Any) -> tuple[Any, Any]:
  """Returns the shapes of parameters and state without allocating memory.

  Args:
    spec: Argument of `models.zoo.build`.
    raw: Raw inputs, or their shapes, of any batch size.
  """
  init = transform(spec).init
  return jax.eval_shape(lambda x: init(jax.random.key(0), x), raw)


def flatten(tree: Tree) -> dict[str, Any]:
  """Flattens a tree to a dict from 'module/name' to leaf."""
  return {
    f"{module}/{name}": leaf
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def unflatten(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Inverts `flatten`."""
  tree: dict[str, dict[str, Any]] = {}
  for key, leaf in leaves.items():
    module, _, name = key.rpartition("/")
    tree.setdefault(module, {})[name] = leaf
  return tree


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each leaf by 'module/name'."""
  return {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()}


def check_finite(weights: Weights, path: Any) -> None:
  """Checks that no parameter is NaN or infinite.

  Args:
    weights: The weights.
    path: Path of the file, for the error.

  Raises:
    UserError: One is; the message names its array.
  """
  for name, array in flatten(weights.params).items():
    if not np.isfinite(np.asarray(array, np.float32)).all():
      raise UserError(
        f"{path} has values in {name} that are NaN or infinite: its training"
        " diverged, or the file is damaged; give other weights"
      )


def check_same_shapes(loaded: Tree, expected: Tree, path: str) -> None:
  """Checks that two trees have the same leaves of the same shapes.

  Args:
    loaded: Arrays from a file.
    expected: Arrays of the model, or their shapes.
    path: Path of the file, for the error.

  Raises:
    UserError: They differ; the message names the first leaves that do.
  """
  in_file, in_model = shapes(loaded), shapes(expected)
  differences = [
    f"{name} is {in_file.get(name, 'absent')} in the file and"
    f" {in_model.get(name, 'absent')} in the model"
    for name in sorted({*in_file, *in_model})
    if in_file.get(name) != in_model.get(name)
  ]
  if differences:
    text = "; ".join(differences[:_MAX_NAMED])
    more = len(differences) - _MAX_NAMED
    text += f"; and {more} more" if more > 0 else ""
    raise UserError(f"{path} does not fit this model: {text}")
