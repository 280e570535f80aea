"""The authors' released parameter files, read without running their code.

The six published files are pickles: the ImageNet ones hold
`{"params": ..., "state": ...}`, the others the parameters alone, each a
mapping from module to name to array. They were written in 2021, with NumPy's
arrays (JAX then pickled its own as NumPy's) in Haiku's `FlatMapping`.
`unpickler` says why they are not unpickled.
"""

import os
import pathlib
from typing import Any

import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.weights.unpickle import (
  unpickler,
  values,
)
from perceiver_jax.weights.unpickle.values import (
  described,
  refuse,
  shown,
)

Tree = dict[str, "Tree | np.ndarray"]

_MAX_DEPTH = 16  # of nested mappings; a released file has three


def read(path: str | os.PathLike) -> Tree:
  """Reads a pickle of nested mappings of arrays; never runs its code.

  Memory stays within a few times the file's size and some 30 MB.

  Args:
    path: the file; nothing in it is trusted.

  Returns:
    Plain nested dicts of read-only arrays in native byte order. What was
    shared in the file is shared here.

  Raises:
    UserError: the file can't be read, is damaged, or holds or does anything
      else.
  """
  try:
    value = unpickler.evaluate(_load(path))
    if type(value) is not dict:
      refuse(f"holds {described(value)}, not a mapping")
    return _to_tree(value, (), {})
  except values.RefusedError as error:
    raise UserError(f"{path}: {error}") from None
  except unpickler.DamagedError as error:
    raise UserError(
      f"{path} is damaged or not a pickle ({error}); download it again"
    ) from None


def _load(path: str | os.PathLike) -> bytes:
  path = pathlib.Path(path)
  try:
    if path.is_file():
      return path.read_bytes()
    reason = "it is not a file" if path.exists() else "there is no such file"
  except OSError as error:
    reason = error.strerror or type(error).__name__
  raise UserError(
    f"can't read {path}: {reason}; give a local copy of one of "
    "the authors' parameter files"
  )


def _to_tree(
  value: Any, keys: tuple[str, ...], done: dict[int, Any]
) -> Tree | np.ndarray:
  """Replaces what is left of the machine's types by plain ones.

  Args:
    value: a value of the machine.
    keys: those that led to it.
    done: results by the identity of the value, None for one that is being
      visited: what is shared a million times is converted once.

  Returns:
    The dict or array.
  """
  if id(value) in done:
    if done[id(value)] is None:
      refuse(f"has a mapping that contains itself, {_joined(keys)}")
    return done[id(value)]
  if len(keys) > _MAX_DEPTH:
    refuse(f"nests mappings more than {_MAX_DEPTH} deep")
  if type(value) is dict:
    done[id(value)] = None
    result = {k: _to_tree(v, (*keys, k), done) for k, v in value.items()}
  elif type(value) is values.Array and value.value is not None:
    result = value.value
  else:
    refuse(f"holds {described(value)} as {_joined(keys)}, not an array")
  done[id(value)] = result
  return result


def _joined(keys: tuple[str, ...]) -> str:
  return "/".join(map(shown, keys))
