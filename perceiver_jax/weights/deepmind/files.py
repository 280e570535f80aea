"""The six parameter files that DeepMind released with Perceiver IO.

The files are pickles from 2021, under CC BY 4.0. The ImageNet ones hold
`{"params": ..., "state": ...}`, the others only the parameters, each a mapping
from module to name to array: NumPy arrays (JAX then pickled its own arrays as
NumPy's) in Haiku's `FlatMapping`. They are unpickled safely (see
`weights.unpickle`) and their parameters renamed (see `names`).
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import model
from perceiver_jax.weights.deepmind import names as deepmind_names
from perceiver_jax.weights.unpickle import trees
from perceiver_jax.weights.unpickle.values import printable

Variables = Mapping[str, Mapping[str, np.ndarray]]

_BASE_URL = "https://storage.googleapis.com/perceiver_io/"


class Release(NamedTuple):
  """A released model.

  Attributes:
    name: Name in `models.zoo`.
    file: Name of the released file.
  """

  name: str
  file: str

  @property
  def url(self) -> str:
    """Returns the download address of the file."""
    return _BASE_URL + self.file


RELEASES = (
  Release("imagenet_fourier", "imagenet_fourier_position_encoding.pystate"),
  Release("imagenet_learned", "imagenet_learned_position_encoding.pystate"),
  Release("imagenet_conv", "imagenet_conv_preprocessing.pystate"),
  Release("language_bytes", "language_perceiver_io_bytes.pickle"),
  Release("flow", "optical_flow_checkpoint.pystate"),
  Release("kinetics_784", "video_autoencoding_checkpoint.pystate"),
)


def load(
  path: str | os.PathLike,
  name: str = "",
  spec: Mapping[str, Any] | None = None,
) -> model.Weights:
  """Loads a released file, or one of the same code.

  Args:
    path: The file.
    name: Name of its model in `models.zoo`; "" identifies it by its shapes.
    spec: Spec of the model of a file that is none of the released ones. Whether
      the parameters fit it is not checked.

  Raises:
    UserError: The file can't be read, or is not of one of these models, or the
      name is unknown.
  """
  if name and name not in zoo.MODELS:
    raise UserError(
      f"model {name!r} is unknown: name one of {', '.join(zoo.MODELS)}"
    )
  params, state = read_variables(path)
  try:
    params = deepmind_names.convert(params)
    state = deepmind_names.convert(state)
  except ValueError as error:
    raise UserError(
      f"{path} is not one of the released models: {error}"
    ) from error
  name = name or _identify(params)
  if not name and spec is not None:
    return model.Weights(
      dict(spec), _without_fixed_positions(params, spec), state
    )
  if not name:
    names = ", ".join(r.name for r in RELEASES)
    raise UserError(
      f"{path} has the parameters of none of the released models ({names})"
    )
  entry = zoo.MODELS[name]
  params = _without_fixed_positions(params, entry.spec)
  shapes = model.abstract_variables(entry.spec, entry.example())
  model.check_same_shapes(params, shapes[0], str(path))
  model.check_same_shapes(state, shapes[1], str(path))
  return model.Weights(zoo.get_spec(name), params, state)


def read_variables(path: str | os.PathLike) -> tuple[Variables, Variables]:
  """Reads parameters and state of a released file under DeepMind's names.

  Args:
    path: The file.

  Returns:
    Parameters and state: module to name to array. The state is empty if the
    file holds only parameters.

  Raises:
    UserError: The file can't be read safely (see `trees.read_tree`), or has
      another structure.
  """
  tree = trees.read_tree(path)
  params, state = tree, {}
  if "params" in tree:
    params, state = tree["params"], tree.get("state", {})
  if not (_is_variables(params) and params and _is_variables(state)):
    raise UserError(
      f"{path} holds {printable(', '.join(tree)) or 'nothing'}; it must map "
      "modules to names to arrays, or hold two such mappings, params and "
      "state; give one of DeepMind's parameter files"
    )
  return params, state


def download_hint(*names: str) -> str:
  """Returns advice on where to download the weights of models of the zoo."""
  urls = ", ".join(r.url for r in RELEASES if r.name in names)
  return (
    f"DeepMind published them at {urls}; download one and pass it as"
    " --weights=FILE"
  )


def _identify(params: model.Tree) -> str:
  """Returns the name of the released model with these parameters, or ""."""
  shapes = model.shapes(params)
  size = sum(map(math.prod, shapes.values()))
  for release in RELEASES:
    entry = zoo.MODELS[release.name]
    if size != entry.num_parameters:
      continue  # Tracing a model takes a second.
    expected, _ = model.abstract_variables(entry.spec, entry.example())
    if model.shapes(expected) == shapes:
      return release.name
  return ""


def _without_fixed_positions(
  params: Variables, spec: Mapping[str, Any]
) -> Variables:
  """Leaves out fixed positions, which Perceiver AR's code has as parameters."""
  if spec["adapter"].get("positions") != "sinusoidal":
    return params
  return {
    module: leaves
    for module, leaves in params.items()
    if not module.startswith("adapter/positions_")
  }


def _is_variables(tree: Any) -> bool:
  return isinstance(tree, dict) and all(
    isinstance(leaves, dict)
    and all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
    for leaves in tree.values()
  )
