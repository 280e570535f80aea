"""Joins one or two texts into a row of tokens of a given length."""

from collections.abc import Sequence

import numpy as np

from perceiver_jax.data.text.byte_tokenizer import PAD, SEP
from perceiver_jax.data.text.tokenizers import Tokenizer


def join(
  texts: Sequence[str],
  tokenizer: Tokenizer,
  length: int,
  first_token: int | None = None,
) -> np.ndarray:
  """Joins texts with SEP, truncating the longest ones first if they don't fit.

  Args:
    texts: one or more; characters that UTF-8 cannot encode become "?".
    tokenizer: tokenizer of the model.
    length: L.
    first_token: a token to put before the texts, or None.

  Returns:
    int32 [L], padded with PAD at the end.
  """
  lead = [] if first_token is None else [first_token]
  room = length - len(lead) - (len(texts) - 1)
  # Truncates texts before encoding, since they may have megabytes.
  max_chars = tokenizer.max_characters(length)
  rows = [tokenizer.encode(_encodable(text[:max_chars])) for text in texts]
  sizes = _shorten([len(row) for row in rows], room)
  tokens = np.full(length, PAD, np.int32)
  position = 0
  for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
    start = lead if i == 0 else [SEP]
    part = np.concatenate([np.array(start, np.int32), row[:size]])
    tokens[position : position + len(part)] = part
    position += len(part)
  return tokens


def _shorten(sizes: list[int], room: int) -> list[int]:
  """Reduces the largest sizes equally until the sum is at most `room`."""
  left, new_sizes = max(0, room), [0] * len(sizes)
  order = sorted(range(len(sizes)), key=sizes.__getitem__)
  for taken, i in enumerate(order):
    new_sizes[i] = min(sizes[i], left // (len(sizes) - taken))
    left -= new_sizes[i]
  return new_sizes


def _encodable(text: str) -> str:
  """Replaces characters that UTF-8 cannot encode by "?"."""
  return text.encode("utf-8", "replace").decode("utf-8")
