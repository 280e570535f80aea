"""Attention logits that a model returns on request."""

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


def _cross_attend(execution, what, mask=None):
  def make(q, x):
    layer = blocks.CrossAttention(execution=execution, name="x")
    return layer(q, x, input_mask=mask, return_attention=what)

  return plain.transform(make)


def _arrays():
  return plain.normal(*_QUERIES), plain.normal(*_INPUTS, seed=1)


def _by_definition(params, q, x):
  """The scaled products of queries and keys, in float64."""
  norm = lambda z: (
    (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
  )
  leaf = lambda name: jax.tree.map(
    lambda w: np.asarray(w, np.float64), params[f"x/{name}"]
  )

  def project(z, norm_name, name):
    scale, weights = leaf(norm_name), leaf(f"attention/{name}")
    z = norm(np.asarray(z, np.float64)) * scale["scale"] + scale["offset"]
    return z @ weights["w"] + weights["b"]

  queries = project(q, "query_norm", "query")
  keys = project(x, "input_norm", "key")
  return queries @ keys.swapaxes(1, 2) / np.sqrt(queries.shape[-1])


@pytest.mark.parametrize("name", _IMPLEMENTATIONS)
def test_logits_are_those_of_the_definition_in_every_implementation(name):
  model, arrays = _cross_attend(_IMPLEMENTATIONS[name], "logits"), _arrays()
  params = plain.random_params(model, *arrays)
  out, logits = plain.jit(model.apply)(params, *arrays)
  expected = _by_definition(params, *arrays)
  np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-4)
  without = _cross_attend(_IMPLEMENTATIONS[name], False)
  np.testing.assert_array_equal(
    plain.jit(without.apply)(params, *arrays)[0], out
  )


def test_nothing_is_computed_unless_asked_for():
  # In chunks of two keys, the logits of all keys are never held.
  every = (*_QUERIES[:1], 1, _QUERIES[1], _INPUTS[1])
  arrays = _arrays()
  counts = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(online_softmax, "CHUNK_LOGITS", 12)
    patch.setattr(online_softmax, "_CHUNK_MULTIPLE", 2)
    for what in (False, True, "logits"):
      model = _cross_attend(Execution(attention="chunked"), what)
      params = plain.random_params(model, *arrays)
      counts[what] = shapes(model.apply, params, *arrays).count(every)
  assert counts[False] == 0
  assert 0 < counts["logits"] < counts[True]


def test_masked_logits_get_no_weight():
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
  """A function from raw data and `return_attention` to a model's outputs."""
  model = small.model(small.spec(name))
  variables = plain.random_like(small.shapes(model, small.raw(name)))

  @functools.partial(plain.jit, static_argnames="what")
  def run(raw, what):
    return model.apply(*variables, None, raw, return_attention=what)[0]

  return run


@pytest.mark.parametrize(
  "name", ["imagenet_icml", "language_bytes", "audioset_icml_raw_video"]
)
def test_the_softmax_of_logits_is_the_weights(name):
  raw = small.raw(name)
  logits, weights = (_maps(name)(raw, what) for what in ("logits", True))
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


@_few
@given(st.permutations(range(_INPUTS[1])))
def test_permuted_inputs_have_permuted_logits(order):
  model, (q, x) = _cross_attend(AUTO, "logits"), _arrays()
  params = plain.random_params(model, q, x)
  order = np.asarray(order)
  before = model.apply(params, q, x)[1]
  after = model.apply(params, q, x[:, order])[1]
  np.testing.assert_allclose(after, before[..., order], atol=1e-5)


def test_other_requests_are_refused():
  # The tests' type checks refuse it before the module does.
  model, arrays = _cross_attend(AUTO, "Logits"), _arrays()
  with pytest.raises(Exception, match="Logits"):
    jax.eval_shape(model.init, jax.random.key(0), *arrays)
