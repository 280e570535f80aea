"""Our own weight files: safetensors with the spec in the header."""

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
_SECTIONS = ("params", "state")


def save(path: str | os.PathLike, weights: model.Weights) -> None:
  """Writes a model and its weights, so that a reader sees all or nothing.

  Args:
    path: A file that ends in .safetensors.
    weights: The model.

  Raises:
    UserError: It can't be written.
  """
  path = Path(path)
  if path.suffix != ".safetensors":
    raise UserError(f"{path}: a weight file ends in .safetensors")
  tensors = {
    f"{section}/{name}": np.ascontiguousarray(leaf)
    for section in _SECTIONS
    for name, leaf in model.flat(getattr(weights, section)).items()
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
  """Reads what `save` wrote.

  Raises:
    UserError: It is missing, damaged or of another kind.
  """
  try:
    with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
      header = file.metadata() or {}
      _check_header(header, path)
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
  except FileNotFoundError as error:
    raise UserError(f"no weight file {str(path)!r}") from error
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{path} can't be read: {error}") from error
  spec = tuples(json.loads(header["spec"]))
  params, state = (_section(tensors, name) for name in _SECTIONS)
  _check_spec(spec, path)
  return model.Weights(spec, params, state)


def tuples(value: Any) -> Any:
  """JSON's lists back to tuples, which specs and configs hold."""
  if isinstance(value, Mapping):
    return {name: tuples(inner) for name, inner in value.items()}
  return tuple(map(tuples, value)) if isinstance(value, list) else value


def _section(tensors: Mapping[str, Any], section: str) -> dict[str, Any]:
  start = section + "/"
  return model.nested(
    {
      k.removeprefix(start): v
      for k, v in tensors.items()
      if k.startswith(start)
    }
  )


def _check_header(header: Mapping[str, str], path: str | os.PathLike) -> None:
  if header.get("format") != _FORMAT or "spec" not in header:
    raise UserError(
      f"{path} is a safetensors file of another project; a checkpoint of"
      " Hugging Face's is given by its folder, with config.json"
    )


def _check_spec(spec: Any, path: str | os.PathLike) -> None:
  sections = ("adapter", "encoder", "decoder")
  if not isinstance(spec, dict) or not all(s in spec for s in sections):
    raise UserError(f"{path} has no {', '.join(sections)} in its header")
  kind = spec["decoder"].get("kind")
  if kind not in zoo.DECODERS:
    raise UserError(f"{path} has a decoder of an unknown kind: {kind!r}")
