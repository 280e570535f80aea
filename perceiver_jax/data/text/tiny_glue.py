"""A tiny benchmark in the form of GLUE, made from Python's documentation.

Its two tasks are easier after pretraining on text: whether the words of a
passage are in order, and whether one passage follows another. Both classes are
equally frequent. The held-out splits are made from held-out documents.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.text import python_docs

SPLITS = ("train", "validation", "test")
# Limits of a passage. Two of the longest with SEP have 127 bytes.
_MIN_WORDS, _MAX_WORDS = 5, 10
_MAX_BYTES = 63

Examples = list[tuple[tuple[str, ...], int]]


def examples(task: str, split: str) -> Examples:
  """Returns the texts and label of each example of a task.

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
      # Passages of an earlier split are left out.
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
  # Validation and test take the held-out documents in turn.
  return python_docs.python_docs("test")[SPLITS.index(split) - 1 :: 2]


def _runs(document: str) -> list[list[str]]:
  """Returns the passages of each paragraph; "" for those left out."""
  return [_passages(paragraph) for paragraph in document.split("\n\n")]


def _passages(paragraph: str) -> list[str]:
  """Splits a paragraph into passages; "" for those too short."""
  passages: list[str] = []
  passage = ""
  for word in paragraph.split():
    longer = f"{passage} {word}" if passage else word
    fits = len(longer.encode()) <= _MAX_BYTES
    if fits and len(longer.split()) <= _MAX_WORDS:
      passage = longer
    else:
      passages.append(passage)
      passage = word
  passages.append(passage)
  return [p if len(p.split()) >= _MIN_WORDS else "" for p in passages]


def _word_order(runs: list[list[str]], rng: np.random.Generator) -> Examples:
  """Returns each passage in order and with its words shuffled."""
  examples: Examples = []
  for passage in filter(None, itertools.chain.from_iterable(runs)):
    words = passage.split()
    shuffled = " ".join(rng.permutation(words))
    if shuffled != passage:
      examples += [((passage,), 1), ((shuffled,), 0)]
  return examples


def _next_sentence(runs: list[list[str]], rng: np.random.Generator) -> Examples:
  """Pairs each passage with the next, and with one of another paragraph."""
  passages = [
    (paragraph, passage)
    for paragraph, run in enumerate(runs)
    for passage in filter(None, run)
  ]
  examples: Examples = []
  for paragraph, run in enumerate(runs):
    for first, second in itertools.pairwise(run):
      other_paragraph, other = passages[int(rng.integers(len(passages)))]
      if first and second and other_paragraph != paragraph:
        examples += [((first, second), 1), ((first, other), 0)]
  return examples
