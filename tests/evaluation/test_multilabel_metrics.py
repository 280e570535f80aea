import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from perceiver_jax.evaluation import multilabel_metrics


def random(seed, examples=40, classes=6):
  rng = np.random.default_rng(seed)
  labels = (rng.random((examples, classes)) < 0.3).astype(int)
  labels[0], labels[1] = 1, 0  # Every class has both labels.
  # Rounding makes ties.
  scores = np.round(rng.normal(size=labels.shape) + labels, 1)
  return labels, scores


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_means_over_classes_agree_with_scikit_learn(seed):
  labels, scores = random(seed)
  summary = multilabel_metrics.summary(labels, scores)
  assert summary["mAP"] == pytest.approx(
    metrics.average_precision_score(labels, scores, average="macro")
  )
  assert summary["AUC"] == pytest.approx(
    metrics.roc_auc_score(labels, scores, average="macro")
  )
  np.testing.assert_array_equal(summary["class_examples"], labels.sum(0))


def test_average_precision_of_a_small_example():
  labels = np.array([[1], [0], [1], [0]])
  scores = np.array([[0.9], [0.8], [0.7], [0.1]])
  # The precision is 1 at the first positive and 2 / 3 at the second.
  assert (
    multilabel_metrics.average_precision(labels, scores)[0] == (1 + 2 / 3) / 2
  )


def test_examples_are_rows_and_classes_are_columns():
  # There are as many examples as classes, so that shapes do not tell. Each
  # class ranks the examples correctly, while the last class has the highest
  # score of every example.
  labels = np.eye(5, dtype=int)
  scores = labels + 10.0 * np.arange(5)
  assert multilabel_metrics.summary(labels, scores)["mAP"] == 1
  assert multilabel_metrics.summary(labels.T, scores.T)["mAP"] < 0.5


def test_classes_without_examples_are_ignored():
  labels, scores = random(0)
  expected = multilabel_metrics.summary(labels, scores)
  more = np.pad(labels, ((0, 0), (0, 2)))
  more[:, -1] = 1
  summary = multilabel_metrics.summary(more, np.pad(scores, ((0, 0), (0, 2))))
  assert np.isnan(summary["class_AP"][-2])
  assert np.isnan(summary["class_AUC"][-2:]).all()
  assert summary["AUC"] == pytest.approx(expected["AUC"])
  # A class that every example has is always predicted correctly.
  assert summary["mAP"] == pytest.approx((6 * expected["mAP"] + 1) / 7)


def test_without_any_examples_metrics_have_the_values_of_chance():
  summary = multilabel_metrics.summary(np.zeros((3, 2), int), np.ones((3, 2)))
  assert (summary["mAP"], summary["AUC"], summary["d_prime"]) == (0, 0.5, 0)


@pytest.mark.parametrize("distance", [0.0, 0.7, 2.5])
def test_d_prime_is_the_distance_of_two_normal_distributions(distance):
  # One draw exceeds the other if their difference, which has the deviation
  # sqrt(2), is positive.
  area = stats.norm.cdf(distance / np.sqrt(2))
  assert multilabel_metrics.d_prime(area) == pytest.approx(distance)


def test_d_prime_of_a_perfect_ranking_is_finite():
  assert 6 < multilabel_metrics.d_prime(1.0) < 8
  assert multilabel_metrics.d_prime(0.0) == -multilabel_metrics.d_prime(1.0)


def test_labels_and_scores_of_different_shapes_are_refused():
  with pytest.raises(ValueError, match="examples, classes"):
    multilabel_metrics.average_precision(np.zeros((3, 2)), np.zeros((2, 3)))
  with pytest.raises(ValueError, match="examples, classes"):
    multilabel_metrics.area_under_curve(np.zeros(3), np.zeros(3))
