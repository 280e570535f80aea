"""A tiny benchmark in the form of GLUE, made of the Python documentation.

Two questions that pretraining on text should help with: are the words of a
passage in order, and does one passage follow another? Both classes are equally
frequent. Passages of the held-out documents make the held-out splits.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from perceiver_jax.data.core.source import check_choice
from perceiver_jax.data.text import python_docs

SPLITS = ("train", "validation", "test")
# Of a passage. Two of the longest, and what stands between, have 127 bytes.
_MOST_WORDS, _FEWEST_WORDS = 10, 5
_MOST_BYTES = 63

Examples = list[tuple[tuple[str, ...], int]]


def examples(task: str, split: str) -> Examples:
  """Texts and label of each example of a task.

  Args:
    task: "word_order" (1: in order) or "next_sentence" (1: it follows).
    split: one of `SPLITS`.

  Raises:
    UserError: there is no such split.
  """
  check_choice(split, SPLITS, "split", "Python's documentation")
  earlier: set[str] = set()
  for name in SPLITS:
    runs = [
      # What another split has is left out of the later one.
      ["" if passage in earlier else passage for passage in run]
      for document in _documents(name)
      for run in _runs(document)
    ]
    if name == split:
      break
    earlier.update(*runs)
  rng = np.random.default_rng(SPLITS.index(split))
  makers = {"word_order": _word_order, "next_sentence": _next_sentence}
  return makers[task](runs, rng)


def _documents(split: str) -> Sequence[str]:
  if split == "train":
    return python_docs.python_docs("train")
  # The held-out documents in turn.
  return python_docs.python_docs("test")[SPLITS.index(split) - 1 :: 2]


def _runs(document: str) -> list[list[str]]:
  """The passages of each paragraph, in order; "" for one that is left out."""
  return [_passages(paragraph) for paragraph in document.split("\n\n")]


def _passages(paragraph: str) -> list[str]:
  """Consecutive runs of words; "" in the place of one that is too short."""
  found: list[str] = []
  passage = ""
  for word in paragraph.split():
    longer = f"{passage} {word}" if passage else word
    fits = len(longer.encode()) <= _MOST_BYTES
    if fits and len(longer.split()) <= _MOST_WORDS:
      passage = longer
    else:
      found.append(passage)
      passage = word
  found.append(passage)
  return [p if len(p.split()) >= _FEWEST_WORDS else "" for p in found]


def _word_order(runs: list[list[str]], rng: np.random.Generator) -> Examples:
  """Each passage as it is and with its words shuffled."""
  found: Examples = []
  for passage in filter(None, itertools.chain.from_iterable(runs)):
    words = passage.split()
    shuffled = " ".join(rng.permutation(words))
    if shuffled != passage:
      found += [((passage,), 1), ((shuffled,), 0)]
  return found


def _next_sentence(runs: list[list[str]], rng: np.random.Generator) -> Examples:
  """Each passage with the one after it, and with one of another paragraph."""
  places = [
    (owner, passage)
    for owner, run in enumerate(runs)
    for passage in filter(None, run)
  ]
  found: Examples = []
  for owner, run in enumerate(runs):
    for first, second in itertools.pairwise(run):
      place, other = places[int(rng.integers(len(places)))]
      if first and second and place != owner:
        found += [((first, second), 1), ((first, other), 0)]
  return found
