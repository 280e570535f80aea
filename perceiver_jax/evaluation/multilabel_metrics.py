"""Metrics of multilabel classification, as for AudioSet.

Shapes: S examples, P classes. Metrics are computed per class from the ranking
of the examples [S, P] by score. Classes without positive or negative examples
are NaN and excluded from means. Transposed arguments would rank the classes of
an example instead, which was a mistake in the Perceiver paper's first version
(see app. F of the second).
"""

import numpy as np
from scipy import stats
from sklearn import metrics

# Larger areas are clipped, so that d' stays finite.
_MAX_AREA = 1 - 1e-6


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Returns the average precision of each class, as scikit-learn defines it.

  Args:
    labels: [S, P], 1 where an example has a class, else 0.
    scores: [S, P].

  Returns:
    float64 [P]; NaN for a class without positive examples.

  Raises:
    ValueError: the shapes differ or are not [S, P].
  """
  _check(labels, scores)
  values = np.full(labels.shape[1], np.nan)
  for k in np.flatnonzero(labels.any(axis=0)):
    values[k] = metrics.average_precision_score(labels[:, k], scores[:, k])
  return values


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """Returns the area under each class's ROC curve.

  Args:
    labels: as in `average_precision`.
    scores: as in `average_precision`.

  Returns:
    float64 [P]; NaN for a class without positive or negative examples.
  """
  _check(labels, scores)
  values = np.full(labels.shape[1], np.nan)
  both = labels.any(axis=0) & ~labels.all(axis=0)
  for k in np.flatnonzero(both):
    values[k] = metrics.roc_auc_score(labels[:, k], scores[:, k])
  return values


def d_prime(area: float) -> float:
  """Returns d', the distance of two normal distributions with this ROC area.

  It is in standard deviations. AudioSet's authors report it for the mean area.
  """
  area = np.clip(area, 1 - _MAX_AREA, _MAX_AREA)
  return float(np.sqrt(2) * stats.norm.ppf(area))


def summary(labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
  """Returns means over classes and the metrics of each class.

  Returns:
    'mAP', 'AUC' and 'd_prime'; 'class_AP', 'class_AUC' and 'class_examples'
    (positive examples), each [P].
  """
  precision = average_precision(labels, scores)
  area = area_under_curve(labels, scores)
  # Without any valid class, the area is that of uninformative scores.
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
