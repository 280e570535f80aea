import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.errors import UserError
from perceiver_jax.training import mixing

CLASSES = 7
BOTH = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}


def keys_of(seed, size):
  return jax.random.key_data(jax.random.split(jax.random.key(seed), size))


def labels_of(size):
  return jnp.arange(size, dtype=jnp.int32) % CLASSES


def noise(seed, size, height=9, width=13):
  rng = np.random.default_rng(seed)
  pixels = rng.normal(size=(size, height, width, 3))
  return jnp.asarray(pixels, jnp.float32)


@pytest.fixture(scope="module")
def mix():
  return jax.jit(mixing.mix, static_argnames=("mixup_alpha", "cutmix_alpha"))


def partners(size):
  return np.minimum(np.arange(size) ^ 1, size - 1)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_partners_are_neighbors(mix, size):
  mixed = mix(noise(0, size), labels_of(size), keys_of(0, size), **BOTH)
  want = labels_of(size)[partners(size)]
  np.testing.assert_array_equal(mixed.partner_labels, want)
  assert mixed.partner_labels.dtype == jnp.int32
  assert mixed.weights.dtype == jnp.float32
  assert mixed.images.dtype == jnp.float32
  if size % 2:
    np.testing.assert_allclose(mixed.images[-1], noise(0, size)[-1], rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 1))
def test_mixup_is_a_convex_combination_with_the_returned_weights(mix, seed):
  images = noise(seed, 8)
  arguments = {"mixup_alpha": 0.4, "cutmix_alpha": 0.0}
  mixed = mix(images, labels_of(8), keys_of(seed, 8), **arguments)
  weights = np.asarray(mixed.weights, np.float64)
  assert (weights >= 0).all()
  assert (weights <= 1).all()
  own = weights[:, None, None, None]
  want = own * np.asarray(images) + (1 - own) * np.asarray(images)[partners(8)]
  np.testing.assert_allclose(mixed.images, want, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(weights, weights[partners(8)])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31 - 1))
def test_cutmix_weights_are_the_fraction_of_pixels_kept(mix, seed):
  images = noise(seed, 8)
  arguments = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
  mixed = mix(images, labels_of(8), keys_of(seed, 8), **arguments)
  own = np.asarray(mixed.images == images)
  other = np.asarray(mixed.images == images[partners(8)])
  # Each pixel comes whole from one of the two images.
  np.testing.assert_array_equal(own, ~other)
  np.testing.assert_array_equal(own[..., :1].repeat(3, axis=3), own)
  np.testing.assert_allclose(
    mixed.weights, own[..., 0].mean(axis=(1, 2)), rtol=0, atol=1e-7
  )
  for pasted in other[..., 0]:
    rows, columns = pasted.any(axis=1), pasted.any(axis=0)
    assert pasted.sum() == rows.sum() * columns.sum()
    assert (np.abs(np.diff(rows.astype(int))) > 0).sum() <= 2


def test_half_of_a_batch_uses_cutmix_and_half_mixup(mix):
  images = noise(0, 8)
  mixed = mix(images, labels_of(8), keys_of(3, 8), **BOTH)
  same = (mixed.images == images) | (mixed.images == images[partners(8)])
  cut = np.asarray(same.all(axis=(1, 2, 3)))
  assert cut.tolist() == [False, False, True, True] * 2


def test_pairs_draw_independently(mix):
  mixed = mix(noise(0, 16), labels_of(16), keys_of(0, 16), **BOTH)
  assert len(np.unique(mixed.weights)) == 8


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999))
def test_splitting_a_batch_between_groups_of_four_changes_nothing(mix, seed):
  batch = (noise(seed, 16), labels_of(16), keys_of(seed, 16))
  whole = mix(*batch, **BOTH)
  parts = [
    mix(*(x[at] for x in batch), **BOTH)
    for at in (slice(4), slice(4, 8), slice(8, 12), slice(12, None))
  ]
  joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  for name, a, b in zip(whole._fields, whole, joined, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_pair_uses_the_key_of_its_first_example(mix):
  keys = keys_of(0, 8)
  batch = (noise(0, 8), labels_of(8))
  first = mix(*batch, keys, **BOTH)
  second = mix(*batch, keys.at[1::2].set(0), **BOTH)
  np.testing.assert_array_equal(first.images, second.images)
  third = mix(*batch, keys.at[::2].set(0), **BOTH)
  assert (np.asarray(first.weights) != np.asarray(third.weights)).all()


def test_with_both_alphas_zero_nothing_is_mixed():
  images, labels = noise(0, 5), labels_of(5)
  mixed = mixing.mix(
    images, labels, keys_of(0, 5), mixup_alpha=0.0, cutmix_alpha=0.0
  )
  np.testing.assert_array_equal(mixed.images, images)
  np.testing.assert_array_equal(mixed.weights, np.ones(5))
  got = mixing.targets(labels, mixed, CLASSES, 0.0)
  np.testing.assert_array_equal(got, jax.nn.one_hot(labels, CLASSES))


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_mixup_weights_follow_a_beta_distribution(mix, alpha):
  size = 2 * 4000
  arguments = {"mixup_alpha": alpha, "cutmix_alpha": 0.0}
  batch = (jnp.zeros((size, 1, 1, 1)), labels_of(size), keys_of(1, size))
  weights = np.asarray(mix(*batch, **arguments).weights)[::2]
  variance = 1 / (4 * (2 * alpha + 1))
  # Five standard errors of the mean; those of the variance are similar.
  assert abs(weights.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
  assert abs(weights.var() - variance) < 0.06 * variance


def test_boxes_have_the_drawn_size_and_lie_anywhere(mix):
  size, side = 2 * 2000, 24
  rows = jnp.arange(size, dtype=jnp.float32)[:, None, None, None]
  images = jnp.broadcast_to(rows, (size, side, side, 1))
  arguments = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
  mixed = mix(images, labels_of(size), keys_of(2, size), **arguments)
  pasted = np.asarray(mixed.images != images)[::2, ..., 0]
  # A box with center c and side s = sqrt(1 - u), relative to the image, covers
  # min(c + s/2, 1) - max(c - s/2, 0) of an axis; the mean is s - s**2 / 4.
  s = np.sqrt(np.linspace(0, 1, 10_001))
  want = ((s - s**2 / 4) ** 2).mean()
  assert pasted.mean() == pytest.approx(want, rel=0.06)
  # The distribution is symmetric.
  frequency = pasted.mean(axis=0)
  np.testing.assert_allclose(frequency, frequency[::-1], atol=0.06)
  np.testing.assert_allclose(frequency, frequency[:, ::-1], atol=0.06)
  np.testing.assert_allclose(frequency, frequency.T, atol=0.06)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.floats(0, 1, width=32))
def test_targets_weight_both_labels_before_smoothing(mix, seed, smoothing):
  labels = labels_of(8)
  mixed = mix(noise(seed, 8), labels, keys_of(seed, 8), **BOTH)
  got = np.asarray(mixing.targets(labels, mixed, CLASSES, smoothing))
  want = np.full((8, CLASSES), smoothing / CLASSES)
  for i, weight in enumerate(np.asarray(mixed.weights)):
    want[i, labels[i]] += (1 - smoothing) * weight
    want[i, mixed.partner_labels[i]] += (1 - smoothing) * (1 - weight)
  np.testing.assert_allclose(got, want, atol=1e-6)
  np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_images_keep_their_type_and_weights_are_float32():
  images = noise(0, 4).astype(jnp.bfloat16)
  mix = functools.partial(mixing.mix, **BOTH)
  mixed = jax.eval_shape(mix, images, labels_of(4), keys_of(0, 4))
  assert mixed.images.dtype == jnp.bfloat16
  assert mixed.weights.dtype == jnp.float32


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
@pytest.mark.parametrize("value", [-0.2, np.nan, np.inf])
def test_an_invalid_alpha_is_named(name, value):
  batch = (noise(0, 2), labels_of(2), keys_of(0, 2))
  with pytest.raises(UserError, match=rf"config\.mixing\.{name} is .*; give 0"):
    mixing.mix(*batch, **{**BOTH, name: value})
