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

# What separates the documents of a sequence.
_SEPARATOR = "\n\n"


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
