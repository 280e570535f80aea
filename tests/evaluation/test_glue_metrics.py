"""Tests of GLUE's metrics against their definitions."""

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
def test_accuracy_f1_and_matthews_agree_with_their_definitions(pairs):
  labels, predictions = np.array(pairs, np.float32).T
  count = lambda a, b: int(np.sum((labels == a) & (predictions == b)))
  tp, tn, fp, fn = count(1, 1), count(0, 0), count(0, 1), count(1, 0)
  assert glue_metrics.accuracy(labels, predictions) == pytest.approx(
    (tp + tn) / len(pairs)
  )
  f1 = 2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else 0
  assert glue_metrics.f1(labels, predictions) == pytest.approx(f1)
  product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
  matthews = (tp * tn - fp * fn) / np.sqrt(product) if product else 0
  assert glue_metrics.matthews(labels, predictions) == pytest.approx(matthews)


def test_pearson_is_of_values_and_spearman_of_ranks():
  labels = np.array([0, 1, 2, 3], np.float32)
  assert glue_metrics.pearson(labels, 5 - 2 * labels) == pytest.approx(-1)
  assert glue_metrics.spearman(labels, labels**3) == pytest.approx(1)
  assert 0.8 < glue_metrics.pearson(labels, labels**3) < 0.99


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews"])
def test_constant_predictions_have_no_correlation(name):
  labels = np.array([0, 1, 1], np.float32)
  assert glue_metrics.METRICS[name](labels, np.ones(3, np.float32)) == 0


def test_a_single_example_has_no_correlation():
  assert glue_metrics.pearson(np.ones(1), np.ones(1)) == 0


def test_the_glue_average_counts_mnli_once():
  # Perceiver IO v3, Table 14: Perceiver IO on bytes, and its average.
  row = {
    "cola": 50.19, "mnli_matched": 83.22, "mnli_mismatched": 83.89,
    "mrpc": 87.24, "qnli": 91.71, "qqp": 90.12, "rte": 64.84, "sst2": 93.17,
    "stsb": 86.81,
  }  # fmt: skip
  assert glue_metrics.glue_average(row) == pytest.approx(80.95, abs=0.01)
