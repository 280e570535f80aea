"""Scores of whole sets, beside their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import glue_metrics

_classes = st.lists(
  st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=30
)


@settings(max_examples=50, deadline=None)
@given(_classes)
def test_class_metrics_are_their_definitions(pairs):
  labels, guesses = np.array(pairs, np.float32).T
  right = lambda a, b: int(np.sum((labels == a) & (guesses == b)))
  tp, tn, fp, fn = right(1, 1), right(0, 0), right(0, 1), right(1, 0)
  assert glue_metrics.accuracy(labels, guesses) == pytest.approx(
    (tp + tn) / len(pairs)
  )
  f1 = 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else 0
  assert glue_metrics.f1(labels, guesses) == pytest.approx(f1)
  below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
  matthews = (tp * tn - fp * fn) / np.sqrt(below) if below else 0
  assert glue_metrics.matthews(labels, guesses) == pytest.approx(matthews)


def test_correlations():
  labels = np.array([0, 1, 2, 3], np.float32)
  assert glue_metrics.pearson(labels, 5 - 2 * labels) == pytest.approx(-1)
  assert glue_metrics.spearman(labels, labels**3) == pytest.approx(1)
  assert 0.8 < glue_metrics.pearson(labels, labels**3) < 0.99


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews"])
def test_constant_predictions_have_no_correlation(name):
  labels = np.array([0, 1, 1], np.float32)
  assert glue_metrics.METRICS[name](labels, np.ones(3, np.float32)) == 0


def test_one_pair_has_no_correlation():
  assert glue_metrics.pearson(np.ones(1), np.ones(1)) == 0


def test_both_parts_of_mnli_count_once():
  # Perceiver IO v3, Table 14: Perceiver IO on bytes, and its average.
  row = {
    "cola": 50.19, "mnli_matched": 83.22, "mnli_mismatched": 83.89,
    "mrpc": 87.24, "qnli": 91.71, "qqp": 90.12, "rte": 64.84, "sst2": 93.17,
    "stsb": 86.81,
  }  # fmt: skip
  assert glue_metrics.glue_average(row) == pytest.approx(80.95, abs=0.01)
