"""Tests of the adapters and the decoders of entities."""

import functools

import jax
import numpy as np
import plain
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import flops, zoo
from perceiver_jax.models.modalities import entities

_few = settings(max_examples=10, deadline=None)
_ENTITIES = 6
_both = pytest.mark.parametrize("name", ["starcraft", "starcraft_transformer"])


def test_the_published_model_has_the_papers_shapes():
  model = small.model(zoo.get_spec("starcraft"))
  raw = zoo.MODELS["starcraft"].example(2)
  mask = flops.abstract(2, 512, dtype=jnp.bool_)
  params, state = small.shapes(model, raw, input_mask=mask)
  assert params["adapter/embed"]["w"].shape == (256, 128)
  assert params["encoder/latents"]["embeddings"].shape[0] == 32
  assert params["decoder/cross_attend/query_norm"]["scale"].shape == (128,)
  out, _ = jax.eval_shape(
    lambda p, x, m: model.apply(p, state, None, x, input_mask=m),
    params,
    raw,
    mask,
  )
  assert jax.tree.map(lambda x: x.shape, out.logits) == {
    "entity_embeddings": (2, 512, 256),
    "embedded_entity": (2, 256),
  }


@functools.cache
def _model(name="starcraft"):
  """Returns a small model of outputs and gradients, and its parameters."""
  model = small.model(small.spec(name))
  raw, mask = small.raw(name), small.mask(name)
  params, _ = plain.random_like(small.shapes(model, raw, input_mask=mask))

  def loss(params, raw, mask):
    out, _ = model.apply(params, {}, None, raw, input_mask=mask)
    leaves = jax.tree.leaves(out.logits)
    return sum((x * x).sum() for x in leaves), out

  gradient = plain.jit(jax.grad(loss, has_aux=True))
  return lambda raw, mask: gradient(params, raw, mask), params


def _mask(seed):
  real = np.random.default_rng(seed).random((2, _ENTITIES)) < 0.5
  real[:, 0], real[:, -1] = True, False
  return real


@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_agree_with_the_definition_of_the_decoder(seed):
  run, params = _model()
  raw, real = small.raw("starcraft", seed=seed), _mask(seed)
  _, out = run(raw, jnp.asarray(real))
  inputs = plain.Module(params, "adapter").linear("embed", raw)
  inputs[~real] = 0
  decoder = plain.Module(params, "decoder")
  decoded, _ = decoder.cross_attend(
    inputs, out.latents, mask=real, residual=True
  )
  embeddings = decoder.linear("entity_embeddings", np.maximum(decoded, 0))
  embeddings[~real] = 0
  np.testing.assert_allclose(
    out.logits["entity_embeddings"], embeddings, atol=1e-3
  )
  mean = [x[is_real].mean(0) for x, is_real in zip(decoded, real, strict=True)]
  embedded = np.maximum(decoder.linear("embedded_entity", mean), 0)
  np.testing.assert_allclose(out.logits["embedded_entity"], embedded, atol=1e-3)
  assert np.any(embedded > 0)


def test_transformer_outputs_agree_with_the_definition_of_the_decoder():
  name = "starcraft_transformer"
  run, params = _model(name)
  real = _mask(0)
  _, out = run(small.raw(name), jnp.asarray(real))
  decoder = plain.Module(params, "decoder")
  decoded = decoder.norm("norm", np.asarray(out.latents))
  embeddings = decoder.linear("entity_embeddings", np.maximum(decoded, 0))
  embeddings[~real] = 0
  np.testing.assert_allclose(
    out.logits["entity_embeddings"], embeddings, atol=1e-3
  )
  mean = [x[is_real].mean(0) for x, is_real in zip(decoded, real, strict=True)]
  embedded = np.maximum(decoder.linear("embedded_entity", mean), 0)
  np.testing.assert_allclose(out.logits["embedded_entity"], embedded, atol=1e-3)


@_both
@_few
@given(st.integers(0, 99), st.sampled_from([0.0, -1e9, 3e38]))
def test_padding_has_no_effect_and_embeddings_of_zero(name, seed, garbage):
  run, _ = _model(name)
  raw, real = small.raw("starcraft", seed=seed), _mask(seed)
  mask = jnp.asarray(real)
  expected_grad, expected = run(raw, mask)
  grad, out = run(jnp.where(mask[..., None], raw, garbage), mask)
  assert not np.any(np.asarray(out.logits["entity_embeddings"])[~real])
  assert np.all(np.any(np.asarray(out.logits["entity_embeddings"])[real], -1))
  jax.tree.map(np.testing.assert_array_equal, out, expected)
  for module, leaves in grad.items():
    for leaf, value in leaves.items():
      np.testing.assert_allclose(
        value, expected_grad[module][leaf], rtol=1e-4, atol=1e-4, err_msg=module
      )


@_both
def test_padding_of_nan_has_no_effect(name):
  run, _ = _model(name)
  raw, mask = small.raw("starcraft"), jnp.asarray(_mask(0))
  _, out = run(jnp.where(mask[..., None], raw, jnp.nan), mask)
  jax.tree.map(np.testing.assert_array_equal, out, run(raw, mask)[1])


@_both
def test_an_example_without_entities_is_finite_and_affects_no_other(name):
  run, _ = _model(name)
  raw, real = small.raw("starcraft"), _mask(0)
  _, expected = run(raw, jnp.asarray(real))
  real[1] = False
  grad, out = run(raw, jnp.asarray(real))
  for name, value in out.logits.items():
    np.testing.assert_allclose(value[0], expected.logits[name][0], atol=1e-4)
  assert not np.any(out.logits["entity_embeddings"][1])
  finite = jax.tree.map(lambda x: np.isfinite(x).all(), (grad, out))
  assert all(jax.tree.leaves(finite))


@_both
@_few
@given(st.permutations(range(_ENTITIES)), st.integers(0, 99))
def test_permuted_entities_have_permuted_embeddings(name, order, seed):
  run, _ = _model(name)
  raw, mask = small.raw("starcraft", seed=seed), jnp.asarray(_mask(seed))
  order = jnp.asarray(order)
  _, expected = run(raw, mask)
  _, out = run(raw[:, order], mask[:, order])
  np.testing.assert_allclose(
    out.logits["entity_embeddings"],
    expected.logits["entity_embeddings"][:, order],
    atol=1e-3,
  )
  np.testing.assert_allclose(
    out.logits["embedded_entity"], expected.logits["embedded_entity"], atol=1e-3
  )


def test_without_a_mask_all_entities_are_real():
  make = lambda latents, inputs, mask=None: entities.EntitiesDecoder(
    5, name="decoder"
  )(latents, inputs, mask)[0]
  model = plain.transform(make)
  args = plain.normal(2, 3, 4), plain.normal(2, 6, 7)
  params = plain.random_params(model, *args)
  run = plain.jit(model.apply)
  out, expected = run(params, *args), run(params, *args, jnp.ones((2, 6), bool))
  for name, value in out.items():
    np.testing.assert_allclose(value, expected[name], atol=1e-5)
  masked = run(params, *args, jnp.asarray(_mask(0)))
  assert not np.allclose(out["embedded_entity"], masked["embedded_entity"])


def test_features_are_one_hot_vectors_numbers_and_fourier_features():
  model = plain.transform(
    lambda raw: entities.EntityFeaturesAdapter(
      7, 5, 3, num_bands=2, max_resolution=4, name="adapter"
    )(raw, is_training=True)
  )
  # Two columns share category 4 in the first entity; the last has none.
  categories = np.array([[[0, 4, 4], [-1, 6, 2], [-1, -1, -1]]], np.int32)
  raw = {
    "categories": categories,
    "numbers": plain.normal(1, 3, 4),
    "positions": np.tanh(plain.normal(1, 3, 2, seed=1)),
  }
  params = plain.random_params(model, raw)
  out = plain.jit(model.apply)(params, raw)
  one_hot = np.zeros((3, 7))
  for row, columns in zip(one_hot, categories[0], strict=True):
    for category in columns[columns >= 0]:
      row[category] += 1
  adapter = plain.Module(params, "adapter")
  x = one_hot @ params["adapter/categories"]["w"]
  x += adapter.linear("numbers", np.asarray(raw["numbers"][0]))
  fourier = plain.fourier(np.asarray(raw["positions"][0]), 2, (4, 4))
  x += adapter.linear("positions", fourier)
  expected = adapter.linear("embed", np.maximum(x, 0))
  np.testing.assert_allclose(out[0], expected, atol=1e-4)
