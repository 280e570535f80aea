"""Masked language modeling on documents: crops and hidden words.

As in Perceiver IO, section 4.1 and app. F: documents are put one after the
other, cropped to the model's length, and white-space words of the crop are
hidden whole. Shapes: L tokens of a crop.
"""

import numpy as np

from perceiver_jax.data.core.source import Example
from perceiver_jax.data.text.byte_tokenizer import PAD
from perceiver_jax.data.text.corpora import Documents
from perceiver_jax.data.text.tokenizers import Tokenizer
from perceiver_jax.errors import UserError

# White space, so that no word spans two documents.
_BETWEEN = "\n\n"


class JoinedDocuments:
  """Examples of several documents each, one starting at every document.

  Args:
    documents: the texts; there may be fewer than an example takes.
    count: documents of an example; the first follows the last.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, documents: Documents, count: int):
    if count < 1:
      raise UserError(
        f"config.data.documents_per_example is {count}; give 1 or more"
      )
    self._documents = documents
    self._count = min(count, len(documents))
    self.in_memory = documents.in_memory

  def __len__(self) -> int:
    return len(self._documents)

  def __getitem__(self, index: int) -> Example:
    """Returns `text`, a string, and `position`, the index itself."""
    places = (index + np.arange(self._count)) % len(self._documents)
    text = _BETWEEN.join(self._documents[int(i)] for i in places)
    return {"text": text, "position": index}


def crop(
  text: str, tokenizer: Tokenizer, length: int, rng: np.random.Generator
) -> np.ndarray:
  """Tokens of a random part of a text.

  Args:
    text: any text.
    tokenizer: of the model.
    length: tokens wanted.
    rng: draws where the part begins, so that it surely fills `length` tokens;
      a text that may be too short for that is taken from its start.

  Returns:
    int32 [L], L at most `length`. The last character of bytes may be cut.
  """
  characters = tokenizer.max_characters(length)
  start = int(rng.integers(0, max(1, len(text) - characters + 1)))
  return tokenizer.encode(text[start : start + characters])[:length]


def choose_masked_words(
  words: np.ndarray, rate: float, rng: np.random.Generator
) -> np.ndarray:
  """Chooses words to hide, each by itself; one at least.

  Args:
    words: int [L], the number of each token's word, -1 for none.
    rate: the chance of each word, in [0, 1].
    rng: draws them.

  Returns:
    bool [L], True at all tokens of a hidden word; all False if there is none.
  """
  count = int(words.max(initial=-1)) + 1
  if not count:
    return np.zeros(len(words), bool)
  hidden = rng.random(count) < rate
  # So that every example has something to learn from.
  hidden[rng.integers(count)] |= not hidden.any()
  return (words >= 0) & hidden[words]


def masked_example(
  example: Example,
  tokenizer: Tokenizer,
  length: int,
  rate: float,
  rng: np.random.Generator,
) -> Example:
  """A crop of an example of `JoinedDocuments`, with hidden words.

  Args:
    example: with `text`.
    tokenizer: of the model.
    length: tokens the model reads.
    rate: see `choose_masked_words`.
    rng: draws crop and words.

  Returns:
    `tokens` int32 [length], the truth, padded with PAD, and
    `hidden` bool [length].
  """
  found = crop(example["text"], tokenizer, length, rng)
  tokens = np.full(length, PAD, np.int32)
  hidden = np.zeros(length, bool)
  tokens[: len(found)] = found
  hidden[: len(found)] = choose_masked_words(tokenizer.words(found), rate, rng)
  return {"tokens": tokens, "masked": hidden}
