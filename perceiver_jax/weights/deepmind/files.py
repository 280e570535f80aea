"""The six models that the authors released, and where their files are.

The files are pickles of 2021 under CC BY 4.0. They are read without running
anything in them (see `unpickle`) and renamed (see `names`).
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import model
from perceiver_jax.weights.deepmind import names as deepmind_names
from perceiver_jax.weights.unpickle import trees
from perceiver_jax.weights.unpickle.values import shown

Variables = Mapping[str, Mapping[str, np.ndarray]]

_BASE = "https://storage.googleapis.com/perceiver_io/"


class Release(NamedTuple):
  """A released model.

  Attributes:
    name: In `models.zoo`.
    file: Name of the released file.
  """

  name: str
  file: str

  @property
  def url(self) -> str:
    """Where the authors published it."""
    return _BASE + self.file


RELEASES = (
  Release("imagenet_fourier", "imagenet_fourier_position_encoding.pystate"),
  Release("imagenet_learned", "imagenet_learned_position_encoding.pystate"),
  Release("imagenet_conv", "imagenet_conv_preprocessing.pystate"),
  Release("language_bytes", "language_perceiver_io_bytes.pickle"),
  Release("flow", "optical_flow_checkpoint.pystate"),
  Release("kinetics_784", "video_autoencoding_checkpoint.pystate"),
)


def load(path: str | os.PathLike, name: str = "") -> model.Weights:
  """Reads a file as the authors released it.

  Args:
    path: The file.
    name: Which of `models.zoo` it is of; "" tells it by the shapes.

  Raises:
    UserError: It can't be read, or is of none of these models.
  """
  params, state = read_variables(path)
  try:
    params, state = (
      deepmind_names.convert(params),
      deepmind_names.convert(state),
    )
  except ValueError as error:
    raise UserError(
      f"{path} is not one of the released models: {error}"
    ) from error
  name = name or _recognise(params, path)
  entry = zoo.MODELS[name]
  wanted, wanted_state = model.abstract(entry.spec, entry.example())
  model.check_fit(params, wanted, str(path))
  model.check_fit(state, wanted_state, str(path))
  return model.Weights(zoo.spec(name), params, state)


def read_variables(path: str | os.PathLike) -> tuple[Variables, Variables]:
  """Reads the parameters and the network state of a published file.

  Args:
    path: the file.

  Returns:
    Module to name to array: the parameters, and the state, which is empty if
    the file holds parameters alone.

  Raises:
    UserError: as `trees.read`; or what the file holds is structured otherwise.
  """
  tree = trees.read(path)
  params, state = tree, {}
  if "params" in tree:
    params, state = tree["params"], tree.get("state", {})
  if not params or not (_is_variables(params) and _is_variables(state)):
    raise UserError(
      f"{path} holds {shown(', '.join(tree)) or 'nothing'}; it must map "
      "modules to names to arrays, or have two such mappings, params and "
      "state; give one of the authors' parameter files"
    )
  return params, state


def where_to_get(*names: str) -> str:
  """A sentence that says where the weights of models are published."""
  files = ", ".join(r.url for r in RELEASES if r.name in names)
  return (
    f"the authors published them at {files}; download one and pass it as"
    " --weights=FILE"
  )


def _recognise(params: model.Tree, path: str | os.PathLike) -> str:
  found = model.shapes(params)
  for release in RELEASES:
    entry = zoo.MODELS[release.name]
    if model.shapes(model.abstract(entry.spec, entry.example())[0]) == found:
      return release.name
  names = ", ".join(r.name for r in RELEASES)
  raise UserError(
    f"{path} has the parameters of none of the released models ({names})"
  )


def _is_variables(tree: Any) -> bool:
  return isinstance(tree, dict) and all(
    isinstance(leaves, dict)
    and all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
    for leaves in tree.values()
  )
