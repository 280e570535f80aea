"""Sequences of the tokens of texts.

Shapes: E tokens of a sequence.
"""

import functools

import numpy as np

from perceiver_jax.data.core.source import Example
from perceiver_jax.data.sequences.source import counted
from perceiver_jax.data.text.byte_tokenizer import BOS, EOS
from perceiver_jax.data.text.corpora import Documents
from perceiver_jax.data.text.tokenizers import Tokenizer

# Separator of the documents of a sequence.
_SEPARATOR = "\n\n"
# Number of cached sequences.
_CACHED = 16
# Characters of a random part for each token that is needed; subwords have about
# four.
_CHARACTERS_PER_TOKEN = 8


class Texts:
  """Consecutive documents as one sequence, from BOS to EOS.

  Args:
    documents: The texts.
    tokenizer: Tokenizer of the model.
    count: Number of documents of a sequence; the last one may have fewer.
  """

  first_target = 1

  def __init__(self, documents: Documents, tokenizer: Tokenizer, count: int):
    self._documents = documents
    self._tokenizer = tokenizer
    self._count = count
    self.in_memory = documents.in_memory

  def __len__(self) -> int:
    return -(-len(self._documents) // self._count)

  # An evaluation asks for a sequence once for each of its windows.
  @functools.lru_cache(_CACHED)  # noqa: B019 (lives as long as its program)
  def __getitem__(self, index: int) -> Example:
    text = self.text(index)
    tokens = self._tokens(text)
    return {
      "tokens": tokens,
      "positions": counted(tokens),
      "num_units": len(text.encode("utf-8", "replace")),
      "num_words": len(text.split()),
    }

  def text(self, index: int) -> str:
    """Returns the text of a sequence."""
    start = index * self._count
    stop = min(start + self._count, len(self._documents))
    return _SEPARATOR.join(self._documents[i] for i in range(start, stop))

  @functools.cache  # noqa: B019 (lives as long as its program)
  def lengths(self) -> np.ndarray:
    """Returns the number of tokens of each sequence, which reads all."""
    sizes = (len(self._tokens(self.text(i))) for i in range(len(self)))
    return np.fromiter(sizes, np.int64, len(self))

  def _tokens(self, text: str) -> np.ndarray:
    inner = self._tokenizer.encode(text)
    return np.concatenate([[BOS], inner, [EOS]]).astype(np.int32)


class Untokenized:
  """The text of each sequence, for training.

  Args:
    texts: The sequences.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, texts: Texts):
    self._texts = texts
    self.in_memory = texts.in_memory

  def __len__(self) -> int:
    return len(self._texts)

  def __getitem__(self, index: int) -> Example:
    return {"text": self._texts.text(index)}


def random_part(
  text: str,
  tokenizer: Tokenizer,
  num_tokens: int,
  shortest: int,
  rng: np.random.Generator,
) -> Example:
  """Returns the tokens before a random place of a text.

  All places are about equally likely. Only the characters that are needed are
  tokenized, since a book takes a fifth of a second.

  Args:
    text: A whole sequence.
    tokenizer: Tokenizer of the model.
    num_tokens: Largest number of tokens.
    shortest: Smallest number of characters before the place, if the text has
      that many.
    rng: Draws the place.

  Returns:
    `tokens` int32 [E] and `positions` int32 [E, 1]. BOS and EOS are among them
    where the text begins and ends.
  """
  end = int(rng.integers(min(max(shortest, 2), len(text)), len(text) + 1))
  start = max(0, end - _CHARACTERS_PER_TOKEN * num_tokens)
  tokens = tokenizer.encode(text[start:end])
  if end < len(text):
    tokens = tokens[:-1]  # It may be a part of a subword.
  first = [BOS] if start == 0 else []
  last = [EOS] if end == len(text) else []
  tokens = np.concatenate([first, tokens, last]).astype(np.int32)[-num_tokens:]
  return {"tokens": tokens, "positions": counted(tokens)}
