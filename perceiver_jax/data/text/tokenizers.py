"""Tokenizers by name: UTF-8 bytes, or a SentencePiece model of the user's.

All of them have the special tokens of `byte_tokenizer`, with the same numbers,
before their own. Shapes: L tokens of one text.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import (
  Any,
  Protocol,
)

import numpy as np

from perceiver_jax.data.text import byte_tokenizer
from perceiver_jax.errors import UserError
from perceiver_jax.viz.text import printable

_FIRST = len(byte_tokenizer.SPECIAL_TOKENS)
# ASCII white space; a byte of another character is never one of these.
_SPACES = np.frombuffer(b" \t\n\r\v\f", np.uint8).astype(np.int32) + _FIRST
# What SentencePiece writes for the space before a word.
_SPACE = "\u2581"
# A piece that stands for one byte of a character without a piece.
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer(Protocol):
  """Text to tokens and back.

  Attributes:
    vocab_size: V; tokens are 0 to V - 1, the first six of them special.
  """

  vocab_size: int

  def encode(self, text: str) -> np.ndarray:
    """Tokens int32 [L] of a text, none of them special."""
    ...

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """The text of tokens, special ones left out.

    Raises:
      ValueError: they are not one row of tokens.
    """
    ...

  def display(self, ids: Sequence[int] | np.ndarray) -> str:
    """One printable line, special tokens as '[MASK]'."""
    ...

  def words(self, ids: np.ndarray) -> np.ndarray:
    """The white-space word of each token, int32 [L] from 0; -1 for none.

    The space before a word is part of it.
    """
    ...

  def mask_words(self, text: str, words: str) -> np.ndarray:
    """Tokens of a text, MASK in the place of those of some words.

    Raises:
      UserError: the words are empty or not in the text, or not UTF-8.
    """
    ...

  def max_characters(self, length: int) -> int:
    """Characters of a text that are surely enough for `length` tokens."""
    ...


class Bytes:
  """A token a byte of UTF-8; see `byte_tokenizer`."""

  vocab_size = byte_tokenizer.VOCAB_SIZE
  encode = staticmethod(byte_tokenizer.encode)
  decode = staticmethod(byte_tokenizer.decode)
  display = staticmethod(byte_tokenizer.display)
  mask_words = staticmethod(byte_tokenizer.mask_words)

  def words(self, ids: np.ndarray) -> np.ndarray:
    """As in `Tokenizer`; a word begins with one white-space byte, if any."""
    blank = np.isin(ids, _SPACES)
    solid = (ids >= _FIRST) & ~blank
    return _numbered(solid, blank, np.zeros_like(solid))

  def max_characters(self, length: int) -> int:
    """A character has a byte at least."""
    return length


class SentencePiece:
  """Pieces of a SentencePiece model, after the special tokens.

  Args:
    path: the model file; `scripts.data.train_sentencepiece` makes one.

  Raises:
    UserError: the package is missing, or the file is not such a model.
  """

  def __init__(self, path: str):
    try:
      self._proto = Path(path).expanduser().read_bytes()
    except OSError as error:
      raise UserError(
        f"config.data.tokenizer={path} can't be read ({error.strerror}); give"
        " 'bytes' or a SentencePiece .model, which python -m"
        " scripts.data.train_sentencepiece makes"
      ) from error
    try:
      # An empty model is not refused when it is read, only when it is used.
      if not self._proto:
        raise RuntimeError("no bytes")
      self._size = self._processor.get_piece_size()
    except RuntimeError as error:
      raise UserError(
        f"config.data.tokenizer={path} is no SentencePiece model, or a damaged"
        " one; python -m scripts.data.train_sentencepiece makes one"
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
  def _pieces(self) -> list[str]:
    return [self._processor.id_to_piece(i) for i in range(self._size)]

  @functools.cached_property
  def _spaced(self) -> np.ndarray:
    """Which pieces begin with a space, bool [V - 6]."""
    return np.array([piece.startswith(_SPACE) for piece in self._pieces])

  @functools.cached_property
  def _blank(self) -> np.ndarray:
    """Which pieces are white space only, bool [V - 6]."""
    return np.array([_text(piece).isspace() for piece in self._pieces])

  @functools.cached_property
  def _longest(self) -> int:
    return max(map(len, self._pieces))

  def encode(self, text: str) -> np.ndarray:
    """As in `Tokenizer`."""
    byte_tokenizer.encode(text)  # Refuses what UTF-8 cannot hold, as bytes do.
    return np.array(self._processor.encode(text), np.int32) + _FIRST

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """As in `Tokenizer`."""
    ids = byte_tokenizer.check_tokens(ids, self.vocab_size)
    return self._processor.decode((ids[ids >= _FIRST] - _FIRST).tolist())

  def display(self, ids: Sequence[int] | np.ndarray) -> str:
    """As in `Tokenizer`."""
    ids = byte_tokenizer.check_tokens(ids, self.vocab_size)
    return printable("".join(map(self._shown, ids.tolist())))

  def words(self, ids: np.ndarray) -> np.ndarray:
    """As in `Tokenizer`; white space may be a piece or begin one."""
    known = ids >= _FIRST
    pieces = np.maximum(ids - _FIRST, 0)
    blank = known & self._blank[pieces]
    solid = known & ~blank
    return _numbered(solid, blank, solid & self._spaced[pieces])

  def mask_words(self, text: str, words: str) -> np.ndarray:
    """As in `Tokenizer`; a piece that has any part of the words is masked."""
    ids = self.encode(text)
    # White space around the words is not theirs: it may be in another's piece.
    wanted = re.escape(words.strip() or words)
    places = [m.span() for m in re.finditer(wanted, text)]
    if not words or not places:
      raise UserError(f"{words!r} is not in the text {text!r}: nothing to mask")
    spans = self._processor.encode_as_offset_mapping(text)["offsets"]
    for i, (start, stop) in enumerate(spans):
      if any(start < last and first < stop for first, last in places):
        ids[i] = byte_tokenizer.MASK
    return ids

  def max_characters(self, length: int) -> int:
    """No piece has more characters than the longest."""
    return length * self._longest

  def _shown(self, token: int) -> str:
    if token < _FIRST:
      return f"[{byte_tokenizer.SPECIAL_TOKENS[token]}]"
    return _text(self._pieces[token - _FIRST])


def make_tokenizer(name: str) -> Tokenizer:
  """The tokenizer a config names.

  Args:
    name: "bytes", or the path of a SentencePiece .model.

  Raises:
    UserError: it is neither, or can't be read.
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
  """The tokenizer a config names, for a model that knows `vocab_size` tokens.

  Raises:
    UserError: it can't be read, or has another number of tokens.
  """
  found = make_tokenizer(name)
  if vocab_size != found.vocab_size:
    raise UserError(
      f"config.model.adapter.vocab_size is {vocab_size} but"
      f" config.data.tokenizer={name} has {found.vocab_size} tokens; make"
      " them equal"
    )
  return found


def _text(piece: str) -> str:
  """The text of a piece; U+FFFD for a byte that is no character."""
  byte = _BYTE.fullmatch(piece)
  if byte is None:
    return piece.replace(_SPACE, " ")
  code = int(byte[1], 16)
  return chr(code) if code < 128 else "\ufffd"


def _numbered(
  solid: np.ndarray, blank: np.ndarray, spaced: np.ndarray
) -> np.ndarray:
  """Numbers the words of a text.

  Args:
    solid: bool [L], tokens that are not white space only, nor special.
    blank: bool [L], tokens of white space only.
    spaced: bool [L], solid tokens that begin with a space.

  Returns:
    int32 [L] from 0; -1 for special tokens and surplus white space.
  """
  first = solid & (spaced | ~np.append(False, solid[:-1]))
  # The white space before a word is its own, unless it has some already.
  lead = blank & np.append((first & ~spaced)[1:], False)
  starts = lead | (first & ~np.append(False, lead[:-1]))
  return np.where(solid | lead, np.cumsum(starts) - 1, -1).astype(np.int32)
