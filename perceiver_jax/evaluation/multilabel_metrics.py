"""Scores of classifiers that may give an example several classes.

Shapes: S examples, P classes. Every function takes labels and scores as
[S, P]: examples first. Classes are judged one by one, by how their scores rank
the examples; those without a positive or without a negative example have no
score (NaN) and count in no mean. The transpose would rank the classes within an
example, which is another number: that was the mistake in the first version of
the Perceiver paper (app. F of its second).
"""

import numpy as np
from scipy import stats
from sklearn import metrics

# A larger area is taken as this, so that d' stays finite.
_LARGEST_AREA = 1 - 1e-6


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Average precision of each class, as scikit-learn defines it.

  Args:
    labels: [S, P], 1 where an example has a class, else 0.
    scores: [S, P].

  Returns:
    float64 [P]; NaN for a class without positive examples.

  Raises:
    ValueError: the shapes differ or are not [S, P].
  """
  _check(labels, scores)
  found = np.full(labels.shape[1], np.nan)
  for k in np.flatnonzero(labels.any(axis=0)):
    found[k] = metrics.average_precision_score(labels[:, k], scores[:, k])
  return found


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Area under each class's ROC curve.

  Args:
    labels: as in `average_precision`.
    scores: as there.

  Returns:
    float64 [P]; NaN for a class whose examples are all alike.
  """
  _check(labels, scores)
  found = np.full(labels.shape[1], np.nan)
  both = labels.any(axis=0) & ~labels.all(axis=0)
  for k in np.flatnonzero(both):
    found[k] = metrics.roc_auc_score(labels[:, k], scores[:, k])
  return found


def d_prime(area: float) -> float:
  """Distance of two normal distributions whose ROC curve has that area.

  In standard deviations, as AudioSet's authors give it: of the mean area.
  """
  area = np.clip(area, 1 - _LARGEST_AREA, _LARGEST_AREA)
  return float(np.sqrt(2) * stats.norm.ppf(area))


def summary(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
  """Means over classes, and the scores of each.

  Returns:
    'mAP', 'AUC' and 'd_prime'; 'class_AP' and 'class_AUC' [P], and
    'class_examples' [P], the positive examples.
  """
  precision = average_precision(labels, scores)
  area = area_under_curve(labels, scores)
  # Without a class that can be judged: as of scores that say nothing.
  mean_area = _mean(area, 0.5)
  return {
    "mAP": _mean(precision, 0.0),
    "AUC": mean_area,
    "d_prime": d_prime(mean_area),
    "class_AP": precision,
    "class_AUC": area,
    "class_examples": labels.sum(axis=0),
  }


def _mean(values: np.ndarray, default: float) -> float:
  known = values[~np.isnan(values)]
  return float(known.mean()) if len(known) else default


def _check(labels: np.ndarray, scores: np.ndarray) -> None:
  if labels.ndim != 2 or labels.shape != scores.shape:
    raise ValueError(
      f"labels and scores are [examples, classes], got {labels.shape} and"
      f" {scores.shape}"
    )
