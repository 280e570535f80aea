"""Crops and whole-word masking for masked language modeling.

Follows Perceiver IO, section 4.1 and app. F: documents are concatenated and
cropped to the model's length, and whole words of the crop, as separated by
white space, are masked. Shapes: L tokens of a crop.
"""

import numpy as np

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.text.byte_tokenizer import PAD
from perceiver_jax.data.text.corpora import Documents
from perceiver_jax.data.text.tokenizers import Tokenizer

# White space, so that no word spans two documents.
_SEPARATOR = "\n\n"


class JoinedDocuments:
  """Examples of several consecutive documents, one starting at each document.

  Args:
    documents: the texts; there may be fewer than `count`.
    count: number of documents in an example; after the last document comes the
      first.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, documents: Documents, count: int):
    leaf = "data.documents_per_example"
    check_leaf(leaf, count, count >= 1, "1 or more")
    self._documents = documents
    self._count = min(count, len(documents))
    self.in_memory = documents.in_memory

  def __len__(self) -> int:
    return len(self._documents)

  def __getitem__(self, index: int) -> Example:
    """Returns `text`, a string, and `position`, the index."""
    indices = (index + np.arange(self._count)) % len(self._documents)
    text = _SEPARATOR.join(self._documents[int(i)] for i in indices)
    return {"text": text, "position": index}


def crop(
  text: str, tokenizer: Tokenizer, length: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns the tokens of a random part of a text.

  Args:
    text: any text.
    tokenizer: tokenizer of the model.
    length: number of tokens.
    rng: draws the start so that the part fills `length` tokens; if the text may
      be too short, the part starts at its beginning.

  Returns:
    int32 [L], L at most `length`. With bytes, the last character may be
    incomplete.
  """
  characters = tokenizer.max_characters(length)
  start = int(rng.integers(0, max(1, len(text) - characters + 1)))
  return tokenizer.encode(text[start : start + characters])[:length]


def choose_masked_words(
  words: np.ndarray, rate: float, rng: np.random.Generator
) -> np.ndarray:
  """Chooses words to mask, independently of each other and at least one.

  Args:
    words: int [L], the index of each token's word, -1 for none.
    rate: probability of masking a word, in [0, 1].
    rng: draws the words.

  Returns:
    bool [L], True at all tokens of a masked word; all False without words.
  """
  count = int(words.max(initial=-1)) + 1
  if not count:
    return np.zeros(len(words), bool)
  masked = rng.random(count) < rate
  # Ensures that every example has a token to predict.
  masked[rng.integers(count)] |= not masked.any()
  return (words >= 0) & masked[words]


def masked_example(
  example: Example,
  tokenizer: Tokenizer,
  length: int,
  rate: float,
  rng: np.random.Generator,
) -> Example:
  """Crops an example of `JoinedDocuments` and chooses words to mask.

  Args:
    example: an example with `text`.
    tokenizer: tokenizer of the model.
    length: number of tokens that the model takes.
    rate: see `choose_masked_words`.
    rng: draws the crop and the words.

  Returns:
    `tokens` int32 [length], not masked and padded with PAD, and
    `masked` bool [length], True where the model must predict the token.
  """
  cropped = crop(example["text"], tokenizer, length, rng)
  tokens = np.full(length, PAD, np.int32)
  masked = np.zeros(length, bool)
  tokens[: len(cropped)] = cropped
  masked[: len(cropped)] = choose_masked_words(
    tokenizer.words(cropped), rate, rng
  )
  return {"tokens": tokens, "masked": masked}
