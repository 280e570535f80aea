"""Tests of attention to unprojected inputs against its definition."""

import functools

import jax
import numpy as np
import plain
import pytest
from computing import (
  assert_close,
  in_chunks,
  run,
  shapes,
  temporary_bytes,
  with_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.ops import absorbed_projections


def _attend(query, data, table, mask):
  """Attends to inputs with a mask [B, M]."""
  mask = None if mask is None else mask[:, None]
  return absorbed_projections.attend_to_normalized(query, data, table, mask)


def _normalize(data, table):
  x = InputArray(data, table).array().astype(jnp.float32)
  x -= x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def _definition(query, data, table, mask):
  x = _normalize(data, table)
  logits = jnp.einsum("bnc,bmc->bnm", jnp.broadcast_to(
    query, (len(data), *query.shape[1:])
  ), x)  # fmt: skip
  if mask is None:
    return jnp.einsum("bnm,bmc->bnc", jax.nn.softmax(logits), x)
  mask = mask[:, None]
  weights = jax.nn.softmax(jnp.where(mask, logits, -1e30))
  return jnp.einsum("bnm,bmc->bnc", jnp.where(mask, weights, 0), x)


def _arrays(b, n, m, c, p, shared, seed=0):
  """Returns query and data, and positions if there are any."""
  query = 0.5 * plain.normal(1 if shared else b, n, c + p, seed=seed)
  data = plain.normal(b, m, c, seed=seed + 1)
  return [query, data] + [plain.normal(m, p, seed=seed + 2)] * (p > 0)


def _with_mask(attend, mask=None):
  """Returns a function of query, data and, if there are any, positions."""
  return lambda query, data, table=None: attend(query, data, table, mask)


@st.composite
def _cases(draw):
  b, n, m = (draw(st.integers(1, most)) for most in (3, 4, 9))
  # The norm of two nearly equal channels would be ill-conditioned.
  c, p = draw(st.sampled_from([(3, 4), (1, 6), (5, 0), (4, 1)]))
  mask = None
  if draw(st.booleans()):
    seed = draw(st.integers(0, 99))
    mask = jnp.asarray(np.random.default_rng(seed).random((b, m)) < 0.5)
  chunk = draw(st.integers(1, m))
  return (b, n, m, c, p, draw(st.booleans())), mask, chunk * b * n


@settings(max_examples=3, deadline=None)
@given(_cases(), st.integers(0, 99))
def test_values_and_gradients_agree_with_the_definition(case, seed):
  _check(*case, seed)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(_cases(), st.integers(0, 99))
def test_many_values_and_gradients_agree_with_the_definition(case, seed):
  _check(*case, seed)


def _check(sizes, mask, logits, seed):
  arrays = _arrays(*sizes, seed=seed)
  with in_chunks(logits):
    out = run(_with_mask(_attend, mask), *arrays)
  assert_close(out, run(_with_mask(_definition, mask), *arrays))


@pytest.mark.parametrize("shared", [True, False])
def test_the_channels_of_imagenet_and_a_smaller_last_chunk(shared):
  arrays = _arrays(2, 3, 10, 3, 258, shared)
  with in_chunks(2 * 3 * 4):
    out = run(_with_mask(_attend), *arrays)
  assert_close(out, run(_with_mask(_definition), *arrays))


def test_statistics_of_inputs_far_from_zero_are_accurate():
  query, data, table = _arrays(2, 3, 6, 3, 8, True)
  # Multiples of 1/32 are exact with and without the offset.
  data, table = (jnp.round(32 * x) / 32 for x in (data, table))
  out, _ = run(_with_mask(_attend), query, data + 256, table + 256)
  expected = _definition(query, data, table, None)
  assert_close(out, expected, 1e-3)


def test_constant_inputs_give_zero_and_finite_gradients():
  query, data, table = _arrays(1, 2, 4, 3, 5, True)
  flat = jnp.full_like(data, 0.5), jnp.full_like(table, 0.5)
  out, grads = run(_with_mask(_attend), query, *flat)
  assert not np.any(out)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("shared", [True, False])
def test_an_example_without_inputs_is_zero_and_has_no_gradient(shared):
  arrays = _arrays(3, 2, 7, 3, 4, shared)
  mask = np.ones((3, 7), bool)
  mask[1] = False
  mask[2, :3] = False  # All inputs of a first chunk.
  mask = jnp.asarray(mask)
  with in_chunks(3 * 2 * 3):
    out, grads = run(_with_mask(_attend, mask), *arrays)
  assert_close((out, grads), run(_with_mask(_definition, mask), *arrays))
  assert not np.any(out[1])
  assert not np.any(grads[1][1])
  assert not np.any(grads[1][2, :3])
  assert np.any(grads[1][2, 3:])


def test_large_logits_select_the_largest():
  query, data, table = _arrays(2, 3, 7, 3, 4, True)
  with in_chunks(2 * 3 * 2):
    out, grads = run(_with_mask(_attend), 1e5 * query, data, table)
  x = _normalize(data, table)
  largest = jnp.einsum("nc,bmc->bnm", query[0], x).argmax(-1)
  expected = np.stack([x[b, largest[b]] for b in range(2)])
  np.testing.assert_allclose(out, expected, atol=1e-5)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("shared", [True, False])
def test_bfloat16_is_close_to_float32(shared):
  half = [x.astype(jnp.bfloat16) for x in _arrays(2, 4, 50, 3, 32, shared)]
  with in_chunks(2 * 4 * 16):
    out, grads = run(_with_mask(_attend), *half)
  assert out.dtype == jnp.float32
  assert {g.dtype for g in grads} == {jnp.dtype("bfloat16")}
  exact = [x.astype(jnp.float32) for x in half]
  expected, expected_grads = run(_with_mask(_definition), *exact)
  assert_close(out, expected, 2**-7)
  assert_close(grads, expected_grads, 2**-6)


@pytest.mark.parametrize("argnums", [(0,), (1,), (0, 2)])
def test_gradients_of_some_arguments_agree_with_the_definition(argnums):
  arrays = _arrays(2, 2, 5, 3, 4, True)

  def gradients(attend):
    loss = lambda *arrays: jnp.sin(attend(*arrays, None)).sum()
    return plain.jit(jax.grad(loss, argnums))(*arrays)

  with in_chunks(2 * 2 * 2):
    assert_close(gradients(_attend), gradients(_definition))


def test_an_unused_result_has_gradients_of_zero():
  arrays = _arrays(2, 2, 5, 3, 4, True)

  def loss(query, data, table):
    out = _attend(query, data, table, None)
    return query.sum() + 0 * jax.lax.stop_gradient(out).sum()

  grads = jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)
  assert not np.any(grads[1])
  assert not np.any(grads[2])
  np.testing.assert_array_equal(grads[0], np.ones(arrays[0].shape))


def test_gradients_under_remat_and_scan_agree_with_the_definition():
  query, data, table = _arrays(2, 2, 5, 3, 4, False)

  def repeated(attend):
    def twice(query, data):
      step = lambda x, _: (x + attend(x, data, table, None), None)
      return jax.lax.scan(jax.checkpoint(step), query, None, 2)[0]

    return twice

  assert_close(
    run(repeated(_attend), query, data),
    run(repeated(_definition), query, data),
    1e-4,
  )


def test_gradients_of_inputs_are_computed_only_if_requested():
  arrays = _arrays(4, 2, 640, 3, 20, True)
  loss = functools.partial(_attend, mask=None)
  with in_chunks(4 * 2 * 128):
    for argnum, requested in ((0, False), (1, True)):
      grad = jax.grad(lambda *x: loss(*x).sum(), argnum)
      assert ((4, 640, 3) in shapes(grad, *arrays)) == requested


@pytest.mark.parametrize("shared", [True, False])
def test_neither_the_input_array_nor_all_logits_are_held(shared):
  b, n, m, c, p = 4, 16, 1000, 2, 6
  arrays = _arrays(b, n, m, c, p, shared)
  with in_chunks(b * n * 128):
    held = shapes(with_gradients(_with_mask(_attend)), *arrays)
  assert (b, 1, n, 128) in held
  assert (b, 128, c + p) in held
  # Only the gradients of the data are as long as the input.
  long = [s for s in held if np.prod(s) >= b * m * c and m in s]
  assert set(long) <= {(b, m, c)}
  assert max(map(np.prod, held)) < b * m * min(c + p, n)


def test_memory_does_not_grow_with_the_inputs():
  def temporary(m):
    query, data, table = _arrays(4, 16, m, 3, 20, True)
    mask = jnp.ones((4, m), bool)
    attend = lambda q, data, table, mask: with_gradients(
      lambda q: _attend(q, data, table, mask)
    )(q)
    return temporary_bytes(attend, query, data, table, mask)

  with in_chunks(4 * 16 * 256):
    one, eight = temporary(2048), temporary(8 * 2048)
  assert eight <= 1.2 * one, (one, eight)
