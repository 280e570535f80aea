"""The report's parts about a classifier: confusion, classes, calibration.

Each function makes HTML, or '' where there is nothing to show.
"""

from collections.abc import (
  Mapping,
  Sequence,
)

import numpy as np

from perceiver_jax.viz import (
  html,
  plots,
)
from perceiver_jax.viz.text import shorten

_MISTAKES = 10
_MANY_MISTAKES = 20  # where they stand for the whole matrix
_ALL_CLASSES = 20  # up to so many, every class has a row
_SOME_CLASSES = 10  # of more, the worst and the best
_LONGEST_NAME = 32  # ImageNet's names list every synonym


def confusion(matrix: np.ndarray | None, class_names: Sequence[str]) -> str:
  """The confusion matrix beside the most frequent mistakes.

  Args:
    matrix: counts [classes, classes], truth by prediction.
    class_names: a name a class; with more than `plots.MAX_LABELS` the matrix
      is too large to be read, and only the mistakes are listed.
  """
  if matrix is None or not len(class_names):
    return ""
  matrix = np.asarray(matrix).astype(np.int64)
  right = f"{matrix.trace():,} of {matrix.sum():,} right."
  if len(class_names) > plots.MAX_LABELS:
    text = f"{right} {len(class_names):,} classes are too many to be drawn."
    body = _mistakes(matrix, class_names, _MANY_MISTAKES)
  else:
    text = (
      "Rows are the truth, columns the prediction; colour is the share of the "
      f"true class. {right}"
    )
    body = _drawn(matrix, class_names, right)
  return f'<h2>Confusion</h2>\n<p class="quiet">{text}</p>\n{body}'


def classes(
  accuracy: Mapping[int, float],
  matrix: np.ndarray | None,
  class_names: Sequence[str],
) -> str:
  """The accuracy of each class, the worst first; of many, the two ends.

  Args:
    accuracy: by label, of the classes that have examples.
    matrix: as in `confusion`.
    class_names: a name a class.
  """
  if not accuracy or matrix is None or not len(class_names):
    return ""
  matrix = np.asarray(matrix).astype(np.int64)
  labels = sorted(accuracy, key=accuracy.get)
  parts = {f"All {len(labels)} classes, the worst first": labels}
  if len(labels) > _ALL_CLASSES:
    parts = {
      f"The {_SOME_CLASSES} worst": labels[:_SOME_CLASSES],
      f"The {_SOME_CLASSES} best": labels[: -_SOME_CLASSES - 1 : -1],
    }
  tables = ""
  for caption, chosen in parts.items():
    rows = [_class_row(i, accuracy[i], matrix[i], class_names) for i in chosen]
    head = ("class", "mostly taken for", "accuracy", "examples")
    tables += html.table(head, rows, caption=caption, numbers=(2, 3))
  return f"<h2>Classes</h2>\n{tables}"


def calibration(table: np.ndarray | None, error: float | None) -> str:
  """Whether predictions are right as often as the model is sure of them.

  Args:
    table: see `plots.reliability`.
    error: the expected calibration error.
  """
  if table is None or error is None:
    return ""
  score = f"expected calibration error {error:.2%}"
  image = html.image(plots.reliability(table), "svg+xml", f"{score}, by bin")
  return (
    f'<h2>Calibration</h2>\n<p class="quiet">Expected calibration error: '
    f"{error:.2%}, the mean distance between confidence (the probability of "
    f"the predicted class) and accuracy over {len(table)} bins. Bars below the "
    "dashed line: the model is too sure.</p>\n"
    f'<div class="charts">{image}</div>\n'
  )


def _drawn(matrix: np.ndarray, class_names: Sequence[str], right: str) -> str:
  picture = plots.confusion(matrix, class_names)
  image = html.image(picture, "svg+xml", f"confusion matrix: {right}")
  # Many classes scroll sideways on a phone; shrunk, no label could be read.
  count = len(class_names)
  few = count <= 12
  width = 22 if few else min(46, 20 + 0.65 * count)
  return (
    f'<div class="{"columns" if few else "rows"}">\n'
    '<div class="wide" role="region" tabindex="0" aria-label="confusion">'
    f'<div class="matrix" style="max-width:{width}rem;'
    f'min-width:{0 if few else width}rem">{image}</div></div>\n'
    f"{_mistakes(matrix, class_names, _MISTAKES)}</div>\n"
  )


def _mistakes(matrix: np.ndarray, class_names: Sequence[str], most: int) -> str:
  examples = matrix.sum(axis=1)
  rows = [
    (
      shorten(class_names[truth], _LONGEST_NAME),
      shorten(class_names[predicted], _LONGEST_NAME),
      times,
      f"{times / examples[truth]:.1%}",
    )
    for truth, predicted, times in plots.frequent_mistakes(matrix, most)
  ]
  head = ("truth", "predicted", "times", "of the class")
  caption = "Most frequent mistakes"
  return html.table(head, rows, caption=caption, numbers=(2, 3)) if rows else ""


def _class_row(
  label: int, accuracy: float, counts: np.ndarray, class_names: Sequence[str]
) -> tuple:
  errors = counts.copy()
  errors[label] = 0
  wrong = class_names[errors.argmax()] if errors.any() else "–"
  names = (shorten(name, _LONGEST_NAME) for name in (class_names[label], wrong))
  return *names, f"{accuracy:.1%}", counts.sum()
