"""Scores of whole sets of predictions, which are no means over examples."""

import warnings
from collections.abc import (
  Callable,
  Mapping,
)

import numpy as np
from scipy import stats
from sklearn import metrics


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Share of the predictions [N] that are the labels [N]."""
  return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
  """F1 of class 1 of labels and predictions [N]; 0 where it is undefined."""
  return float(metrics.f1_score(labels, predictions, zero_division=0))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Matthews correlation of classes [N]; 0 where one side is constant."""
  if min(len(np.unique(labels)), len(np.unique(predictions))) < 2:
    return 0.0
  return float(metrics.matthews_corrcoef(labels, predictions))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Linear correlation of scores [N]; 0 where one side is constant."""
  return _correlation(stats.pearsonr, labels, predictions)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Rank correlation of scores [N]; 0 where one side is constant."""
  return _correlation(stats.spearmanr, labels, predictions)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  "accuracy": accuracy,
  "f1": f1,
  "matthews": matthews,
  "pearson": pearson,
  "spearman": spearman,
}


def glue_average(scores: Mapping[str, float]) -> float:
  """The GLUE average: the matched and mismatched parts count as one task.

  As the Perceiver IO paper takes it (Table 14).

  Args:
    scores: of each held-out set, MNLI's called "mnli_matched" and
      "mnli_mismatched".
  """
  tasks: dict[str, list[float]] = {}
  for name, score in scores.items():
    task = name.removesuffix("_matched").removesuffix("_mismatched")
    tasks.setdefault(task, []).append(score)
  return float(np.mean([np.mean(parts) for parts in tasks.values()]))


def _correlation(
  function: Callable[..., object], labels: np.ndarray, predictions: np.ndarray
) -> float:
  if len(labels) < 2:
    return 0.0
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", stats.ConstantInputWarning)
    warnings.simplefilter("ignore", stats.NearConstantInputWarning)
    found = function(labels, predictions).statistic
  return float(found) if np.isfinite(found) else 0.0
