"""Tests of the adapter and the decoders of text."""

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
from perceiver_jax.models.modalities import text

_few = settings(max_examples=10, deadline=None)
_LENGTH = small.LENGTH


def _adapter(tokens):
  return text.TextAdapter(11, 8, 9, name="adapter")(tokens, is_training=False)


def test_the_input_array_is_the_sum_of_embeddings_and_positions():
  tokens = small.raw("language_bytes")
  model = plain.transform(_adapter)
  params = plain.random_params(model, tokens)
  assert jax.tree.map(jnp.shape, params) == {
    "adapter": {"embeddings": (11, 8)},
    "adapter/positions": {"embeddings": (9, 8)},
  }
  words = np.asarray(params["adapter"]["embeddings"])
  places = np.asarray(params["adapter/positions"]["embeddings"])
  out = plain.jit(model.apply)(params, tokens)
  for example, row in zip(out, np.asarray(tokens), strict=True):
    for i, token in enumerate(row):
      np.testing.assert_allclose(example[i], words[token] + places[i])


def test_more_tokens_than_positions_are_refused():
  tokens = flops.abstract(2, 10, dtype=jnp.int32)
  message = "10 elements, but only 9 positions: raise max_l"
  with pytest.raises(ValueError, match=message):
    small.shapes(plain.transform(_adapter), tokens)


@pytest.mark.parametrize(
  ("name", "length", "vocabulary"),
  [
    ("language_bytes", 2048, 262),
    ("language_bytes_plus_plus", 2048, 262),
    ("language_sentencepiece", 512, 32_000),
  ],
)
def test_published_models_have_the_papers_shapes(name, length, vocabulary):
  model = small.model(zoo.get_spec(name))
  tokens = zoo.MODELS[name].example()
  mask = flops.abstract(1, length, dtype=jnp.bool_)
  params, state = small.shapes(model, tokens, input_mask=mask)
  assert params["adapter"]["embeddings"].shape == (vocabulary, 768)
  assert params["adapter/positions"]["embeddings"].shape == (length, 768)
  assert params["decoder/query"]["embeddings"].shape == (length, 768)
  assert params["decoder"]["bias"].shape == (vocabulary,)
  for module, width in (
    ("encoder/cross_attend_0/attention/query", 256),
    ("encoder/cross_attend_0/attention/key", 256),
    ("decoder/cross_attend/attention/query", 256),
    ("decoder/cross_attend/attention/value", 768),
  ):
    assert params[module]["w"].shape[1] == width
  out, _ = jax.eval_shape(
    lambda p, x, m: model.apply(p, state, None, x, input_mask=m),
    params,
    tokens,
    mask,
  )
  assert out.logits.shape == (1, length, vocabulary)


@functools.cache
def _language_model(use_query_mask=True):
  """Returns a compiled small model with random parameters, and those."""
  spec = small.spec("language_bytes")
  spec["decoder"]["use_query_mask"] = use_query_mask
  model = small.model(spec)
  tokens = small.raw("language_bytes")
  params, _ = plain.random_like(
    small.shapes(model, tokens, input_mask=small.mask("language_bytes"))
  )
  apply = lambda tokens, mask, **kwargs: model.apply(
    params, {}, None, tokens, input_mask=mask, **kwargs
  )[0]
  return plain.jit(apply), params


def _masks(seed):
  real = np.random.default_rng(seed).random((2, _LENGTH)) < 0.6
  real[:, 0], real[:, -1] = True, False
  return jnp.asarray(real)


@pytest.mark.parametrize("use_query_mask", [True, False])
def test_logits_agree_with_the_definition_of_the_decoder(use_query_mask):
  run, params = _language_model(use_query_mask)
  mask = _masks(0)
  out = run(small.raw("language_bytes"), mask)
  decoder = plain.Module(params, "decoder")
  queries = decoder.table("query")[None, :_LENGTH].repeat(2, 0)
  decoded, _ = decoder.cross_attend(
    queries, out.latents, heads=2, mask=mask if use_query_mask else None
  )
  words = np.asarray(params["adapter"]["embeddings"], np.float64)
  expected = decoded @ words.T + np.asarray(params["decoder"]["bias"])
  np.testing.assert_allclose(out.logits, expected, atol=1e-4)
  # Logits come from the embeddings and a bias, without another projection.
  assert not any(m.startswith("decoder/output") for m in params)


@_few
@given(st.integers(0, 99))
def test_tokens_of_the_padding_have_no_effect(seed):
  run, _ = _language_model()
  rng = np.random.default_rng(seed)
  tokens, mask = (
    np.asarray(small.raw("language_bytes", seed=seed)),
    _masks(seed),
  )
  other = rng.integers(small.VOCABULARY, size=tokens.shape)
  changed = jnp.asarray(np.where(mask, tokens, other), "int32")
  expected = run(jnp.asarray(tokens), mask).logits
  np.testing.assert_array_equal(run(changed, mask).logits, expected)
  # Real tokens have an effect.
  assert np.abs(run((tokens + 1) % 11, mask).logits - expected).max() > 1e-2


def test_a_padded_text_gives_the_same_logits_as_the_short_one():
  run, _ = _language_model()
  tokens = small.raw("language_bytes")
  mask = jnp.broadcast_to(jnp.arange(_LENGTH) < 4, tokens.shape)
  short = run(tokens[:, :4], mask[:, :4]).logits
  np.testing.assert_allclose(run(tokens, mask).logits[:, :4], short, atol=1e-5)


@_few
@given(st.permutations(range(_LENGTH)))
def test_decoding_in_parts_gives_the_same_logits(order):
  run, _ = _language_model()
  tokens, mask = small.raw("language_bytes"), _masks(1)
  whole = run(tokens, mask)
  order = jnp.asarray(order)
  for part in (order[:4], order[3:]):
    out = run(tokens, mask, latents=whole.latents, queries=part)
    assert out.logits.shape == (2, 4, small.VOCABULARY)
    np.testing.assert_allclose(out.logits, whole.logits[:, part], atol=1e-5)
  # Given latents replace those of the encoder.
  other = run(tokens, mask, latents=-whole.latents, queries=order[:4])
  assert np.abs(other.logits - whole.logits[:, order[:4]]).max() > 1e-2


@pytest.mark.parametrize("name", ["language_bytes", "byte_bert"])
def test_each_example_may_have_its_own_decoded_positions(name):
  model = plain.transform(
    lambda tokens, mask, queries: zoo.build(small.spec(name))(
      tokens, is_training=True, input_mask=mask, queries=queries
    )
  )
  tokens, mask = small.raw(name), _masks(1)
  queries = jnp.array([[3, 0], [2, 6]])
  params = plain.random_params(model, tokens, mask, queries)
  whole = plain.jit(model.apply)(params, tokens, mask, None).logits
  few = plain.jit(model.apply)(params, tokens, mask, queries).logits
  expected = np.take_along_axis(np.asarray(whole), queries[..., None], 1)
  np.testing.assert_allclose(few, expected, atol=1e-5)


def test_positions_start_with_deviation_0_02_and_embeddings_with_1():
  tokens = jnp.zeros((1, 90), "int32")
  make = lambda x: text.TextAdapter(90, 90, 90, name="adapter")(
    x, is_training=True
  )
  params = plain.jit(plain.transform(make).init)(jax.random.key(0), tokens)
  deviation = lambda module: np.std(params[module]["embeddings"])
  # Truncation at two deviations reduces the deviation of a normal to 0.88.
  assert deviation("adapter") == pytest.approx(0.88, rel=0.03)
  assert deviation("adapter/positions") == pytest.approx(0.0176, rel=0.03)
