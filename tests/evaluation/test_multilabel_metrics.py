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
  labels[0], labels[1] = 1, 0  # No class is all alike.
  # Rounded, so that there are ties.
  scores = np.round(rng.normal(size=labels.shape) + labels, 1)
  return labels, scores


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_means_are_scikit_learns(seed):
  labels, scores = random(seed)
  found = multilabel_metrics.summary(labels, scores)
  assert found["mAP"] == pytest.approx(
    metrics.average_precision_score(labels, scores, average="macro")
  )
  assert found["AUC"] == pytest.approx(
    metrics.roc_auc_score(labels, scores, average="macro")
  )
  np.testing.assert_array_equal(found["class_examples"], labels.sum(0))


def test_average_precision_by_hand():
  labels = np.array([[1], [0], [1], [0]])
  scores = np.array([[0.9], [0.8], [0.7], [0.1]])
  # Right at the first place, and two of the first three.
  assert (
    multilabel_metrics.average_precision(labels, scores)[0] == (1 + 2 / 3) / 2
  )


def test_scores_of_transposed_matrices_are_others():
  # As many examples as classes, so that no shape gives it away. Each class
  # ranks the examples rightly, while within an example the last class is
  # always the likeliest.
  labels = np.eye(5, dtype=int)
  scores = labels + 10.0 * np.arange(5)
  assert multilabel_metrics.summary(labels, scores)["mAP"] == 1
  assert multilabel_metrics.summary(labels.T, scores.T)["mAP"] < 0.5


def test_classes_without_examples_do_not_count():
  labels, scores = random(0)
  expected = multilabel_metrics.summary(labels, scores)
  more = np.pad(labels, ((0, 0), (0, 2)))
  more[:, -1] = 1
  found = multilabel_metrics.summary(more, np.pad(scores, ((0, 0), (0, 2))))
  assert np.isnan(found["class_AP"][-2])
  assert np.isnan(found["class_AUC"][-2:]).all()
  assert found["AUC"] == pytest.approx(expected["AUC"])
  # A class that every example has is always found.
  assert found["mAP"] == pytest.approx((6 * expected["mAP"] + 1) / 7)


def test_where_no_class_can_be_judged_nothing_is_said():
  found = multilabel_metrics.summary(np.zeros((3, 2), int), np.ones((3, 2)))
  assert (found["mAP"], found["AUC"], found["d_prime"]) == (0, 0.5, 0)


@pytest.mark.parametrize("distance", [0.0, 0.7, 2.5])
def test_d_prime_is_the_distance_of_two_normal_distributions(distance):
  # One draw exceeds the other where their difference, of deviation sqrt(2),
  # is positive.
  area = stats.norm.cdf(distance / np.sqrt(2))
  assert multilabel_metrics.d_prime(area) == pytest.approx(distance)


def test_d_prime_of_a_perfect_ranking_is_finite():
  assert 6 < multilabel_metrics.d_prime(1.0) < 8
  assert multilabel_metrics.d_prime(0.0) == -multilabel_metrics.d_prime(1.0)


def test_other_shapes_are_refused():
  with pytest.raises(ValueError, match="examples, classes"):
    multilabel_metrics.average_precision(np.zeros((3, 2)), np.zeros((2, 3)))
  with pytest.raises(ValueError, match="examples, classes"):
    multilabel_metrics.area_under_curve(np.zeros(3), np.zeros(3))
