"""Sequences whose second half mirrors the first (the authors' copy task)."""

import numpy as np

from perceiver_jax.checks import check_choice, check_leaf
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.sequences.source import EOS, NUM_SPECIAL, SOS, counted

SPLITS = ("train", "test")


class Mirrored:
  """Random values followed by the same in reverse order.

  A sequence starts with SOS and ends with EOS. Only its second half can be
  predicted, and only that counts in evaluation.

  Args:
    split: "train" or "test"; their sequences are independent.
    length: Number of tokens of a sequence, special ones included; even.
    num_train: Number of training sequences.
    num_test: Number of test sequences.
    num_values: Number of different values.

  Raises:
    UserError: A number is out of range.
  """

  in_memory = True

  def __init__(
    self,
    split: str,
    length: int = 131_072,
    num_train: int = 1_000_000,
    num_test: int = 16,
    num_values: int = 256,
  ):
    check_choice(split, SPLITS, "split", "mirrored sequences")
    leaf = "data.source_args.mirrored"
    check_leaf(
      f"{leaf}.length",
      length,
      length >= 4 and length % 2 == 0,
      "an even number of tokens, 4 or more",
    )
    check_leaf(f"{leaf}.num_values", num_values, num_values >= 1, "1 or more")
    self._seed = SPLITS.index(split)
    self._size = num_train if split == "train" else num_test
    self._length = length
    self._num_values = num_values
    self.first_target = length // 2

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> Example:
    rng = np.random.default_rng((self._seed, index))
    half = rng.integers(0, self._num_values, self._length // 2 - 1) + (
      NUM_SPECIAL
    )
    tokens = np.concatenate([[SOS], half, half[::-1], [EOS]]).astype(np.int32)
    return {"tokens": tokens, "positions": counted(tokens)}

  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each sequence."""
    return np.full(self._size, self._length, np.int64)
