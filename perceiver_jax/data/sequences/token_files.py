"""Sequences of token ids from files, such as music in symbols.

A file ending in `.npy` holds integers [E], a sequence, or [n, E]; in `.npz`,
one sequence [E] in each array; in `.json`, a list of integers, a list of such
lists, or an object whose "ids" is either, as MidiTok writes them; in `.jsonl`,
any of these in each line. Shapes: E tokens of a sequence.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from perceiver_jax import files
from perceiver_jax.checks import check_choice
from perceiver_jax.data.core import records, splits
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.sequences.source import EOS, NUM_SPECIAL, SOS, counted
from perceiver_jax.errors import UserError

SPLITS = ("train", "test")
# Every tenth sequence is held out where there are no files for it.
_STRIDE = 10
_LEAF = "config.data.source_args.token_files"


class TokenSequences:
  """Sequences of ids from 0, each between SOS and EOS.

  Args:
    sequences: Ids int [E - 2] of each sequence.
  """

  in_memory = True
  first_target = 1

  def __init__(self, sequences: list[np.ndarray]):
    self._sequences = sequences

  def __len__(self) -> int:
    return len(self._sequences)

  def __getitem__(self, index: int) -> Example:
    ids = self._sequences[index] + np.int32(NUM_SPECIAL)
    tokens = np.concatenate([[SOS], ids, [EOS]]).astype(np.int32)
    return {
      "tokens": tokens,
      "positions": counted(tokens),
      "num_units": len(ids),
    }

  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each sequence."""
    sizes = (len(ids) + 2 for ids in self._sequences)
    return np.fromiter(sizes, np.int64, len(self))


def token_files(
  train: str, split: str, eval: str = "", num_values: int = 388
) -> TokenSequences:
  """Returns the sequences of files; see the module's description.

  Args:
    train: A folder, searched recursively, or a pattern such as 'a/*.npz'.
    split: "train" or "test".
    eval: The same for the held-out files; if empty, every tenth sequence of
      `train` is held out, or the last one if there are fewer.
    num_values: Number of different ids, which are below it; 388 in the event
      representation of MAESTRO.

  Raises:
    UserError: There is no file, or one can't be read.
  """
  check_choice(split, SPLITS, "split", "token files")
  which = "eval" if split == "test" and eval else "train"
  paths = _matches(eval if which == "eval" else train, which)
  sequences = [ids for path in paths for ids in read(path, num_values)]
  if not eval:
    is_held_out = np.arange(1, len(sequences) + 1) % _STRIDE == 0
    is_held_out[-1:] |= not is_held_out.any()
    remedy = f"give more, or files for evaluation in {_LEAF}.eval"
    chosen = splits.part(is_held_out, split, "sequence", remedy)
    sequences = [sequences[i] for i in np.flatnonzero(chosen)]
  return TokenSequences(sequences)


def _matches(pattern: str, which: str) -> list[str]:
  """Returns the files of a folder or pattern, sorted."""
  known = [
    path
    for path in files.local_matches(pattern)
    if os.path.splitext(path)[1].lower() in _READERS
  ]
  if not known:
    raise UserError(
      f"no token file {pattern!r}; give a folder or a pattern of"
      f" {', '.join(_READERS)} files in {_LEAF}.{which}"
    )
  return known


def read(path: str, num_values: int) -> Iterator[np.ndarray]:
  """Yields the sequences int32 of a file that are not empty.

  Args:
    path: The file; see the module's description.
    num_values: Number of different ids, which are below it.

  Raises:
    UserError: The file can't be read.
  """
  reader = _READERS.get(os.path.splitext(path)[1].lower())
  if reader is None:
    raise UserError(
      f"{path} is not a file of token ids: give one of {', '.join(_READERS)}"
    )
  try:
    for ids in map(_ids, reader(path)):
      if len(ids) and not 0 <= ids.min() <= ids.max() < num_values:
        raise ValueError(
          f"an id of {ids.min()} to {ids.max()} where 0 to {num_values - 1} are"
          f" expected; see {_LEAF}.num_values"
        )
      if len(ids):
        yield ids.astype(np.int32)
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} can't be read as a file of token ids: {error}; fix the file, or"
      " leave it out"
    ) from error


def _ids(values: Any) -> np.ndarray:
  """Returns a sequence as an array, or raises a ValueError."""
  ids = np.asarray(values)
  if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
    raise ValueError(
      f"an array of {ids.dtype} with {ids.ndim} axes, not integers with one"
    )
  return ids


def _array(path: str) -> Iterator[np.ndarray]:
  array = records.decode_array(files.read_bytes(path))
  return iter(array if array.ndim == 2 else [array])


def _arrays(path: str) -> Iterator[np.ndarray]:
  arrays = records.decode(files.read_bytes(path))
  return (arrays[name] for name in sorted(arrays))


def _json(path: str) -> Iterator[Any]:
  return _lists(files.read_json(path))


def _json_lines(path: str) -> Iterator[Any]:
  for line in files.read_text(path).splitlines():
    if line.strip():
      yield from _lists(files.parse_json(line))


def _lists(value: Any) -> Iterator[Any]:
  """Returns the sequences of a JSON value."""
  if isinstance(value, dict):
    if "ids" not in value:
      raise ValueError('an object without "ids"')
    value = value["ids"]
  if not isinstance(value, list):
    raise ValueError("not a list of ids")
  return iter(value if value and isinstance(value[0], list) else [value])


_READERS: dict[str, Callable[[str], Iterator[Any]]] = {
  ".npy": _array,
  ".npz": _arrays,
  ".json": _json,
  ".jsonl": _json_lines,
}
