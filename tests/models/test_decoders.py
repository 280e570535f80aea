"""Tests of decoders, and of decoding queries in chunks."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from computing import assert_close, in_chunks, run, shapes, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import decoders
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.ops.execution import AUTO, PLAIN, Execution

_LOGITS = 2**22


def _decoder(query_mask=None, num_outputs=3, execution=AUTO, **kwargs):
  """Returns a Haiku model of latents, and data and positions of queries."""

  def make(latents, data, table=None):
    decoder = decoders.QueryDecoder(
      num_outputs, execution=execution, name="decoder", **kwargs
    )
    return decoder(InputArray(data, table), latents, query_mask)[0]

  return plain.transform(make)


def _arrays(batch, count, shared=False, positions=0):
  """Returns latents, data of queries, and their positions if there are any."""
  latents = plain.normal(batch, 4, 6)
  data = plain.normal(1 if shared else batch, count, 5 - positions, seed=1)
  table = [plain.normal(count, positions, seed=2)] if positions else []
  return [latents, data, *table]


@st.composite
def _cases(draw):
  batch, count = draw(st.integers(1, 3)), draw(st.integers(2, 9))
  shared, positions = draw(st.booleans()), draw(st.sampled_from([0, 2]))
  mask = None
  if draw(st.booleans()):
    random = np.random.default_rng(draw(st.integers(0, 99)))
    mask = jnp.asarray(random.random((batch, count)) < 0.6)
  sizes = {
    "query_mask": mask,
    "num_heads": draw(st.sampled_from([1, 2])),
    "num_outputs": draw(st.sampled_from([0, 3])),
    "use_query_residual": draw(st.booleans()),
  }
  execution = Execution(
    platform=draw(st.sampled_from(["cpu", "tpu"])),
    absorb_projections=draw(st.sampled_from(["auto", "never"])),
    attention=draw(st.sampled_from(["auto", "xla", "chunked"])),
  )
  max_queries = draw(st.integers(1, batch * count - 1))
  return sizes, _arrays(batch, count, shared, positions), execution, max_queries


@settings(max_examples=2, deadline=None)
@given(_cases())
def test_decoding_in_chunks_gives_the_same_values_and_gradients(case):
  _check_chunks(*case)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(_cases())
def test_decoding_many_cases_in_chunks_gives_the_same_result(case):
  _check_chunks(*case)


def _check_chunks(sizes, arrays, execution, max_queries):
  whole = _decoder(**sizes, execution=PLAIN)
  params = plain.random_params(whole, *arrays)
  with in_chunks(_LOGITS, max_queries):
    out = run(_decoder(**sizes, execution=execution).apply, params, *arrays)
  assert_close(out, run(whole.apply, params, *arrays), 1e-4)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9])
def test_chunks_of_outputs_are_in_the_order_of_queries(count):
  queries = InputArray(plain.normal(2, count, 3), plain.normal(count, 2))
  mask = jnp.asarray(np.random.default_rng(0).random((2, count)) < 0.5)
  decode = lambda part, mask: part.array() * mask[..., None]
  model = plain.transform(
    lambda: decoders._decode_in_chunks(decode, queries, mask, min(4, count))
  )
  out = model.apply({})
  np.testing.assert_array_equal(out, decode(queries, mask))


@pytest.mark.parametrize("shared", [True, False])
def test_the_limit_of_queries_counts_those_of_all_examples(shared):
  arrays = _arrays(4, 40, shared)
  params = plain.random_params(_decoder(), *arrays)

  def shapes_of(execution):
    model = _decoder(execution=execution)
    with in_chunks(_LOGITS, 4 * 8):
      return shapes(with_gradients(model.apply), params, *arrays)

  chunked, whole = shapes_of(Execution()), shapes_of(PLAIN)
  assert (4, 1, 8, 4) in chunked
  assert (4, 1, 40, 4) not in chunked
  assert (4, 1, 40, 4) in whole


@pytest.mark.parametrize(
  ("platform", "limit", "is_whole"),
  [("tpu", 4 * 40, True), ("tpu", 4 * 40 - 1, False), ("cpu", 4 * 40, False)],
)
def test_tpus_decode_more_queries_at_once(platform, limit, is_whole):
  arrays = _arrays(4, 40)
  params = plain.random_params(_decoder(), *arrays)
  model = _decoder(execution=Execution(platform=platform))
  with in_chunks(_LOGITS, 4 * 8), pytest.MonkeyPatch.context() as patch:
    patch.setattr(decoders, "_TPU_WHOLE_QUERIES", limit)
    held = shapes(with_gradients(model.apply), params, *arrays)
  assert ((4, 1, 40, 4) in held) == is_whole
  assert ((4, 1, 8, 4) in held) != is_whole


def test_parameters_do_not_depend_on_chunks():
  arrays, model = _arrays(2, 7), _decoder()
  # A new function, since jit caches by function.
  init = lambda: plain.jit(lambda key: model.init(key, *arrays))(
    jax.random.key(0)
  )
  whole = init()
  with in_chunks(_LOGITS, 4):
    jax.tree.map(np.testing.assert_array_equal, init(), whole)


def test_decoding_in_chunks_returns_the_weights_of_all_queries():
  arrays = _arrays(2, 7)

  def make(weights, latents, data):
    decoder = decoders.QueryDecoder(3, name="decoder")
    return decoder(data, latents, return_attention=weights)

  model = plain.transform(functools.partial(make, True))
  without = plain.transform(functools.partial(make, False))
  params = plain.random_params(model, *arrays)
  with in_chunks(_LOGITS, 4):
    out, weights = plain.jit(model.apply)(params, *arrays)
    parts, nothing = plain.jit(without.apply)(params, *arrays)
  assert weights.shape == (2, 1, 7, 4)
  assert nothing is None
  assert_close(parts, out)


def test_the_classification_decoder_has_one_query_and_ignores_inputs():
  make = lambda latents, inputs: decoders.ClassificationDecoder(
    3, num_query_channels=8, name="decoder"
  )(latents, inputs)[0]
  model = plain.transform(make)
  latents = plain.normal(2, 4, 6)
  params = plain.random_params(model, latents, None)
  assert params["decoder/query"]["embeddings"].shape == (1, 8)
  apply = plain.jit(model.apply)
  out = apply(params, latents, None)
  assert out.shape == (2, 3)
  again = apply(params, latents, plain.normal(2, 5, 3))
  np.testing.assert_array_equal(out, again)


def test_average_and_project_starts_at_zero_and_has_uniform_weights():
  make = lambda latents: decoders.AverageAndProjectDecoder(3, name="decoder")(
    latents, return_attention=True
  )
  model = hk.without_apply_rng(hk.transform(make))
  latents = plain.normal(2, 4, 6)
  initial, _ = model.apply(model.init(jax.random.key(0), latents), latents)
  assert not np.any(initial)
  params = plain.random_params(model, latents)
  out, weights = model.apply(params, latents)
  expected = plain.Module(params, "decoder").linear("output", latents).mean(1)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  np.testing.assert_array_equal(weights, np.full((2, 1, 1, 4), 0.25))


@functools.cache
def _small_decoder():
  """Returns a compiled query decoder with 5 queries of 6 channels."""
  make = lambda queries, latents, mask: decoders.QueryDecoder(
    3, num_heads=2, qk_channels=6, v_channels=4, name="decoder"
  )(queries, latents, mask, True)
  model = plain.transform(make)
  queries, latents = plain.normal(2, 5, 6), plain.normal(2, 3, 4, seed=1)
  params = plain.random_params(model, queries, latents, jnp.ones((2, 5), bool))

  @jax.jit
  def run(queries, mask):
    def loss(queries):
      out, weights = model.apply(params, queries, latents, mask)
      # Gradient of the first output with respect to all queries.
      return out[:, 0].sum(), (out, weights)

    return jax.grad(loss, has_aux=True)(queries)

  return run


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 4), st.integers(1, 99))
def test_an_output_depends_on_its_own_query_only(index, seed):
  queries, everything = plain.normal(2, 5, 6), jnp.ones((2, 5), bool)
  others = plain.normal(2, 5, 6, seed=seed).at[:, index].set(queries[:, index])
  grad, (out, weights) = _small_decoder()(queries, everything)
  _, (out_too, _) = _small_decoder()(others, everything)
  assert out.shape == (2, 5, 3)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(out_too[:, index], out[:, index], atol=1e-5)
  assert np.abs(np.delete(out_too - out, index, 1)).min(-1).max() > 1e-3
  assert not np.any(grad[:, 1:])
  assert np.any(grad[:, 0])


def test_masked_queries_attend_to_nothing_and_do_not_affect_others():
  queries = plain.normal(2, 5, 6)
  mask = jnp.ones((2, 5), bool).at[1, 0].set(False)
  _, (expected, _) = _small_decoder()(queries, jnp.ones_like(mask))
  grad, (out, weights) = _small_decoder()(queries, mask)
  np.testing.assert_allclose(out[0], expected[0], atol=1e-5)
  np.testing.assert_allclose(out[1, 1:], expected[1, 1:], atol=1e-5)
  assert np.abs(out[1, 0] - expected[1, 0]).max() > 1e-3
  assert not np.any(weights[1, :, 0])
  assert np.isfinite(grad).all()


def test_a_query_decoder_without_outputs_has_no_projection():
  make = lambda q, z: decoders.QueryDecoder(0, name="decoder")(q, z)[0]
  model, args = (
    plain.transform(make),
    (plain.normal(2, 5, 6), plain.normal(2, 3, 4)),
  )
  params = jax.eval_shape(model.init, jax.random.key(0), *args)
  assert jax.eval_shape(model.apply, params, *args).shape == (2, 5, 6)
  assert not any(module.startswith("decoder/output") for module in params)
