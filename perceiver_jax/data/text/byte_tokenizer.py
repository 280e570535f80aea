"""The byte tokenizer of the published language model (Perceiver IO, 4.1).

A token is a byte of the text in UTF-8, so that any text can be encoded and no
vocabulary file is needed. Shapes: L tokens of one text, B texts.
"""

import re
from collections.abc import Sequence

import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.viz.text import printable

PAD, BOS, EOS, MASK, CLS, SEP = range(6)
SPECIAL_TOKENS = ("PAD", "BOS", "EOS", "MASK", "CLS", "SEP")
# The paper counts 4 special tokens; the published parameters have these 6.
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256


def encode(text: str) -> np.ndarray:
  """Converts text to tokens, without special tokens.

  Args:
    text: any text that UTF-8 can encode.

  Returns:
    int32 [L]: each byte plus 6.

  Raises:
    UserError: `text` contains an unpaired surrogate, for example from a
      command-line argument that is not UTF-8.
  """
  try:
    data = text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise UserError(
      f"character {error.start} of the text is {text[error.start]!a}, which "
      "UTF-8 cannot encode; give the text as UTF-8"
    ) from error
  return np.frombuffer(data, np.uint8).astype(np.int32) + len(SPECIAL_TOKENS)


def decode(ids: Sequence[int] | np.ndarray) -> str:
  """Converts tokens to text, skipping special tokens.

  Args:
    ids: [L] integers in 0..261.

  Returns:
    The text; bytes that are not valid UTF-8, which a model may predict, become
    '\ufffd'.

  Raises:
    ValueError: `ids` is not one row of tokens.
  """
  ids = check_tokens(ids)
  return _bytes(ids[ids >= len(SPECIAL_TOKENS)]).decode(
    "utf-8", errors="replace"
  )


def display(ids: Sequence[int] | np.ndarray) -> str:
  """Converts tokens to one printable line.

  Args:
    ids: [L] integers in 0..261.

  Returns:
    The text with special tokens as '[MASK]', line breaks as spaces and
    characters that cannot be printed as '\ufffd'.

  Raises:
    ValueError: `ids` is not one row of tokens.
  """
  ids = check_tokens(ids)
  edges = np.flatnonzero(np.diff(ids < len(SPECIAL_TOKENS))) + 1
  runs = [run for run in np.split(ids, edges) if len(run)]
  return "".join(
    "".join(f"[{SPECIAL_TOKENS[i]}]" for i in run)
    if run[0] < len(SPECIAL_TOKENS)
    else printable(decode(run))
    for run in runs
  )


def mask_words(text: str, words: str) -> np.ndarray:
  """Encodes text and masks every occurrence of some words.

  Args:
    text: any text that UTF-8 can encode.
    words: the part to mask, such as ' missing.'; each byte becomes a MASK.

  Returns:
    int32 [L], as long as `encode(text)`.

  Raises:
    UserError: `words` is empty, not in `text`, or not UTF-8.
  """
  ids, masked = encode(text), _bytes(encode(words))
  spans = [m.span() for m in re.finditer(re.escape(masked), _bytes(ids))]
  if not masked or not spans:
    raise UserError(f"{words!r} is not in the text {text!r}: nothing to mask")
  for start, stop in spans:
    ids[start:stop] = MASK
  return ids


def pad(
  texts: Sequence[np.ndarray], length: int, *, cut: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Pads the tokens of several texts to one length.

  Args:
    texts: B arrays [L] of tokens, of any lengths.
    length: number of tokens that the model takes, 2,048 in the published one.
    cut: truncates long texts instead of raising an error; a character may lose
      some of its bytes.

  Returns:
    Tokens int32 [B, length], padded with PAD, and a mask bool [B, length],
    False at padding.

  Raises:
    UserError: a text is longer than `length`, unless `cut`.
  """
  ids = np.full((len(texts), length), PAD, np.int32)
  for row, text in zip(ids, texts, strict=True):
    if len(text) > length and not cut:
      raise UserError(
        f"the text has {len(text):,} tokens but the model takes {length:,}; "
        "shorten it"
      )
    row[: len(text)] = text[:length]
  sizes = np.array([[len(text)] for text in texts]).reshape(-1, 1)
  return ids, np.arange(length) < sizes


def _bytes(ids: np.ndarray) -> bytes:
  """Returns the bytes of tokens that are not special."""
  return (ids - len(SPECIAL_TOKENS)).astype(np.uint8).tobytes()


def check_tokens(
  ids: Sequence[int] | np.ndarray, vocab_size: int = VOCAB_SIZE
) -> np.ndarray:
  """Returns the tokens as an int64 array [L].

  Raises:
    ValueError: `ids` is not one row of integers from 0 to `vocab_size` - 1.
  """
  array = np.asarray(ids)
  if array.ndim != 1:
    raise ValueError(f"tokens must be one row [L], got shape {array.shape}")
  if array.size and not np.issubdtype(array.dtype, np.integer):
    raise ValueError(f"tokens must be integers, got {array.dtype}")
  array = array.astype(np.int64)
  if wrong := [int(i) for i in array if not 0 <= i < vocab_size]:
    raise ValueError(f"tokens must be 0 to {vocab_size - 1}, got {wrong[0]}")
  return array
