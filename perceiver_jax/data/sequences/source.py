"""The protocol of sequences of tokens, and windows of them.

Shapes: E tokens of a sequence, d dimensions of positions.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from perceiver_jax.data.core.source import Example

# The special tokens of the authors of Perceiver AR. Values follow them; texts
# have those of `byte_tokenizer` instead. 0 is padding in both.
PAD, EOS, SOS = range(3)
NUM_SPECIAL = 3


class Sequences(Protocol):
  """Protocol of sequences that can be fetched in any order.

  Attributes:
    in_memory: Whether sequences are fetched without reading files.
    first_target: Index of the first token of a sequence whose prediction counts
      in evaluation.
  """

  in_memory: bool
  first_target: int

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example:
    """Returns a sequence.

    It has `tokens` int32 [E], special ones included, and `positions` int32
    [E, d], all positive. `num_units`, if given, is a number of bytes or values
    over which the code length is averaged; texts have `num_words` too.
    """
    ...

  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each sequence, int64 [len]."""
    ...


class Windows:
  """Parts of sequences that together predict each token exactly once.

  A window predicts up to `stride` tokens, each from all tokens before it. The
  smaller the stride, the more of the model's latents come before those that
  count, and the more windows there are (Perceiver AR's strided evaluation).

  Args:
    sequences: The sequences.
    stride: Number of tokens that a window predicts.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, sequences: Sequences, stride: int):
    self._sequences = sequences
    self._stride = stride
    self.in_memory = sequences.in_memory
    self._num_targets = np.maximum(
      sequences.lengths() - sequences.first_target, 0
    )
    self._ends = np.cumsum(-(-self._num_targets // stride))

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> Example:
    """Returns a sequence with `start` and `end` of the tokens to predict.

    `num_units` and `num_words` are shared by the windows of a sequence in
    proportion to these tokens, so that their sums are exact.
    """
    number = int(np.searchsorted(self._ends, index, side="right"))
    first = int(self._ends[number - 1]) if number else 0
    example = dict(self._sequences[number])
    start = self._sequences.first_target + (index - first) * self._stride
    end = min(start + self._stride, len(example["tokens"]))
    share = (end - start) / int(self._num_targets[number])
    for name in ("num_units", "num_words"):
      if name in example:
        example[name] = np.float32(share * example[name])
    return {**example, "start": start, "end": end}


class Whole:
  """Whole sequences as the examples of a pipeline, for training."""

  class_names = ()
  num_classes = 0

  def __init__(self, sequences: Sequences):
    self._sequences = sequences
    self.in_memory = sequences.in_memory

  def __len__(self) -> int:
    return len(self._sequences)

  def __getitem__(self, index: int) -> Example:
    return self._sequences[index]


def counted(tokens: np.ndarray) -> np.ndarray:
  """Returns the positions int32 [E, 1] of tokens [E], from 1."""
  return np.arange(1, len(tokens) + 1, dtype=np.int32)[:, None]


class Chain:
  """Several sets of sequences, one after the other.

  Args:
    parts: The sets, of the same kind; at least one.
  """

  def __init__(self, parts: Sequence[Sequences]):
    self._parts = tuple(parts)
    self._ends = np.cumsum([len(part) for part in parts])
    self.in_memory = all(part.in_memory for part in parts)
    self.first_target = parts[0].first_target

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> Example:
    number = int(np.searchsorted(self._ends, index, side="right"))
    first = int(self._ends[number - 1]) if number else 0
    return self._parts[number][index - first]

  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each sequence."""
    return np.concatenate([part.lengths() for part in self._parts])
