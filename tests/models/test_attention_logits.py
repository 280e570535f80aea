"""Tests of attention logits, which a model returns on request."""

import functools

import jax
import numpy as np
import plain
import pytest
import small
from computing import shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import blocks
from perceiver_jax.models.ops import online_softmax
from perceiver_jax.models.ops.execution import AUTO, PLAIN, Execution

_few = settings(max_examples=5, deadline=None)
_IMPLEMENTATIONS = {
  "auto": AUTO,
  "plain": PLAIN,
  "xla": Execution(attention="xla", absorb_projections="never"),
  "chunked": Execution(attention="chunked"),
}
_QUERIES, _INPUTS = (2, 3, 4), (2, 7, 5)


def _cross_attend(execution, return_attention, mask=None):
  def make(q, x):
    layer = blocks.CrossAttention(execution=execution, name="x")
    return layer(q, x, input_mask=mask, return_attention=return_attention)

  return plain.transform(make)


def _arrays():
  return plain.normal(*_QUERIES), plain.normal(*_INPUTS, seed=1)


def _by_definition(params, q, x):
  """Returns the scaled products of queries and keys, in float64."""
  layer = plain.Module(params, "x")
  queries = layer.linear("attention/query", layer.norm("query_norm", q))
  keys = layer.linear("attention/key", layer.norm("input_norm", x))
  return queries @ keys.swapaxes(1, 2) / np.sqrt(queries.shape[-1])


@pytest.mark.parametrize("name", _IMPLEMENTATIONS)
def test_every_implementation_returns_the_logits_of_the_definition(name):
  model, arrays = _cross_attend(_IMPLEMENTATIONS[name], "logits"), _arrays()
  params = plain.random_params(model, *arrays)
  out, logits = plain.jit(model.apply)(params, *arrays)
  expected = _by_definition(params, *arrays)
  np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-4)
  without = _cross_attend(_IMPLEMENTATIONS[name], False)
  np.testing.assert_array_equal(
    plain.jit(without.apply)(params, *arrays)[0], out
  )


def test_the_logits_of_all_keys_are_computed_only_on_request():
  all_keys = (*_QUERIES[:1], 1, _QUERIES[1], _INPUTS[1])
  arrays = _arrays()
  counts = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(online_softmax, "CHUNK_LOGITS", 12)
    patch.setattr(online_softmax, "_CHUNK_MULTIPLE", 2)
    for request in (False, True, "logits"):
      model = _cross_attend(Execution(attention="chunked"), request)
      params = plain.random_params(model, *arrays)
      counts[request] = shapes(model.apply, params, *arrays).count(all_keys)
  assert counts[False] == 0
  assert 0 < counts["logits"] < counts[True]


def test_masked_logits_have_zero_weight():
  mask = jnp.arange(_INPUTS[1])[None] < jnp.array([[7], [4]])
  arrays = _arrays()
  logits, weights = (
    plain.jit(model.apply)(plain.random_params(model, *arrays), *arrays)[1]
    for model in (_cross_attend(AUTO, w, mask) for w in ("logits", True))
  )
  np.testing.assert_allclose(jax.nn.softmax(logits), weights, atol=1e-6)
  assert (logits[1, ..., 4:] == online_softmax.MASKED_LOGIT).all()
  assert (weights[1, ..., 4:] == 0).all()


@functools.cache
def _maps(name):
  """Returns a compiled small model of raw data and `return_attention`."""
  model = small.model(small.spec(name))
  variables = plain.random_like(small.shapes(model, small.raw(name)))

  @functools.partial(plain.jit, static_argnames="request")
  def run(raw, request):
    return model.apply(*variables, None, raw, return_attention=request)[0]

  return run


@pytest.mark.parametrize(
  "name", ["imagenet_icml", "language_bytes", "audioset_icml_raw_video"]
)
def test_the_softmax_of_the_logits_gives_the_weights(name):
  raw = small.raw(name)
  logits, weights = (_maps(name)(raw, request) for request in ("logits", True))
  assert len(logits.encoder_attention) == len(weights.encoder_attention) > 0
  pairs = zip(
    (*logits.encoder_attention, logits.decoder_attention),
    (*weights.encoder_attention, weights.decoder_attention),
    strict=True,
  )
  for logit, weight in pairs:
    assert logit.shape == weight.shape
    np.testing.assert_allclose(jax.nn.softmax(logit), weight, atol=1e-5)
  np.testing.assert_allclose(logits.latents, weights.latents, atol=1e-5)


@functools.cache
def _compiled_logits():
  """Returns a compiled function of queries and inputs."""
  model = _cross_attend(AUTO, "logits")
  params = plain.random_params(model, *_arrays())
  return plain.jit(lambda q, x: model.apply(params, q, x)[1])


@_few
@given(st.permutations(range(_INPUTS[1])))
def test_permuted_inputs_have_permuted_logits(order):
  run, (q, x) = _compiled_logits(), _arrays()
  order = np.asarray(order)
  before = run(q, x)
  after = run(q, x[:, order])
  np.testing.assert_allclose(after, before[..., order], atol=1e-5)


def test_other_values_of_return_attention_are_refused(no_type_checks):
  model, arrays = _cross_attend(AUTO, "Logits"), _arrays()
  message = "return_attention 'Logits': give True for attention weights"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), *arrays)
