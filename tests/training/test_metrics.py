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
  want = np.average(values, weights=weights)
  np.testing.assert_allclose(mean, want, rtol=1e-5, atol=1e-6)


def test_weighted_sums_low_precision_values_in_float32():
  values = jnp.ones(4096, jnp.bfloat16)  # A bfloat16 sum stops at 256.
  total, count = metrics.weighted(values, jnp.ones(4096, bool))
  assert (total.dtype, count.dtype) == (jnp.float32, jnp.float32)
  assert (total, count) == (4096, 4096)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999), st.integers(1, CLASSES))
def test_in_top_k_is_a_sort(seed, k):
  logits, labels, _ = random_batch(seed, 6)
  best = np.argsort(-logits, axis=1)[:, :k]
  want = (best == labels[:, None]).any(axis=1)
  np.testing.assert_array_equal(metrics.in_top_k(logits, labels, k), want)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_a_prediction_that_says_nothing_scores_nothing(value):
  logits = np.full((CLASSES, CLASSES), value, np.float32)
  labels = np.arange(CLASSES)
  for k in range(1, CLASSES):
    assert not metrics.in_top_k(logits, labels, k).any()


def test_a_nan_beside_the_label_counts_as_a_better_guess():
  logits = np.float32([[np.nan, 2.0, 1.0]])
  label = np.array([1])
  assert not metrics.in_top_k(logits, label, 1)[0]
  assert metrics.in_top_k(logits, label, 2)[0]


def test_confusion_counts_truth_by_prediction_under_weights():
  labels = np.array([0, 0, 2, 2, 1])
  guesses = np.array([0, 1, 2, 2, 0])
  weights = np.array([1, 1, 1, 0, 1], np.float32)
  found = metrics.confusion(labels, guesses, weights, 3)
  assert found.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_means_keep_arrays_as_sums_and_scalars_leave_them_out():
  counts = jnp.array([[3.0, 1.0], [0.0, 4.0]])
  found = metrics.means(
    {"loss": (jnp.float32(12), jnp.float32(8)), "confusion": (counts, 8.0)}
  )
  assert found["loss"] == 1.5
  np.testing.assert_array_equal(found["confusion"], counts)
  assert metrics.scalars(found) == {"loss": 1.5}
  assert type(metrics.scalars(found)["loss"]) is float
