"""Masked language modelling on documents: crops, mixtures and hidden words.

As in Perceiver IO, section 4.1 and app. F: documents are put one after the
other, cropped to the model's length, and white-space words of the crop are
hidden whole. Shapes: L tokens of a crop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceiver_jax.data.byte_tokenizer import PAD
from perceiver_jax.data.source_base import Example
from perceiver_jax.data.text_sources import Documents
from perceiver_jax.data.tokenizers import Tokenizer
from perceiver_jax.errors import UserError

# White space, so that no word spans two documents.
_BETWEEN = "\n\n"
# Positions over which a mixture keeps its weights.
_PATTERN = 1000


class Joined:
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


class Mixture:
  """Sources mixed by weight, the same way every time.

  An epoch is as long as it takes for every example of every source to come at
  least once; small sources come again.

  Args:
    sources: by name, each with an example or more.
    weights: share of each; they need not add up to 1.
  """

  class_names = ()
  num_classes = 0

  def __init__(self, sources: Mapping[str, Any], weights: Mapping[str, float]):
    _check_weights(sources, weights)
    self._sources = list(sources.values())
    self.in_memory = all(source.in_memory for source in self._sources)
    shares = np.array([weights[name] for name in sources], np.float64)
    self._counts = _whole_counts(shares / shares.sum(), _PATTERN)
    owners = np.repeat(np.arange(len(shares)), self._counts)
    owners = np.random.default_rng(0).permutation(owners)
    self._owners = owners
    # The how-manieth of its source in the pattern each position is.
    ranks = np.zeros(_PATTERN, np.int64)
    for source in range(len(shares)):
      mine = owners == source
      ranks[mine] = np.arange(mine.sum())
    self._ranks = ranks
    sizes = map(len, self._sources)
    rounds = (
      math.ceil(size / count)
      for size, count in zip(sizes, self._counts, strict=True)
    )
    alone = len(self._sources) == 1
    self._length = len(self._sources[0]) if alone else max(rounds) * _PATTERN

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    turn, place = divmod(index, _PATTERN)
    owner = self._owners[place]
    within = turn * int(self._counts[owner]) + int(self._ranks[place])
    source = self._sources[owner]
    return {**source[within % len(source)], "position": index}


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
  characters = tokenizer.most_characters(length)
  start = int(rng.integers(0, max(1, len(text) - characters + 1)))
  return tokenizer.encode(text[start : start + characters])[:length]


def hide_words(
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
  """A crop of an example of `Joined`, with hidden words.

  Args:
    example: with `text`.
    tokenizer: of the model.
    length: tokens the model reads.
    rate: see `hide_words`.
    rng: draws crop and words.

  Returns:
    `tokens` int32 [length], the truth, padded with PAD, and
    `hidden` bool [length].
  """
  found = crop(example["text"], tokenizer, length, rng)
  tokens = np.full(length, PAD, np.int32)
  hidden = np.zeros(length, bool)
  tokens[: len(found)] = found
  hidden[: len(found)] = hide_words(tokenizer.words(found), rate, rng)
  return {"tokens": tokens, "hidden": hidden}


def _check_weights(
  sources: Mapping[str, Any], weights: Mapping[str, float]
) -> None:
  if not sources:
    raise UserError(
      "no corpus of config.data.corpora has a weight; give one a positive one"
    )
  for name in sources:
    if not 0 < weights[name] < math.inf:
      raise UserError(
        f"config.data.corpora.{name}.weight is {weights[name]}; give a"
        " positive number, or 0 to leave the corpus out"
      )


def _whole_counts(shares: np.ndarray, total: int) -> np.ndarray:
  """Integers of 1 or more that add up to `total`, nearest to the shares."""
  exact = shares * total
  counts = np.maximum(np.floor(exact).astype(np.int64), 1)
  order: Sequence[int] = np.argsort(counts - exact, kind="stable")
  for i in order[: max(0, total - counts.sum())]:
    counts[i] += 1
  # Tiny shares that were raised to 1 are taken from the largest.
  counts[counts.argmax()] -= counts.sum() - total
  return counts
