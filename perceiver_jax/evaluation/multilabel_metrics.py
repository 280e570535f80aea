"""Metrics of multilabel classification, as for AudioSet.

Shapes: S examples, P classes. Metrics are computed per class from the ranking
of the examples [S, P] by score. Classes without positive or negative examples
are NaN and excluded from means. Transposed arguments would rank the classes of
an example instead, which was a mistake in the Perceiver paper's first version
(see app. F of the second).
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax import numpy as jnp
from scipy import stats
from sklearn import metrics

from perceiver_jax.errors import UserError
from perceiver_jax.training import metrics as metrics_lib

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


def sum_rows(
  values: Mapping[str, jax.Array],
  rows: jax.Array,
  num_rows: int,
  mask: jax.Array,
) -> metrics_lib.Metrics:
  """Returns metrics that collect an array over the batches of an evaluation.

  Shapes: b examples of a batch.

  Args:
    values: arrays [b, P] by name.
    rows: row [b] of each example among the S; several may share one.
    num_rows: S.
    mask: [b], 0 for examples that do not count.

  Returns:
    For each name the sum [S, P] of each row's values, and as "row_counts" the
    number [S] of examples in each row. `row_means` divides them.
  """
  add = lambda x: jnp.zeros((num_rows, *x.shape[1:])).at[rows].add(x)
  count = mask.sum()
  return {
    **{name: (add(x * mask[:, None]), count) for name, x in values.items()},
    "row_counts": (add(mask), count),
  }


def row_means(
  means: Mapping[str, np.ndarray], names: Sequence[str], kind: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns the rows that have examples, and the means of each.

  Args:
    means: metrics of `sum_rows`, divided by their count; none are there if the
      count is 0.
    names: names of the arrays.
    kind: the kind of example, for the error.

  Returns:
    Whether each of the S rows has examples, and by name the means [R, P] of
    the R rows that do.

  Raises:
    UserError: no row has examples.
  """
  counts = means.get("row_counts", np.zeros(1))
  is_read = counts > 0
  if not is_read.any():
    raise UserError(
      f"no {kind} of the evaluation split can be read; see the warnings"
    )
  scale = counts[is_read, None]
  return is_read, {name: means[name][is_read] / scale for name in names}


def _mean(values: np.ndarray, default: float) -> float:
  known = values[~np.isnan(values)]
  return float(known.mean()) if len(known) else default


def _check(labels: np.ndarray, scores: np.ndarray) -> None:
  if labels.ndim != 2 or labels.shape != scores.shape:
    raise ValueError(
      f"labels and scores are [examples, classes], got {labels.shape} and"
      f" {scores.shape}"
    )
