"""Tests of mixup and CutMix, with properties for random batches."""

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
MIXUP = {"mixup_alpha": 0.4, "cutmix_alpha": 0.0}
CUTMIX = {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}


def noise(seed, size, height=9, width=13):
  rng = np.random.default_rng(seed)
  pixels = rng.normal(size=(size, height, width, 3))
  return jnp.asarray(pixels, jnp.float32)


def keys_of(seed, size):
  return jax.random.key_data(jax.random.split(jax.random.key(seed), size))


def batch_of(seed, size):
  """Returns images, partners, random keys and positions in the batch."""
  return (
    noise(seed, size),
    noise(seed + 1, size),
    keys_of(seed, size),
    jnp.arange(size, dtype=jnp.int32),
  )


@pytest.fixture(scope="module")
def mix():
  return jax.jit(mixing.mix, static_argnames=("mixup_alpha", "cutmix_alpha"))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 2))
def test_mixup_is_a_convex_combination_with_the_returned_weights(mix, seed):
  images, partners, *rest = batch_of(seed, 8)
  mixed = mix(images, partners, *rest, **MIXUP)
  weights = np.asarray(mixed.weights, np.float64)
  assert (weights >= 0).all()
  assert (weights <= 1).all()
  own = weights[:, None, None, None]
  expected = own * np.asarray(images) + (1 - own) * np.asarray(partners)
  np.testing.assert_allclose(mixed.images, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31 - 2))
def test_cutmix_weights_are_the_fraction_of_pixels_kept(mix, seed):
  images, partners, *rest = batch_of(seed, 8)
  mixed = mix(images, partners, *rest, **CUTMIX)
  own = np.asarray(mixed.images == images)
  other = np.asarray(mixed.images == partners)
  # Each pixel comes from exactly one of the two images.
  np.testing.assert_array_equal(own, ~other)
  np.testing.assert_array_equal(own[..., :1].repeat(3, axis=3), own)
  np.testing.assert_allclose(
    mixed.weights, own[..., 0].mean(axis=(1, 2)), rtol=0, atol=1e-7
  )
  for pasted in other[..., 0]:
    rows, columns = pasted.any(axis=1), pasted.any(axis=0)
    assert pasted.sum() == rows.sum() * columns.sum()
    assert (np.abs(np.diff(rows.astype(int))) > 0).sum() <= 2


def test_images_of_a_batch_alternate_between_mixup_and_cutmix(mix):
  images, partners, *rest = batch_of(3, 8)
  mixed = mix(images, partners, *rest, **BOTH)
  same = (mixed.images == images) | (mixed.images == partners)
  cut = np.asarray(same.all(axis=(1, 2, 3)))
  assert cut.tolist() == [False, True] * 4


def test_each_image_draws_a_weight_of_its_own(mix):
  mixed = mix(*batch_of(0, 16), **BOTH)
  assert len(np.unique(mixed.weights)) == 16


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999))
def test_a_batch_is_mixed_the_same_in_parts(mix, seed):
  batch = batch_of(seed, 9)
  whole = mix(*batch, **BOTH)
  # The second part starts at an odd position; equal sizes compile once.
  parts = [
    mix(*(x[at] for x in batch), **BOTH)
    for at in (slice(3), slice(3, 6), slice(6, None))
  ]
  joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  for name, a, b in zip(whole._fields, whole, joined, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)


def test_with_both_alphas_zero_nothing_is_mixed():
  images, *rest = batch_of(0, 5)
  mixed = mixing.mix(images, *rest, mixup_alpha=0.0, cutmix_alpha=0.0)
  np.testing.assert_array_equal(mixed.images, images)
  np.testing.assert_array_equal(mixed.weights, np.ones(5))


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_mixup_weights_follow_a_beta_distribution(mix, alpha):
  size = 4000
  black = jnp.zeros((size, 1, 1, 1))
  batch = (black, black, keys_of(1, size), jnp.arange(size))
  arguments = {"mixup_alpha": alpha, "cutmix_alpha": 0.0}
  weights = np.asarray(mix(*batch, **arguments).weights)
  variance = 1 / (4 * (2 * alpha + 1))
  # Five standard errors of the mean; those of the variance are similar.
  assert abs(weights.mean() - 0.5) < 5 * np.sqrt(variance / size)
  assert abs(weights.var() - variance) < 0.06 * variance


def test_boxes_have_the_size_and_position_of_the_authors_code(mix):
  size, side = 2000, 24
  black = jnp.zeros((size, side, side, 1))
  batch = (black, black + 1, keys_of(2, size), jnp.arange(size))
  pasted = np.asarray(mix(*batch, **CUTMIX).images)[..., 0]
  # As in the authors' code, the center is a random pixel, and half the side is
  # floor(side * sqrt(1 - u)) // 2, clipped at the borders.
  half = (side * np.sqrt(np.linspace(0, 1, 2001))).astype(int) // 2
  half, center, pixel = np.ix_(half, np.arange(side), np.arange(side))
  covers = (center - half <= pixel) & (pixel < center + half)
  shares = covers.mean(axis=1)  # Of the centers, by size and pixel.
  expected = np.einsum("uy,ux->yx", shares, shares) / len(shares)
  assert pasted.mean() == pytest.approx(expected.mean(), rel=0.06)
  np.testing.assert_allclose(pasted.mean(axis=0), expected, atol=0.05)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.floats(0, 1, width=32))
def test_targets_are_weighted_labels_with_smoothing(seed, smoothing):
  rng = np.random.default_rng(seed)
  labels, partner_labels = rng.integers(0, CLASSES, (2, 8))
  weights = rng.random(8).astype(np.float32)
  targets = np.asarray(
    mixing.targets(labels, partner_labels, weights, CLASSES, smoothing)
  )
  expected = np.full((8, CLASSES), smoothing / CLASSES)
  for i, weight in enumerate(weights):
    expected[i, labels[i]] += (1 - smoothing) * weight
    expected[i, partner_labels[i]] += (1 - smoothing) * (1 - weight)
  np.testing.assert_allclose(targets, expected, atol=1e-6)
  np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)


def test_images_keep_their_type_and_weights_are_float32():
  images, partners, *rest = batch_of(0, 4)
  mix = functools.partial(mixing.mix, **BOTH)
  half = jnp.bfloat16
  mixed = jax.eval_shape(mix, images.astype(half), partners.astype(half), *rest)
  assert mixed.images.dtype == jnp.bfloat16
  assert mixed.weights.dtype == jnp.float32


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
@pytest.mark.parametrize("value", [-0.2, np.nan, np.inf])
def test_an_invalid_alpha_is_refused(name, value):
  with pytest.raises(UserError, match=rf"config\.mixing\.{name} is .*; give 0"):
    mixing.mix(*batch_of(0, 2), **{**BOTH, name: value})
