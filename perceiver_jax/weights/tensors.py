"""Reads and writes the arrays of safetensors files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from perceiver_jax import files, limits
from perceiver_jax.errors import UserError

# Types of safetensors that NumPy and ml_dtypes read as one number per element.
_TYPES = {"F64", "F32", "F16", "BF16", "BOOL"}
_TYPES |= {f"{kind}{bits}" for kind in "IU" for bits in (8, 16, 32, 64)}
_LENGTH_BYTES = 8
_ALIGNMENT = 8


def read(
  path: str | os.PathLike,
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
  """Reads the metadata and the arrays of a file.

  Raises:
    UserError: The file is missing or damaged, or holds an array of another
      type than numbers of 8 to 64 bits.
  """
  try:
    local = files.local_file(path)
    with safetensors.safe_open(os.fspath(local), framework="numpy") as file:
      names = list(file.keys())
      _check(path, names, file)
      tensors = {name: file.get_tensor(name) for name in names}
      return file.metadata() or {}, tensors
  except FileNotFoundError as error:
    raise UserError(f"no weights file {str(path)!r}") from error
  except (OSError, safetensors.SafetensorError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(
      f"{path} can't be read: {reason}; give a complete safetensors file"
    ) from error


def write(
  path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes a file atomically; equal contents give equal bytes.

  Raises:
    OSError: The file can't be written.
    SafetensorError: An array has a type that the format lacks.
  """
  data = safetensors.numpy.save(dict(tensors), dict(metadata))
  # The library writes the metadata in random order.
  end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
  header = json.loads(data[_LENGTH_BYTES:end])
  header["__metadata__"] = dict(sorted(metadata.items()))
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % _ALIGNMENT)
  with files.replacing(path) as partial, open(partial, "wb") as file:
    file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
    file.write(text)
    file.write(memoryview(data)[end:])


def _check(path: str | os.PathLike, names: list[str], file: object) -> None:
  if len(names) > limits.MAX_ARRAYS:
    raise UserError(
      f"{path} holds {len(names):,} arrays; at most {limits.MAX_ARRAYS:,} are"
      " read"
    )
  for name in names:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _TYPES:
      raise UserError(
        f"{path}: {name} has the type {dtype}, which is not read; save it as"
        " F32, F16 or BF16"
      )
