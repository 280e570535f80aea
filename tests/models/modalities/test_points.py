"""Tests of the adapter of point clouds."""

import functools

import chex
import jax
import numpy as np
import plain
import pytest
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


_CLASSIFIERS = {
  "perceiver": small.spec("modelnet40"),
  "transformer": small.spec("modelnet40_transformer"),
  "pointnet": {
    "num_classes": small.CLASSES,
    "adapter": {"kind": "points", "num_bands": 0},
    "encoder": {"kind": "pointnet", "hidden_sizes": (8, 16)},
    "decoder": {"kind": "pointnet", "hidden_sizes": (8,)},
  },
}


@functools.cache
def _classifier(kind):
  """Returns (logits, gradients of their sum) of points and a mask."""
  model = small.model(_CLASSIFIERS[kind])
  params, _ = plain.random_like(small.shapes(model, small.raw("modelnet40")))

  def logits(params, x, mask):
    out, _ = model.apply(params, {}, None, x, input_mask=mask)
    return out.logits

  total = lambda *args: logits(*args).sum()
  run = plain.jit(lambda x, mask: logits(params, x, mask))
  grads = plain.jit(lambda x, mask: jax.grad(total)(params, x, mask))
  return run, grads


@pytest.mark.parametrize("kind", _CLASSIFIERS)
@_few
@given(order=st.permutations(range(9)), masked=st.integers(0, 8))
def test_models_are_invariant_to_the_order_of_points(kind, order, masked):
  x, order = jnp.tanh(small.raw("modelnet40")), jnp.asarray(order)
  mask = jnp.broadcast_to(jnp.arange(9) >= masked, x.shape[:2])
  run, _ = _classifier(kind)
  expected = run(x, mask)
  found = run(x[:, order], mask[:, order])
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(run(-x, mask) - expected).max() > 1e-3


@pytest.mark.parametrize("kind", _CLASSIFIERS)
@pytest.mark.parametrize("padding", [7.0, np.inf, np.nan])
def test_padding_changes_neither_logits_nor_gradients(kind, padding):
  x = jnp.tanh(small.raw("modelnet40"))
  mask = jnp.arange(9) < jnp.array([[5], [9]])
  padded = jnp.where(mask[..., None], x, padding)
  run, grads = _classifier(kind)
  np.testing.assert_allclose(run(padded, mask), run(x, mask), atol=1e-5)
  chex.assert_trees_all_close(grads(padded, mask), grads(x, mask), atol=1e-5)
  # A shorter array without padding gives the same logits.
  short = run(x[:1, :5], jnp.ones((1, 5), bool))
  np.testing.assert_allclose(run(padded, mask)[:1], short, atol=1e-4)


@pytest.mark.parametrize("kind", _CLASSIFIERS)
def test_an_empty_cloud_has_finite_logits_and_gradients(kind):
  x = jnp.full((2, 9, 3), jnp.nan)
  run, grads = _classifier(kind)
  mask = jnp.zeros((2, 9), bool)
  assert np.isfinite(run(x, mask)).all()
  chex.assert_tree_all_finite(grads(x, mask))


def test_the_mean_over_a_transformers_outputs_leaves_padding_out():
  model = small.model(_CLASSIFIERS["transformer"])
  params, _ = plain.random_like(small.shapes(model, small.raw("modelnet40")))
  x, mask = small.raw("modelnet40"), jnp.arange(9) < jnp.array([[4], [0]])
  attention = lambda what: model.apply(
    params, {}, None, x, input_mask=mask, return_attention=what
  )[0].decoder_attention[:, 0, 0]
  expected = [[0.25] * 4 + [0] * 5, [0] * 9]
  np.testing.assert_allclose(attention(True), expected)
  np.testing.assert_allclose(
    jax.nn.softmax(attention("logits"))[0], expected[0], atol=1e-6
  )
