"""Metrics of GLUE, computed on all predictions of an evaluation set."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats
from sklearn import metrics


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the share of predictions [N] equal to the labels [N]."""
  return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the F1 of class 1 for classes [N]; 0 where undefined."""
  return float(metrics.f1_score(labels, predictions, zero_division=0))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the Matthews correlation of classes [N]; 0 if one is constant."""
  if min(len(np.unique(labels)), len(np.unique(predictions))) < 2:
    return 0.0
  return float(metrics.matthews_corrcoef(labels, predictions))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the Pearson correlation of scores [N]; 0 if one is constant."""
  return _correlation(stats.pearsonr, labels, predictions)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
  """Returns the Spearman correlation of scores [N]; 0 if one is constant."""
  return _correlation(stats.spearmanr, labels, predictions)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  "accuracy": accuracy,
  "f1": f1,
  "matthews": matthews,
  "pearson": pearson,
  "spearman": spearman,
}


def glue_average(scores: Mapping[str, float]) -> float:
  """Returns the GLUE average of the Perceiver IO paper (Table 14).

  The matched and mismatched sets of MNLI count as one task.

  Args:
    scores: score of each evaluation set; MNLI's are called "mnli_matched" and
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
    statistic = function(labels, predictions).statistic
  return float(statistic) if np.isfinite(statistic) else 0.0
