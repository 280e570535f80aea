"""Tests of arrays with coordinates and queries, a user's own modality."""

import functools

import jax
import numpy as np
import plain
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models.modalities import arrays

_few = settings(max_examples=10, deadline=None)
_ELEMENTS, _QUERIES = 7, 5
_SPEC = {
  "adapter": {"kind": "arrays", "num_bands": 3, "max_resolution": 8},
  "encoder": {
    "num_latents": 3,
    "num_latent_channels": 8,
    "num_blocks": 2,
    "num_self_attends_per_block": 1,
    "num_self_attend_heads": 2,
  },
  "decoder": {"kind": "arrays", "num_outputs": 2},
}


def _adapter(**kwargs):
  make = lambda x: arrays.ArraysAdapter(**kwargs)(x, is_training=True)
  return functools.partial(plain.transform(make).apply, {})


def _data(seed=0):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(2, _ELEMENTS, 3))
  coordinates = rng.uniform(-1, 1, (2, _ELEMENTS, 2))
  real = rng.random((2, _ELEMENTS)) < 0.6
  real[:, 0] = True
  raw = {"features": features, "coordinates": coordinates}
  raw = jax.tree.map(lambda x: jnp.asarray(x, "float32"), raw)
  return raw, jnp.asarray(real), plain.normal(2, _QUERIES, 4, seed=seed)


@functools.cache
def _model():
  model = small.model(_SPEC)
  raw, mask, queries = _data()
  shapes, _ = small.shapes(model, raw, input_mask=mask, queries=queries)
  params = plain.random_like(shapes)
  return plain.jit(
    lambda raw, mask, queries, **kwargs: model.apply(
      params, {}, None, raw, input_mask=mask, queries=queries, **kwargs
    )[0]
  ), params


def _run(*args, **kwargs):
  run, _ = _model()
  return run(*args, **kwargs)


def test_fourier_features_of_coordinates_are_appended_to_the_features():
  raw, _, _ = _data()
  out = _adapter(num_bands=3, max_resolution=(8, 6))(raw)
  expected = plain.fourier(raw["coordinates"], 3, (8, 6))
  np.testing.assert_array_equal(out[..., :3], raw["features"])
  np.testing.assert_allclose(out[..., 3:], expected, atol=1e-4)


def test_shared_coordinates_give_the_same_result_as_repeated_ones():
  raw, mask, queries = _data()
  shared = raw["coordinates"][0]
  once = raw | {"coordinates": shared}
  repeated = raw | {"coordinates": jnp.stack([shared, shared])}
  np.testing.assert_array_equal(_adapter()(once), _adapter()(repeated))
  out, expected = (_run(r, mask, queries) for r in (once, repeated))
  np.testing.assert_allclose(out.logits, expected.logits, atol=1e-4)


def test_without_coordinates_the_input_array_is_the_features():
  raw, _, _ = _data()
  out = _adapter()({"features": raw["features"]})
  np.testing.assert_array_equal(out, raw["features"])


@_few
@given(st.integers(0, 99), st.sampled_from([0.0, -1e9, np.nan]))
def test_masked_elements_have_no_effect(seed, garbage):
  raw, mask, queries = _data(seed)
  expected = _run(raw, mask, queries)
  other = jax.tree.map(lambda x: jnp.where(mask[..., None], x, garbage), raw)
  out = _run(other, mask, queries)
  jax.tree.map(np.testing.assert_array_equal, out, expected)


@_few
@given(st.permutations(range(_ELEMENTS)), st.integers(0, 99))
def test_the_order_of_elements_does_not_change_the_latents(order, seed):
  raw, mask, queries = _data(seed)
  order = jnp.asarray(order)
  expected = _run(raw, mask, queries)
  permuted = jax.tree.map(lambda x: x[:, order], raw)
  out = _run(permuted, mask[:, order], queries)
  np.testing.assert_allclose(out.latents, expected.latents, atol=1e-3)
  np.testing.assert_allclose(out.logits, expected.logits, atol=1e-3)


@_few
@given(st.sets(st.sampled_from(range(_QUERIES)), min_size=1))
def test_a_subset_of_queries_gives_a_subset_of_outputs(subset):
  raw, mask, queries = _data()
  rows = jnp.asarray(sorted(subset))
  expected = _run(raw, mask, queries).logits
  out = _run(raw, mask, queries[:, rows]).logits
  assert out.shape == (2, len(rows), 2)
  np.testing.assert_allclose(out, expected[:, rows], atol=1e-4)


def test_queries_can_be_shared_by_all_examples():
  raw, mask, queries = _data()
  shared = queries[0]
  out = _run(raw, mask, shared).logits
  expected = _run(raw, mask, jnp.stack([shared, shared])).logits
  np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("raw", "message"),
  [
    ({"values": jnp.ones((2, 3, 1))}, "inputs values: give a mapping with"),
    (
      {"features": jnp.ones((2, 3, 1)), "coordinates": jnp.ones((4, 1))},
      r"coordinates \(4, 1\) do not belong to features \(2, 3, 1\)",
    ),
  ],
)
def test_malformed_inputs_are_refused(raw, message):
  with pytest.raises(ValueError, match=message):
    _adapter()(raw)


def test_missing_queries_are_refused():
  raw, mask, _ = _data()
  with pytest.raises(ValueError, match="pass queries="):
    _run(raw, mask, None)


def test_passing_the_learned_latents_changes_nothing():
  args = _data()
  learned = _model()[1]["encoder/latents"]["embeddings"]
  expected = _run(*args)
  for initial in (learned, jnp.stack([learned, learned])):
    out = _run(*args, initial_latents=initial)
    np.testing.assert_allclose(out.latents, expected.latents, atol=1e-4)


def test_any_number_of_initial_latents_can_be_passed():
  args = _data()
  initial = plain.normal(2, 4, 8)
  out = _run(*args, initial_latents=initial)
  assert out.latents.shape == (2, 4, 8)
  other = _run(*args, initial_latents=initial.at[0].add(1))
  assert np.abs(other.latents[0] - out.latents[0]).max() > 1e-2
  np.testing.assert_array_equal(other.latents[1], out.latents[1])


def test_initial_latents_of_another_width_are_refused():
  with pytest.raises(ValueError, match="change num_latent_channels"):
    _run(*_data(), initial_latents=plain.normal(3, 6))
