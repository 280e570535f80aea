"""Tasks of the GLUE benchmark (arXiv 1804.07461), and two tiny ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Task(NamedTuple):
  """Columns, classes and metrics of a task.

  Attributes:
    folder: folder of the task's files, and its name in a submission.
    texts: names of the one or two texts in TensorFlow Datasets.
    columns: columns of the files: the texts, then the label.
    classes: class names by label; empty if the label is a score.
    written: spelling of the classes in files; if empty, as in `classes`.
    metrics: keys of `glue_metrics.METRICS`; the first is the one that the
      Perceiver IO paper reports (Table 14).
    parts: suffixes of the names of the held-out splits.
  """

  folder: str
  texts: tuple[str, ...]
  columns: tuple[str, ...]
  classes: tuple[str, ...]
  written: tuple[str, ...] = ()
  metrics: tuple[str, ...] = ("accuracy",)
  parts: tuple[str, ...] = ("",)

  @property
  def num_outputs(self) -> int:
    """Returns the number of outputs: a logit per class, or one score."""
    return max(1, len(self.classes))

  @property
  def labels(self) -> tuple[str, ...]:
    """Returns the classes as spelled in the benchmark's files."""
    return self.written or self.classes


_NUMBERS = ("0", "1")
_PAIR = ("sentence1", "sentence2")
_QUESTIONS = ("question1", "question2")
_ANSWER = ("question", "sentence")
_PREMISE = ("premise", "hypothesis")
_ENTAILMENT = ("entailment", "not_entailment")
_THREE = ("entailment", "neutral", "contradiction")

# The eight tasks that the paper averages; like most, it leaves WNLI out.
GLUE: dict[str, Task] = {
  "cola": Task(
    "CoLA",
    ("sentence",),
    ("sentence", "label"),
    ("unacceptable", "acceptable"),
    _NUMBERS,
    ("matthews", "accuracy"),
  ),
  "sst2": Task(
    "SST-2",
    ("sentence",),
    ("sentence", "label"),
    ("negative", "positive"),
    _NUMBERS,
  ),
  "mrpc": Task(
    "MRPC",
    _PAIR,
    ("#1 String", "#2 String", "Quality"),
    ("not_equivalent", "equivalent"),
    _NUMBERS,
    ("accuracy", "f1"),
  ),
  "stsb": Task(
    "STS-B", _PAIR, (*_PAIR, "score"), (), (), ("pearson", "spearman")
  ),
  "qqp": Task(
    "QQP",
    _QUESTIONS,
    (*_QUESTIONS, "is_duplicate"),
    ("not_duplicate", "duplicate"),
    _NUMBERS,
    ("accuracy", "f1"),
  ),
  "mnli": Task(
    "MNLI",
    _PREMISE,
    (*_PAIR, "gold_label"),
    _THREE,
    parts=("_matched", "_mismatched"),
  ),
  "qnli": Task("QNLI", _ANSWER, (*_ANSWER, "label"), _ENTAILMENT),
  "rte": Task("RTE", _PAIR, (*_PAIR, "label"), _ENTAILMENT),
}
# Made from the Python documentation; see `tiny_glue`.
TINY: dict[str, Task] = {
  "word_order": Task(
    "word_order", ("sentence",), ("sentence", "label"), ("shuffled", "in_order")
  ),
  "next_sentence": Task(
    "next_sentence", _PAIR, (*_PAIR, "label"), ("elsewhere", "next")
  ),
}
TASKS: dict[str, Task] = {
  **GLUE,
  # Diagnostic sentences without labels, for a model of MNLI.
  "ax": Task("AX", _PREMISE, (*_PAIR, "label"), _THREE),
  **TINY,
}


def task_from_dict(fields: Mapping[str, Any]) -> Task:
  """Makes a task from its `_asdict` after a round trip through JSON."""
  as_tuple = lambda value: tuple(value) if isinstance(value, list) else value
  return Task(**{name: as_tuple(value) for name, value in fields.items()})
