"""Reads nested mappings of arrays from pickles, safely."""

import os
from typing import Any

import numpy as np

from perceiver_jax import files, limits
from perceiver_jax.errors import UserError
from perceiver_jax.weights.unpickle import unpickler, values
from perceiver_jax.weights.unpickle.values import describe, printable, refuse

Tree = dict[str, "Tree | np.ndarray"]

_MAX_DEPTH = 16  # Levels of nested mappings; the released files have three.


def read_tree(path: str | os.PathLike) -> Tree:
  """Reads a pickle of nested mappings of arrays without running its code.

  Memory use is limited to a few times the file's size plus about 30 MB.

  Args:
    path: The file; nothing in it is trusted.

  Returns:
    Nested dicts of read-only arrays in native byte order. Mappings and arrays
    that are shared in the file are shared in the result.

  Raises:
    UserError: The file can't be read, is damaged, or holds or does anything
      else.
  """
  try:
    value = unpickler.unpickle(_read_bytes(path))
    if type(value) is not dict:
      refuse(f"holds {describe(value)}, not a mapping")
    tree = _to_tree(value, (), {})
    # Mappings that are shared many times make few bytes many arrays.
    if (count := _count(tree, {})) > limits.MAX_ARRAYS:
      refuse(f"holds {count:,} arrays; at most {limits.MAX_ARRAYS:,} are read")
    return tree
  except values.RefusedError as error:
    raise UserError(f"{path}: {error}") from None
  except unpickler.DamagedError as error:
    raise UserError(
      f"{path} is damaged or not a pickle ({error}); download it again"
    ) from None


def _read_bytes(path: str | os.PathLike) -> bytes:
  try:
    return files.read_bytes(path)
  except OSError as error:
    raise UserError(
      f"can't read {path}: {error.strerror or error}; give a local copy of one"
      " of DeepMind's parameter files"
    ) from error


def _to_tree(
  value: Any, keys: tuple[str, ...], done: dict[int, Any]
) -> Tree | np.ndarray:
  """Converts an unpickled value to nested dicts of NumPy arrays.

  Args:
    value: A value returned by `unpickler.unpickle`.
    keys: Path of keys to the value.
    done: Results by the identity of the value, so that shared values are
      converted once; None marks a value that is being converted.

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
    refuse(f"holds {describe(value)} as {_joined(keys)}, not an array")
  done[id(value)] = result
  return result


def _count(tree: Tree | np.ndarray, counts: dict[int, int]) -> int:
  """Counts the arrays and empty mappings of a tree, shared ones each time."""
  if isinstance(tree, np.ndarray):
    return 1
  if id(tree) not in counts:
    total = sum(_count(value, counts) for value in tree.values())
    counts[id(tree)] = max(1, total)
  return counts[id(tree)]


def _joined(keys: tuple[str, ...]) -> str:
  return "/".join(map(printable, keys))
