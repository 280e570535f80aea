"""One or two texts as the tokens of one row, cut and padded to a length."""

from collections.abc import Sequence

import numpy as np

from perceiver_jax.data.text.byte_tokenizer import PAD, SEP
from perceiver_jax.data.text.tokenizers import Tokenizer


def join(
  texts: Sequence[str],
  tokenizer: Tokenizer,
  length: int,
  first: int | None = None,
) -> np.ndarray:
  """Texts with SEP between them, the longest cut first if they don't fit.

  Args:
    texts: one or more; what UTF-8 can't hold becomes "?".
    tokenizer: of the model.
    length: L.
    first: a token to put before them; None for none.

  Returns:
    int32 [L], padded with PAD at the end.
  """
  lead = [] if first is None else [first]
  room = length - len(lead) - (len(texts) - 1)
  # Cut before they are encoded: a text may have megabytes.
  most = tokenizer.max_characters(length)
  rows = [tokenizer.encode(_sound(text[:most])) for text in texts]
  sizes = _cut([len(row) for row in rows], room)
  tokens = np.full(length, PAD, np.int32)
  place = 0
  for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
    start = lead if i == 0 else [SEP]
    part = np.concatenate([np.array(start, np.int32), row[:size]])
    tokens[place : place + len(part)] = part
    place += len(part)
  return tokens


def _cut(sizes: list[int], room: int) -> list[int]:
  """Sizes that add up to `room` at most, the longest made equal."""
  left, found = max(0, room), [0] * len(sizes)
  order = sorted(range(len(sizes)), key=sizes.__getitem__)
  for taken, i in enumerate(order):
    found[i] = min(sizes[i], left // (len(sizes) - taken))
    left -= found[i]
  return found


def _sound(text: str) -> str:
  return text.encode("utf-8", "replace").decode("utf-8")
