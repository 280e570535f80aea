"""Tests of masks that follow from positions."""

import functools

import jax
import numpy as np
import plain
import pytest
from computing import (
  assert_close,
  in_chunks,
  run,
  temporary_bytes,
  with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models.ops import absorbed_projections
from perceiver_jax.models.ops import dot_product_attention as dpa
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.models.ops.masks import NEVER, CausalMask


@st.composite
def _masks(draw):
  """Draws masks of B examples, N queries and M keys; some keys are padding."""
  b = draw(st.sampled_from([1, 2]))
  n, m = draw(st.sampled_from([(3, 11), (9, 4), (6, 6)]))
  rng = np.random.default_rng(draw(st.integers(0, 99)))
  keys = np.where(rng.random((b, m)) < 0.2, NEVER, rng.integers(0, m, (b, m)))
  queries = rng.integers(-1, m, (b, n))
  return CausalMask(*map(jnp.int32, (queries, keys)))


def _allowed(mask):
  """Returns the mask as an array, by its definition."""
  b, n = mask.query_positions.shape
  m = mask.key_positions.shape[1]
  allowed = np.zeros((b, n, m), bool)
  for i, q, k in np.ndindex(b, n, m):
    query = int(mask.query_positions[i, q])
    key = int(mask.key_positions[i, k])
    allowed[i, q, k] = key <= query
  return jnp.asarray(allowed)


def _qkv(mask):
  n, m = mask.query_positions.shape[1], mask.key_positions.shape[1]
  sizes = ((2, n, 3, 4), (2, m, 3, 4), (2, m, 3, 5))
  return [plain.normal(*s, seed=i) for i, s in enumerate(sizes)]


@settings(max_examples=6, deadline=None)
@given(_masks())
def test_a_query_attends_to_keys_at_its_position_and_before(mask):
  np.testing.assert_array_equal(mask.array(), _allowed(mask))


@pytest.mark.parametrize("attention", ["plain", "xla", "chunked"])
@settings(max_examples=4, deadline=None)
@given(_masks(), st.sampled_from([8, 60]))
def test_attention_equals_that_with_an_array(attention, mask, logits):
  execution = Execution(attention=attention)
  attend = functools.partial(dpa.dot_product_attention, execution=execution)
  qkv = _qkv(mask)
  with in_chunks(logits):
    out = run(lambda *qkv: attend(*qkv, mask), *qkv)
  array = _allowed(mask)
  expected = run(lambda *qkv: dpa.plain_attention(*qkv, array), *qkv)
  assert_close(out[0], expected[0].reshape(out[0].shape))
  assert_close(out[1], expected[1])


@settings(max_examples=4, deadline=None)
@given(_masks())
def test_attention_to_unprojected_inputs_takes_it_too(mask):
  n, m = mask.query_positions.shape[1], mask.key_positions.shape[1]
  arrays = plain.normal(2, n, 5), plain.normal(2, m, 5)
  attend = absorbed_projections.attend_to_normalized
  with in_chunks(16):
    out = run(lambda q, x: attend(q, x, None, mask), *arrays)
  array = _allowed(mask)
  assert_close(out, run(lambda q, x: attend(q, x, None, array), *arrays))


def test_a_mask_may_be_an_argument_of_a_jitted_function():
  mask = CausalMask(jnp.arange(4)[None], jnp.arange(4)[None])
  out = jax.jit(CausalMask.array)(mask)
  np.testing.assert_array_equal(out, mask.array())


@pytest.mark.parametrize("sizes", [(64, 8192), (8192, 64)])
def test_chunks_never_hold_the_mask_of_all_queries_and_keys(sizes):
  n, m = sizes
  mask = CausalMask(m - n + jnp.arange(n)[None], jnp.arange(m)[None])
  shapes = [
    jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32) for length in (n, m, m)
  ]
  attend = lambda q, k, v: dpa._chunked_attention(q, k, v, mask)
  with in_chunks(4096):
    taken = temporary_bytes(with_gradients(attend), *shapes)
  assert taken < n * m  # A byte for each pair.
