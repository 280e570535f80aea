"""Fills hidden bytes by counting: a baseline for masked language models.

An n-gram model of bytes with Witten-Bell interpolation (Bell, Cleary and
Witten, 1990; Chen and Goodman, 1998, section 2.5): what follows a context c,
seen t times before k different bytes, has the probability

  p(x | c) = (count(c x) + k p(x | c without its first byte)) / (t + k),

and below the empty context all 256 bytes are equally likely. What a masked
language model gains over it, it gains from more than its neighbors.
"""

import collections
import functools
from collections.abc import (
  Iterable,
  Iterator,
)

import numpy as np

_BYTES = 256
# Distributions kept, of 2 KiB each.
_CACHED = 1 << 15


class NGram:
  """Byte n-gram model.

  Args:
    texts: what is counted; contexts do not reach from one to the next.
    order: n: the next byte depends on the n - 1 before it.

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
    """How likely each byte is to come next.

    Args:
      context: bytes before it, of which the last n - 1 count.

    Returns:
      float64 [256], positive, with the sum 1; not to be written to.
    """
    return self._cached(self._end(context))

  def fill(self, tokens: bytes, masked: np.ndarray, beam: int = 16) -> bytes:
    """Replaces hidden bytes by likely ones.

    Runs of hidden bytes are filled from left to right, each by beam search;
    its candidates are judged by the visible bytes after the run too. What
    earlier runs were filled with is context of the later ones.

    Args:
      tokens: L bytes; hidden ones may be anything.
      masked: bool [L], True where hidden.
      beam: candidates that are kept.

    Returns:
      L bytes, those of `tokens` where not hidden.

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
    # `get`, since asking a defaultdict would add the context.
    counts = self._counts.get(context)
    if counts is None:
      return shorter
    mixed = len(counts) * shorter
    mixed[list(counts)] += list(counts.values())
    return mixed / (counts.total() + len(counts))

  def _end(self, text: bytes) -> bytes:
    """The part of a text that what comes next depends on."""
    return text[max(0, len(text) - self.order + 1) :]

  def _filling(
    self, before: bytes, length: int, after: bytes, beam: int
  ) -> bytes:
    """The best candidate of so many bytes between two contexts."""
    found, scores = [b""], np.zeros(1)
    for _ in range(length):
      nexts = [np.log(self.probabilities(before + text)) for text in found]
      total = (scores[:, None] + np.stack(nexts)).ravel()
      # Stable, so that equals are taken in the same order every time.
      best = np.argsort(-total, kind="stable")[:beam]
      scores = total[best]
      found = [found[i // _BYTES] + bytes([i % _BYTES]) for i in best]
    scores = [
      score + self._log_likelihood(before + text, after)
      for text, score in zip(found, scores, strict=True)
    ]
    return found[int(np.argmax(scores))]

  def _log_likelihood(self, before: bytes, after: bytes) -> float:
    """Of `after` once `before` has been seen, in nats."""
    text, first = before + after, len(before)
    return sum(
      float(np.log(self.probabilities(text[:i])[text[i]]))
      for i in range(first, len(text))
    )


def accuracy(
  model: NGram, pairs: Iterable[tuple[bytes, np.ndarray]], beam: int = 16
) -> float:
  """Share of the hidden bytes of some texts that are filled in right.

  Args:
    model: fills them in.
    pairs: texts of L bytes, each with a mask bool [L], True where hidden.
    beam: see `NGram.fill`.

  Raises:
    ValueError: nothing is hidden.
  """
  right = total = 0
  for text, masked in pairs:
    filled = np.frombuffer(model.fill(text, masked, beam), np.uint8)
    right += int((filled == np.frombuffer(text, np.uint8))[masked].sum())
    total += int(masked.sum())
  if not total:
    raise ValueError("no byte is hidden: there is nothing to fill in")
  return right / total


def _runs(masked: np.ndarray) -> Iterator[tuple[int, int]]:
  """First position and end of each run of True."""
  edges = np.flatnonzero(np.diff(np.pad(masked.astype(np.int8), 1)))
  return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
