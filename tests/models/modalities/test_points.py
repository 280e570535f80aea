"""Tests of the adapter of point clouds."""

import functools

import jax
import numpy as np
import plain
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import zoo
from perceiver_jax.models.modalities import points

_few = settings(max_examples=10, deadline=None)


def _adapter(**kwargs):
  make = lambda x: points.PointsAdapter(**kwargs)(x, is_training=True)
  return functools.partial(plain.transform(make).apply, {})


def test_the_published_model_has_the_papers_shapes():
  section = zoo.get_spec("modelnet40")["adapter"]
  assert section.pop("kind") == "points"
  raw = zoo.MODELS["modelnet40"].example(2)
  out = jax.eval_shape(_adapter(**section), raw)
  assert out.shape == (2, 2048, 387)
  params, _ = small.shapes(small.model(zoo.get_spec("modelnet40")), raw)
  key = params["encoder/cross_attend_0/attention/key"]["w"]
  assert key.shape == (387, 387)
  assert params["decoder/output"]["w"].shape == (1024, 40)


def test_frequencies_run_from_1_to_1120():
  x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 5, 3)), "float32")
  out = np.asarray(plain.jit(_adapter())(x))
  np.testing.assert_array_equal(out[..., :3], x)
  # Phases reach 3,519, where float32 has steps of 0.0002.
  np.testing.assert_allclose(out, plain.fourier(x, 64, (2240,) * 3), atol=2e-3)
  for axis in range(3):
    slowest, fastest = 3 + 64 * axis, 3 + 64 * axis + 63
    phase = np.pi * np.asarray(x, np.float64)[..., axis]
    np.testing.assert_allclose(out[..., slowest], np.sin(phase), atol=1e-4)
    np.testing.assert_allclose(
      out[..., fastest], np.sin(1120 * phase), atol=2e-3
    )


def test_points_may_have_one_or_two_dimensions():
  for d in (1, 2):
    x = plain.normal(2, 4, d)
    out = plain.jit(_adapter(num_bands=3, max_resolution=10))(x)
    expected = plain.fourier(x, 3, (10,) * d)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@functools.cache
def _classifier():
  model = small.model(small.spec("modelnet40"))
  params, _ = plain.random_like(small.shapes(model, small.raw("modelnet40")))
  return plain.jit(lambda x: model.apply(params, {}, None, x)[0].logits)


@_few
@given(st.permutations(range(9)))
def test_the_model_is_invariant_to_the_order_of_points(order):
  x, run = jnp.tanh(small.raw("modelnet40")), _classifier()
  expected = run(x)
  np.testing.assert_allclose(run(x[:, jnp.asarray(order)]), expected, atol=1e-4)
  assert np.abs(run(x[:, ::-1, ::-1]) - expected).max() > 1e-2
