"""Tokenizers by name: UTF-8 bytes, or a SentencePiece model.

Both start with the special tokens of `byte_tokenizer`, which have the same ids.
Shapes: L tokens of one text.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from perceiver_jax import files
from perceiver_jax.data.text import byte_tokenizer
from perceiver_jax.errors import UserError
from perceiver_jax.viz.text import printable

_FIRST = len(byte_tokenizer.SPECIAL_TOKENS)
# ASCII white space; in UTF-8, no other character contains these bytes.
_SPACES = np.frombuffer(b" \t\n\r\v\f", np.uint8).astype(np.int32) + _FIRST
# The character that SentencePiece uses for the space before a word.
_SPACE = "\u2581"
# A subword that stands for one byte of a character outside the vocabulary.
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def describe_tokens(name: str) -> str:
  """Describes the tokens of a tokenizer in words.

  Args:
    name: `data.tokenizer` of a config: "bytes" or a SentencePiece model.
  """
  special = ", ".join(
    f"{i} {token}" for i, token in enumerate(byte_tokenizer.SPECIAL_TOKENS)
  )
  what = f"each byte of the text in UTF-8, plus {_FIRST}"
  if name != "bytes":
    what = f"ids of the SentencePiece model {Path(name).name}, plus {_FIRST}"
  return f"{what}; then {byte_tokenizer.PAD} as padding; special: {special}"


class Tokenizer(Protocol):
  """Converts text to tokens and back.

  Attributes:
    vocab_size: V; token ids are 0 to V - 1, and the first six are special.
  """

  vocab_size: int

  def encode(self, text: str) -> np.ndarray:
    """Returns the tokens int32 [L] of a text, without special tokens."""
    ...

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of tokens, without special tokens.

    Raises:
      ValueError: `ids` is not one row of tokens.
    """
    ...

  def display(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns one printable line, with special tokens as '[MASK]'."""
    ...

  def words(self, ids: np.ndarray) -> np.ndarray:
    """Returns the index of each token's word, int32 [L]; -1 for none.

    Words are separated by white space, and include the space before them.
    """
    ...

  def starts(self, ids: np.ndarray) -> np.ndarray:
    """Returns the indices of tokens at which a character or subword starts.

    The bytes of one character belong together; a subword is one token.
    """
    ...

  def mask_words(self, text: str, words: str) -> np.ndarray:
    """Returns the tokens of a text, with those of some words replaced by MASK.

    Raises:
      UserError: `words` is empty, not in the text, or not UTF-8.
    """
    ...

  def max_characters(self, length: int) -> int:
    """Returns a number of characters that always fill `length` tokens."""
    ...


class Bytes:
  """Bytes of UTF-8 as tokens; see `byte_tokenizer`."""

  vocab_size = byte_tokenizer.VOCAB_SIZE
  encode = staticmethod(byte_tokenizer.encode)
  decode = staticmethod(byte_tokenizer.decode)
  display = staticmethod(byte_tokenizer.display)
  mask_words = staticmethod(byte_tokenizer.mask_words)

  def words(self, ids: np.ndarray) -> np.ndarray:
    """Returns word indices; a word includes at most one white-space byte."""
    blank = np.isin(ids, _SPACES)
    solid = (ids >= _FIRST) & ~blank
    return _word_indices(solid, blank, np.zeros_like(solid))

  def starts(self, ids: np.ndarray) -> np.ndarray:
    """Returns the indices of bytes that start a character."""
    # In UTF-8, the bytes 0x80 to 0xBF continue a character.
    code = np.asarray(ids) - _FIRST
    continues = (code >= 0x80) & (code < 0xC0)
    continues[:1] = False
    return np.flatnonzero(~continues)

  def max_characters(self, length: int) -> int:
    """Returns `length`, since a character has at least one byte."""
    return length


class SentencePiece:
  """Subwords of a SentencePiece model as tokens, after the special tokens.

  Args:
    path: the model file; `scripts.data.train_sentencepiece` makes one.

  Raises:
    UserError: the package is missing, or the file is not a SentencePiece model.
  """

  def __init__(self, path: str):
    try:
      self._proto = files.read_bytes(files.as_path(path).expanduser())
    except OSError as error:
      raise UserError(
        f"config.data.tokenizer={path} can't be read ({error.strerror}); give"
        " 'bytes' or a SentencePiece .model, which python -m"
        " scripts.data.train_sentencepiece makes"
      ) from error
    try:
      # SentencePiece accepts an empty model and fails only when it is used.
      if not self._proto:
        raise RuntimeError("no bytes")
      self._size = self._processor.get_piece_size()
    except RuntimeError as error:
      raise UserError(
        f"config.data.tokenizer={path} is not a SentencePiece model, or is"
        " damaged; python -m scripts.data.train_sentencepiece makes one"
      ) from error
    self.vocab_size = self._size + _FIRST

  def __getstate__(self) -> dict[str, Any]:
    state = dict(self.__dict__)
    state.pop("_processor", None)
    return state

  @functools.cached_property
  def _processor(self) -> Any:
    try:
      import sentencepiece
    except ImportError as error:
      raise UserError(
        "SentencePiece is not installed: pip install 'perceiver_jax[text]'"
      ) from error
    return sentencepiece.SentencePieceProcessor(model_proto=self._proto)

  @functools.cached_property
  def _subwords(self) -> list[str]:
    return [self._processor.id_to_piece(i) for i in range(self._size)]

  @functools.cached_property
  def _spaced(self) -> np.ndarray:
    """Returns which subwords begin with a space, bool [V - 6]."""
    return np.array([subword.startswith(_SPACE) for subword in self._subwords])

  @functools.cached_property
  def _blank(self) -> np.ndarray:
    """Returns which subwords are only white space, bool [V - 6]."""
    return np.array([_text(subword).isspace() for subword in self._subwords])

  @functools.cached_property
  def _longest(self) -> int:
    return max(map(len, self._subwords))

  def encode(self, text: str) -> np.ndarray:
    """Returns the tokens of a text; see `Tokenizer`."""
    byte_tokenizer.encode(text)  # Raises an error if UTF-8 cannot encode it.
    return np.array(self._processor.encode(text), np.int32) + _FIRST

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of tokens; see `Tokenizer`."""
    ids = byte_tokenizer.check_tokens(ids, self.vocab_size)
    return self._processor.decode((ids[ids >= _FIRST] - _FIRST).tolist())

  def display(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns one printable line; see `Tokenizer`."""
    ids = byte_tokenizer.check_tokens(ids, self.vocab_size)
    return printable("".join(map(self._display_token, ids.tolist())))

  def words(self, ids: np.ndarray) -> np.ndarray:
    """Returns word indices; white space may be a subword or begin one."""
    known = ids >= _FIRST
    subwords = np.maximum(ids - _FIRST, 0)
    blank = known & self._blank[subwords]
    solid = known & ~blank
    return _word_indices(solid, blank, solid & self._spaced[subwords])

  def starts(self, ids: np.ndarray) -> np.ndarray:
    """Returns the indices of all tokens, since a subword is one token."""
    return np.arange(len(ids))

  def mask_words(self, text: str, words: str) -> np.ndarray:
    """Masks every subword that overlaps the words; see `Tokenizer`."""
    ids = self.encode(text)
    # White space around the words may belong to a neighboring subword.
    pattern = re.escape(words.strip() or words)
    word_spans = [m.span() for m in re.finditer(pattern, text)]
    if not words or not word_spans:
      raise UserError(f"{words!r} is not in the text {text!r}: nothing to mask")
    spans = self._processor.encode_as_offset_mapping(text)["offsets"]
    for i, (start, stop) in enumerate(spans):
      if any(start < last and first < stop for first, last in word_spans):
        ids[i] = byte_tokenizer.MASK
    return ids

  def max_characters(self, length: int) -> int:
    """Returns the characters of `length` subwords of maximum length."""
    return length * self._longest

  def _display_token(self, token: int) -> str:
    if token < _FIRST:
      return f"[{byte_tokenizer.SPECIAL_TOKENS[token]}]"
    return _text(self._subwords[token - _FIRST])


def make_tokenizer(name: str) -> Tokenizer:
  """Makes the tokenizer of `config.data.tokenizer`.

  Args:
    name: "bytes", or the path of a SentencePiece .model.

  Raises:
    UserError: the name is neither, or the file cannot be read.
  """
  if name == "bytes":
    return Bytes()
  if not name.endswith(".model"):
    raise UserError(
      f"config.data.tokenizer is {name!r}; give 'bytes' or the path of a"
      " SentencePiece .model"
    )
  return SentencePiece(name)


def tokenizer_for_model(name: str, vocab_size: int) -> Tokenizer:
  """Makes a tokenizer and checks that it has as many tokens as the model.

  Raises:
    UserError: it cannot be read, or `vocab_size` differs from its own.
  """
  tokenizer = make_tokenizer(name)
  if vocab_size != tokenizer.vocab_size:
    raise UserError(
      f"config.model.adapter.vocab_size is {vocab_size} but"
      f" config.data.tokenizer={name} has {tokenizer.vocab_size} tokens; make"
      " them equal"
    )
  return tokenizer


def _text(subword: str) -> str:
  """Returns the text of a subword; U+FFFD for a part of a character."""
  byte = _BYTE.fullmatch(subword)
  if byte is None:
    return subword.replace(_SPACE, " ")
  code = int(byte[1], 16)
  return chr(code) if code < 128 else "\ufffd"


def _word_indices(
  solid: np.ndarray, blank: np.ndarray, spaced: np.ndarray
) -> np.ndarray:
  """Returns the index of each token's word.

  Args:
    solid: bool [L], True at tokens neither special nor only white space.
    blank: bool [L], True at tokens of white space only.
    spaced: bool [L], True at solid tokens that begin with a space.

  Returns:
    int32 [L]; -1 for special tokens and additional white space.
  """
  first = solid & (spaced | ~np.append(False, solid[:-1]))
  # A word includes the white space before it unless it begins with some.
  lead = blank & np.append((first & ~spaced)[1:], False)
  starts = lead | (first & ~np.append(False, lead[:-1]))
  return np.where(solid | lead, np.cumsum(starts) - 1, -1).astype(np.int32)
