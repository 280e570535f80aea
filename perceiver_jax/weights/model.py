"""A model with its weights, and how they are named and checked."""

from collections.abc import Mapping
from typing import (
  Any,
  NamedTuple,
)

import haiku as hk
import jax
import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo

Tree = Mapping[str, Mapping[str, Any]]

_SHOWN = 3


class Weights(NamedTuple):
  """A model and its weights.

  Attributes:
    spec: What `models.zoo.build` takes.
    params: Parameters, module name to parameter name to array.
    state: Running statistics, likewise; {} for most models.
  """

  spec: dict[str, Any]
  params: dict[str, dict[str, np.ndarray]]
  state: dict[str, dict[str, np.ndarray]]


def transformed(spec: Mapping[str, Any]) -> hk.TransformedWithState:
  """The model of a spec as pure functions, for inference.

  `apply(params, state, None, raw, **kwargs)` takes the keyword arguments of
  `models.perceiver.Perceiver` but `is_training`.
  """

  def run(raw, **kwargs):
    # Only in training does BatchNorm make its running statistics.
    is_training = hk.running_init()
    return zoo.build(spec)(raw, is_training=is_training, **kwargs)

  return hk.transform_with_state(run)


def abstract(spec: Mapping[str, Any], raw: Any) -> tuple[Any, Any]:
  """Shapes of parameters and state, nothing allocated.

  Args:
    spec: What `models.zoo.build` takes.
    raw: Raw data, or its shapes, of any batch size.
  """
  init = transformed(spec).init
  return jax.eval_shape(lambda x: init(jax.random.key(0), x), raw)


def flat(tree: Tree) -> dict[str, Any]:
  """Leaves by 'module/name'."""
  return {
    f"{module}/{name}": leaf
    for module, leaves in tree.items()
    for name, leaf in leaves.items()
  }


def nested(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Inverse of `flat`."""
  tree: dict[str, dict[str, Any]] = {}
  for key, leaf in leaves.items():
    module, _, name = key.rpartition("/")
    tree.setdefault(module, {})[name] = leaf
  return tree


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
  """Shapes by 'module/name'."""
  return {name: tuple(leaf.shape) for name, leaf in flat(tree).items()}


def check_fit(found: Tree, wanted: Tree, where: str) -> None:
  """Checks that two trees have the same leaves of the same shapes.

  Args:
    found: What was read.
    wanted: What the model has, arrays or shapes.
    where: The file, for the message.

  Raises:
    UserError: They differ, naming the first leaves that do.
  """
  have, want = shapes(found), shapes(wanted)
  differences = [
    f"{name} is {have.get(name, 'absent')} there and"
    f" {want.get(name, 'absent')} in the model"
    for name in sorted({*have, *want})
    if have.get(name) != want.get(name)
  ]
  if differences:
    shown = "; ".join(differences[:_SHOWN])
    more = len(differences) - _SHOWN
    shown += f"; and {more} more" if more > 0 else ""
    raise UserError(f"{where} does not fit this model: {shown}")
