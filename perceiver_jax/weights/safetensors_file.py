"""Weight files of this project: safetensors with the spec in the header."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from perceiver_jax import files
from perceiver_jax.errors import UserError
from perceiver_jax.weights import model, spec_checks, tensors

_FORMAT = "perceiver_jax"
_COLLECTIONS = ("params", "state")


def save(path: str | os.PathLike, weights: model.Weights) -> None:
  """Saves a model's spec and weights in one file, atomically.

  Args:
    path: A path that ends in .safetensors.
    weights: The model and its weights.

  Raises:
    UserError: The path has another suffix or can't be written.
  """
  path = files.as_path(path)
  if path.suffix != ".safetensors":
    raise UserError(
      f"{path}: the name of a weights file must end in .safetensors"
    )
  header = {"format": _FORMAT, "spec": json.dumps(weights.spec)}
  try:
    tensors.write(path, to_arrays(weights), header)
  except OSError as error:
    raise UserError(
      f"{path} can't be written: {error.strerror}; give another path"
    ) from error


def to_arrays(weights: model.Weights) -> dict[str, np.ndarray]:
  """Returns the arrays that a file holds, by 'params/...' or 'state/...'."""
  return {
    f"{collection}/{name}": np.asarray(leaf, order="C")
    for collection in _COLLECTIONS
    for name, leaf in model.flatten(getattr(weights, collection)).items()
  }


def from_arrays(arrays: Mapping[str, Any]) -> tuple[dict, dict]:
  """Returns parameters and state, from what `to_arrays` returns."""
  params, state = (_collection(arrays, name) for name in _COLLECTIONS)
  return params, state


def load(path: str | os.PathLike) -> model.Weights:
  """Loads a file written by `save`.

  Raises:
    UserError: The file is missing, damaged or not of this project, or its spec
      tells other sizes than those of its arrays (see `check_arrays`). An array
      that is missing is only noticed when the model is applied, since a spec
      doesn't tell the inputs that the model takes.
  """
  header, arrays = tensors.read(path)
  if header.get("format") != _FORMAT or "spec" not in header:
    raise UserError(
      f"{path} is a safetensors file of another project; for a Hugging Face"
      " checkpoint, give the folder that holds it and config.json"
    )
  try:
    spec = files.parse_json(header["spec"])
  except ValueError as error:
    raise UserError(f"{path} holds a damaged spec: {error}") from error
  spec_checks.check_spec(spec, path)
  params, state = from_arrays(arrays)
  spec_checks.check_arrays(spec, params, path)
  return model.Weights(_lists_to_tuples(spec), params, state)


def _lists_to_tuples(value: Any) -> Any:
  """Restores the tuples of a spec, which JSON stores as lists."""
  if isinstance(value, Mapping):
    return {name: _lists_to_tuples(inner) for name, inner in value.items()}
  if isinstance(value, list):
    return tuple(map(_lists_to_tuples, value))
  return value


def _collection(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns the arrays of one collection, without its prefix, as a tree."""
  prefix = name + "/"
  return model.unflatten(
    {
      key.removeprefix(prefix): array
      for key, array in arrays.items()
      if key.startswith(prefix)
    }
  )
