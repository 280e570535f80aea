"""Weight files of this project: safetensors with the spec in the header."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import model

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
  path = Path(path)
  if path.suffix != ".safetensors":
    raise UserError(
      f"{path}: the name of a weights file must end in .safetensors"
    )
  tensors = {
    f"{collection}/{name}": np.asarray(leaf, order="C")
    for collection in _COLLECTIONS
    for name, leaf in model.flatten(getattr(weights, collection)).items()
  }
  header = {"format": _FORMAT, "spec": json.dumps(weights.spec)}
  partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    partial.write_bytes(safetensors.numpy.save(tensors, header))
    os.replace(partial, path)
  except OSError as error:
    partial.unlink(missing_ok=True)
    raise UserError(
      f"{path} can't be written: {error.strerror}; give another path"
    ) from error


def load(path: str | os.PathLike) -> model.Weights:
  """Loads a file written by `save`.

  Raises:
    UserError: The file is missing, damaged or not of this project.
  """
  try:
    with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
      header = file.metadata() or {}
      _check_header(header, path)
      # The file is not a mapping; it has only `keys`.
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except FileNotFoundError as error:
    raise UserError(f"no weights file {str(path)!r}") from error
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{path} can't be read: {error}") from error
  spec = _lists_to_tuples(json.loads(header["spec"]))
  params, state = (_collection(tensors, name) for name in _COLLECTIONS)
  _check_spec(spec, path)
  return model.Weights(spec, params, state)


def _lists_to_tuples(value: Any) -> Any:
  """Restores the tuples of a spec, which JSON stores as lists."""
  if isinstance(value, Mapping):
    return {name: _lists_to_tuples(inner) for name, inner in value.items()}
  if isinstance(value, list):
    return tuple(map(_lists_to_tuples, value))
  return value


def _collection(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns the tensors of one collection, without its prefix, as a tree."""
  prefix = name + "/"
  return model.unflatten(
    {
      key.removeprefix(prefix): tensor
      for key, tensor in tensors.items()
      if key.startswith(prefix)
    }
  )


def _check_header(header: Mapping[str, str], path: str | os.PathLike) -> None:
  if header.get("format") != _FORMAT or "spec" not in header:
    raise UserError(
      f"{path} is a safetensors file of another project; for a Hugging Face"
      " checkpoint, give the folder that holds it and config.json"
    )


def _check_spec(spec: Any, path: str | os.PathLike) -> None:
  sections = ("adapter", "encoder", "decoder")
  if not isinstance(spec, dict) or not all(s in spec for s in sections):
    raise UserError(f"{path} has no {', '.join(sections)} in its header")
  kind = spec["decoder"].get("kind")
  if kind not in zoo.DECODERS:
    raise UserError(
      f"{path} has a decoder of an unknown kind: {kind!r}; known are"
      f" {', '.join(zoo.DECODERS)}"
    )
  kind = spec["adapter"].get("kind", "image")
  if kind not in zoo.ADAPTERS:
    raise UserError(
      f"{path} has an adapter of an unknown kind: {kind!r}; known are"
      f" {', '.join(zoo.ADAPTERS)}"
    )
