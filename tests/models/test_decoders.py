"""Decoding part by part is decoding."""

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
  """A Haiku model of latents, data and positions of queries (or None)."""

  def make(latents, data, table=None):
    decoder = decoders.QueryDecoder(
      num_outputs, execution=execution, name="decoder", **kwargs
    )
    return decoder(InputArray(data, table), latents, query_mask)[0]

  return plain.transform(make)


def _arrays(batch, count, shared=False, positions=0):
  """Latents, data and positions of queries, if there are any."""
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
    absorb_projections=draw(st.sampled_from(["auto", "never"])),
    attention=draw(st.sampled_from(["auto", "xla", "chunked"])),
  )
  max_queries = draw(st.integers(1, batch * count - 1))
  return sizes, _arrays(batch, count, shared, positions), execution, max_queries


@settings(max_examples=2, deadline=None)
@given(_cases())
def test_chunks_equal_the_whole_in_value_and_gradient(case):
  _check_chunks(*case)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(_cases())
def test_many_chunks_equal_the_whole_in_value_and_gradient(case):
  _check_chunks(*case)


def _check_chunks(sizes, arrays, execution, max_queries):
  whole = _decoder(**sizes, execution=PLAIN)
  params = plain.random_params(whole, *arrays)
  with in_chunks(_LOGITS, max_queries):
    out = run(_decoder(**sizes, execution=execution).apply, params, *arrays)
  assert_close(out, run(whole.apply, params, *arrays), 1e-4)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9])
def test_each_query_is_decoded_in_its_place(count):
  queries = InputArray(plain.normal(2, count, 3), plain.normal(count, 2))
  mask = jnp.asarray(np.random.default_rng(0).random((2, count)) < 0.5)
  decode = lambda part, mask: part.array() * mask[..., None]
  model = plain.transform(
    lambda: decoders._decode_in_chunks(decode, queries, mask, min(4, count))
  )
  out = model.apply({})
  np.testing.assert_array_equal(out, decode(queries, mask))


@pytest.mark.parametrize("shared", [True, False])
def test_the_limit_of_queries_counts_each_example(shared):
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


def test_parameters_do_not_depend_on_chunks():
  arrays, model = _arrays(2, 7), _decoder()
  # A new function each time, since jit caches by function.
  init = lambda: plain.jit(lambda key: model.init(key, *arrays))(
    jax.random.key(0)
  )
  whole = init()
  with in_chunks(_LOGITS, 4):
    jax.tree.map(np.testing.assert_array_equal, init(), whole)


def test_weights_are_those_of_all_queries():
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


def test_class_query_is_one_and_ignores_inputs():
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


def test_average_of_latents_and_uniform_weights():
  make = lambda latents: decoders.AverageAndProjectDecoder(3, name="decoder")(
    latents, return_attention=True
  )
  model = hk.without_apply_rng(hk.transform(make))
  latents = plain.normal(2, 4, 6)
  started, _ = model.apply(model.init(jax.random.key(0), latents), latents)
  assert not np.any(started)
  params = plain.random_params(model, latents)
  out, weights = model.apply(params, latents)
  want = plain.Module(params, "decoder").linear("output", latents).mean(1)
  np.testing.assert_allclose(out, want, atol=1e-5)
  np.testing.assert_array_equal(weights, np.full((2, 1, 1, 4), 0.25))
