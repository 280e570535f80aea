"""Tests of metrics as sums and counts, and of the numbers made of them."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.training import metrics

CLASSES = 5


def random_batch(seed, size):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(size, CLASSES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, size).astype(np.int32)
  weights = rng.integers(0, 2, size).astype(np.float32)
  return logits, labels, weights


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6))
def test_means_do_not_depend_on_how_examples_are_batched(seed, first, second):
  _, _, weights = random_batch(seed, first + second)
  values = np.random.default_rng(seed).normal(size=first + second)
  weights[0] = 1
  parts = [
    metrics.weighted(jnp.asarray(values[at]), jnp.asarray(weights[at]))
    for at in (slice(first), slice(first, None))
  ]
  joined = jax.tree.map(jnp.add, *parts)
  mean = metrics.means({"loss": joined})["loss"]
  expected = np.average(values, weights=weights)
  np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_weighted_sums_low_precision_values_in_float32():
  values = jnp.ones(4096, jnp.bfloat16)  # A bfloat16 sum stops at 256.
  total, count = metrics.weighted(values, jnp.ones(4096, bool))
  assert (total.dtype, count.dtype) == (jnp.float32, jnp.float32)
  assert (total, count) == (4096, 4096)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(1, CLASSES))
def test_in_top_k_agrees_with_sorting(seed, k):
  logits, labels, _ = random_batch(seed, 6)
  best = np.argsort(-logits, axis=1)[:, :k]
  expected = (best == labels[:, None]).any(axis=1)
  np.testing.assert_array_equal(metrics.in_top_k(logits, labels, k), expected)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_constant_or_nan_logits_are_never_correct(value):
  logits = np.full((CLASSES, CLASSES), value, np.float32)
  labels = np.arange(CLASSES)
  for k in range(1, CLASSES):
    assert not metrics.in_top_k(logits, labels, k).any()


def test_a_nan_logit_ranks_above_the_label():
  logits = np.float32([[np.nan, 2.0, 1.0]])
  label = np.array([1])
  assert not metrics.in_top_k(logits, label, 1)[0]
  assert metrics.in_top_k(logits, label, 2)[0]


def test_confusion_counts_labels_by_predictions_under_weights():
  labels = np.array([0, 0, 2, 2, 1])
  predictions = np.array([0, 1, 2, 2, 0])
  weights = np.array([1, 1, 1, 0, 1], np.float32)
  counts = metrics.confusion(labels, predictions, weights, 3)
  assert counts.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]


calibration = jax.jit(metrics.calibration, static_argnames="bins")


def calibrated(confidences, correct):
  """Returns logits and labels of two classes with the given confidences."""
  p = np.asarray(confidences, np.float32)
  logits = np.log(np.stack([p, 1 - p], axis=1))
  return logits, np.where(correct, 0, 1)


def test_calibration_sums_weight_confidence_and_correct_by_bin():
  logits, labels = calibrated([0.55, 0.8, 0.9, 0.95], [True, True, False, True])
  table = calibration(logits, labels, np.array([1, 1, 1, 0]), bins=4)
  expected = np.zeros((4, 3))
  expected[2] = (1, 0.55, 1)
  expected[3] = (2, 1.7, 1)
  np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_bins_of_confidence_are_closed_above():
  logits = np.float32([[0, 0], [1000, 0]])  # Confidences of exactly 1/2 and 1.
  table = calibration(logits, np.zeros(2, int), np.ones(2), bins=2)
  # An example whose classes tie doesn't count as correct.
  assert table.tolist() == [[1, 0.5, 0], [1, 1, 1]]


@pytest.mark.parametrize("seed", [0, 1])
def test_calibration_adds_up_over_batches(seed):
  logits, labels, weights = random_batch(seed, 16)
  whole = calibration(logits, labels, weights)
  parts = [
    calibration(logits[at], labels[at], weights[at])
    for at in (slice(5), slice(5, None))
  ]
  np.testing.assert_allclose(whole, sum(parts), rtol=1e-5, atol=1e-6)
  correct = metrics.in_top_k(logits, labels, 1) * weights
  np.testing.assert_allclose(whole[:, 0].sum(), weights.sum())
  np.testing.assert_allclose(whole[:, 2].sum(), correct.sum())


def test_calibration_of_bfloat16_logits_is_computed_in_float32():
  logits = jnp.full((4096, 2), jnp.bfloat16(0)).at[:, 0].set(3)
  table = calibration(logits, jnp.zeros(4096, int), jnp.ones(4096))
  assert table.dtype == jnp.float32
  expected = np.array([1, 1 / (1 + np.exp(-3)), 1]) * 4096
  np.testing.assert_allclose(table[-1], expected, rtol=1e-5)


def test_calibration_error_is_the_mean_distance_weighted_by_examples():
  # Three examples at 0.9, one of them correct; one at 0.6, correct.
  logits, labels = calibrated([0.9, 0.9, 0.9, 0.6], [True, False, False, True])
  table = calibration(logits, labels, np.ones(4))
  expected = 3 / 4 * (0.9 - 1 / 3) + 1 / 4 * (1 - 0.6)
  error = metrics.expected_calibration_error(np.asarray(table))
  assert type(error) is float
  assert error == pytest.approx(expected, rel=1e-5)


def test_calibrated_predictions_have_no_calibration_error():
  rng = np.random.default_rng(0)
  confidences = rng.uniform(0.5, 1, 50_000)
  correct = rng.random(50_000) < confidences
  logits, labels = calibrated(confidences, correct)
  table = np.asarray(calibration(logits, labels, np.ones(50_000)))
  assert metrics.expected_calibration_error(table) < 0.01


def test_per_class_accuracy_omits_classes_without_examples():
  counts = np.float32([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
  assert metrics.per_class_accuracy(counts) == {0: 0.75, 2: 0.0}


def test_means_keep_arrays_as_sums_and_scalars_omit_them():
  counts = jnp.array([[3.0, 1.0], [0.0, 4.0]])
  means = metrics.means(
    {"loss": (jnp.float32(12), jnp.float32(8)), "confusion": (counts, 8.0)}
  )
  assert means["loss"] == 1.5
  np.testing.assert_array_equal(means["confusion"], counts)
  assert metrics.scalars(means) == {"loss": 1.5}
  assert type(metrics.scalars(means)["loss"]) is float


def test_psnr_is_in_decibels_with_a_peak_of_one():
  target = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
  error = np.float32([0.1, 0.01, 0])[:, None, None]
  psnr = metrics.psnr(target + error, target)
  np.testing.assert_allclose(psnr, [20, 40, 100], atol=0.01)
