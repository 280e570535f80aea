"""An n-gram model of bytes, a baseline for language models.

It has Witten-Bell interpolation (Bell, Cleary and Witten, 1990; Chen and
Goodman, 1998, section 2.5): after a context c, which was seen t times before k
different bytes, a byte x has the probability

  p(x | c) = (count(c x) + k p(x | c without its first byte)) / (t + k),

and without a context all 256 bytes are equally likely. A masked language model
with a higher accuracy uses more than the neighboring bytes.
"""

import collections
import functools
from collections.abc import Iterable, Iterator

import numpy as np

_BYTES = 256
# Number of cached distributions, of 2 KiB each.
_CACHED = 1 << 15


class NGram:
  """Byte n-gram model.

  Args:
    texts: training texts; contexts do not cross their boundaries.
    order: n; the next byte depends on the n - 1 before it.

  Raises:
    ValueError: the order is not positive.
  """

  def __init__(self, texts: Iterable[bytes], order: int = 5):
    if order < 1:
      raise ValueError(f"order must be 1 or more, got {order}")
    self.order = order
    self._counts: dict[bytes, collections.Counter[int]]
    self._counts = collections.defaultdict(collections.Counter)
    for text in texts:
      for size in range(order):
        for i in range(size, len(text)):
          self._counts[text[i - size : i]][text[i]] += 1
    self._cached = functools.lru_cache(_CACHED)(self._mixed)

  def probabilities(self, context: bytes) -> np.ndarray:
    """Returns the probabilities of the next byte.

    Args:
      context: preceding bytes, of which the last n - 1 are used.

    Returns:
      float64 [256], positive, with the sum 1; a cached array, do not modify.
    """
    return self._cached(self._end(context))

  def fill(self, tokens: bytes, masked: np.ndarray, beam: int = 16) -> bytes:
    """Fills masked bytes with likely ones.

    Runs of masked bytes are filled from left to right, each by beam search;
    candidates are also scored by the visible bytes after the run. Filled runs
    are context of the later ones.

    Args:
      tokens: L bytes; the values of masked ones are ignored.
      masked: bool [L], True where masked.
      beam: number of candidates to keep.

    Returns:
      L bytes, those of `tokens` where not masked.

    Raises:
      ValueError: the mask is not [L], or there is no candidate.
    """
    if masked.shape != (len(tokens),):
      raise ValueError(
        f"masked is bool [{len(tokens)}] like the bytes, got {masked.shape}"
      )
    if beam < 1:
      raise ValueError(f"beam must be 1 or more, got {beam}")
    filled = bytearray(tokens)
    for start, stop in _runs(masked):
      after = stop + int(np.append(masked[stop:], True).argmax())
      after = min(after, stop + self.order - 1)
      filled[start:stop] = self._filling(
        self._end(bytes(filled[:start])),
        stop - start,
        tokens[stop:after],
        beam,
      )
    return bytes(filled)

  def _mixed(self, context: bytes) -> np.ndarray:
    shorter = (
      self._cached(context[1:]) if context else np.full(_BYTES, 1 / _BYTES)
    )
    # Indexing the defaultdict would add the context.
    counts = self._counts.get(context)
    if counts is None:
      return shorter
    mixed = len(counts) * shorter
    mixed[list(counts)] += list(counts.values())
    return mixed / (counts.total() + len(counts))

  def _end(self, text: bytes) -> bytes:
    """Returns the last n - 1 bytes of a text."""
    return text[max(0, len(text) - self.order + 1) :]

  def _filling(
    self, before: bytes, length: int, after: bytes, beam: int
  ) -> bytes:
    """Returns the best `length` bytes between two contexts."""
    candidates, scores = [b""], np.zeros(1)
    for _ in range(length):
      nexts = [np.log(self.probabilities(before + text)) for text in candidates]
      total = (scores[:, None] + np.stack(nexts)).ravel()
      # A stable sort makes the order of equal values deterministic.
      best = np.argsort(-total, kind="stable")[:beam]
      scores = total[best]
      candidates = [candidates[i // _BYTES] + bytes([i % _BYTES]) for i in best]
    scores = [
      score + self._log_likelihood(before + text, after)
      for text, score in zip(candidates, scores, strict=True)
    ]
    return candidates[int(np.argmax(scores))]

  def _log_likelihood(self, before: bytes, after: bytes) -> float:
    """Returns the log likelihood of `after` given `before`, in nats."""
    text, first = before + after, len(before)
    return sum(
      float(np.log(self.probabilities(text[:i])[text[i]]))
      for i in range(first, len(text))
    )


def accuracy(
  model: NGram, pairs: Iterable[tuple[bytes, np.ndarray]], beam: int = 16
) -> float:
  """Returns the accuracy of filling masked bytes.

  Args:
    model: the n-gram model.
    pairs: texts of L bytes, each with a mask bool [L], True where masked.
    beam: see `NGram.fill`.

  Raises:
    ValueError: no byte is masked.
  """
  correct = total = 0
  for text, masked in pairs:
    filled = np.frombuffer(model.fill(text, masked, beam), np.uint8)
    correct += int((filled == np.frombuffer(text, np.uint8))[masked].sum())
    total += int(masked.sum())
  if not total:
    raise ValueError("no byte is masked: there is nothing to fill in")
  return correct / total


def bits_per_byte(model: NGram, texts: Iterable[bytes]) -> float:
  """Returns the mean code length of a byte, given those before it.

  Args:
    model: the n-gram model.
    texts: texts whose bytes are predicted from the start of each.

  Raises:
    ValueError: there is no byte.
  """
  bits = total = 0.0
  for text in texts:
    for i in range(len(text)):
      before = text[max(0, i - model.order + 1) : i]
      bits -= float(np.log2(model.probabilities(before)[text[i]]))
    total += len(text)
  if not total:
    raise ValueError("no byte is given: there is nothing to predict")
  return bits / total


def _runs(masked: np.ndarray) -> Iterator[tuple[int, int]]:
  """Iterates over the start and end of each run of True."""
  edges = np.flatnonzero(np.diff(np.pad(masked.astype(np.int8), 1)))
  return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
