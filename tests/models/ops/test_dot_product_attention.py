"""Tests of attention: widths, masks, precision, gradients."""

import jax
import numpy as np
import pytest
from computing import assert_close, in_chunks, run, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models.ops import dot_product_attention as dpa
from perceiver_jax.models.ops.execution import Execution

_few = settings(max_examples=10, deadline=None)
_fewer = settings(max_examples=6, deadline=None)  # Every shape is compiled.
_attend = jax.jit(dpa.dot_product_attention)
_weights = jax.jit(dpa.attention_weights)
_HUGE = 3e38  # Close to the largest float32.


@st.composite
def _shapes(draw):
  """Draws B, N, M, H, F, V; F and V differ."""
  small = st.integers(1, 3)
  return (
    draw(small),
    draw(st.integers(1, 4)),
    draw(st.integers(1, 7)),
    draw(small),
    draw(st.integers(1, 5)),
    draw(st.integers(6, 9)),
  )


def _qkv(shape, seed=0):
  b, n, m, h, f, v = shape
  rng = np.random.default_rng(seed)
  sizes = ((b, n, h, f), (b, m, h, f), (b, m, h, v))
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in sizes]


def _mask(shape, seed=1):
  b, n, m = shape[:3]
  return np.random.default_rng(seed).random((b, n, m)) < 0.6


def _reference(q, k, v, mask):
  """Computes attention by its definition, row by row in float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  batch, queries, heads, width = q.shape
  out = np.zeros((batch, queries, heads, v.shape[-1]))
  for b, n, h in np.ndindex(batch, queries, heads):
    keys = np.flatnonzero(mask[b, n])
    if keys.size:
      logits = k[b, keys, h] @ q[b, n, h] / np.sqrt(width)
      weights = np.exp(logits - logits.max())
      out[b, n, h] = weights / weights.sum() @ v[b, keys, h]
  return out.reshape(batch, queries, -1)


@_fewer
@given(_shapes(), st.booleans(), st.integers(0, 99))
def test_attention_agrees_with_its_definition(shape, masked, seed):
  q, k, v = _qkv(shape, seed)
  mask = _mask(shape, seed) if masked else np.ones(shape[:3], bool)
  out = _attend(q, k, v, jnp.asarray(mask) if masked else None)
  np.testing.assert_allclose(out, _reference(q, k, v, mask), atol=1e-5)


@_fewer
@given(_shapes(), st.integers(0, 99))
def test_weights_sum_to_one_over_unmasked_keys(shape, seed):
  q, k, _ = _qkv(shape, seed)
  mask = _mask(shape, seed)
  weights = _weights(q, k)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  weights = np.asarray(_weights(q, k, jnp.asarray(mask)))
  assert weights.shape == (shape[0], shape[3], shape[1], shape[2])
  has_keys = np.broadcast_to(mask.any(-1)[:, None], weights.shape[:3])
  np.testing.assert_allclose(weights.sum(-1), has_keys, atol=1e-6)
  assert not weights[np.broadcast_to(~mask[:, None], weights.shape)].any()


@pytest.mark.parametrize("size", [(1, 1, 5), (1, 3, 5), (2, 1, 5), (2, 3, 1)])
def test_masks_are_broadcast(size):
  shape = (2, 3, 5, 2, 4, 6)
  q, k, v = _qkv(shape)
  mask = np.random.default_rng(3).random(size) < 0.5
  full = np.broadcast_to(mask, (2, 3, 5))
  out = _attend(q, k, v, jnp.asarray(mask))
  np.testing.assert_allclose(out, _reference(q, k, v, full), atol=1e-5)


@_few
@given(st.permutations(range(6)), st.integers(0, 99))
def test_attention_is_invariant_to_the_order_of_keys(order, seed):
  shape = (2, 4, 6, 2, 3, 5)
  q, k, v = _qkv(shape, seed)
  mask, order = jnp.asarray(_mask(shape, seed)), jnp.asarray(order)
  out = _attend(q, k, v, mask)
  permuted = _attend(q, k[:, order], v[:, order], mask[:, :, order])
  np.testing.assert_allclose(permuted, out, atol=1e-5)


def test_queries_do_not_affect_each_other():
  q, k, v = _qkv((2, 4, 6, 2, 3, 5))
  alone = _attend(q[:, :1], k, v)
  np.testing.assert_allclose(alone, _attend(q, k, v)[:, :1], atol=1e-5)


@jax.jit
def _value_and_grads(q, k, v, mask):
  def loss(q, k, v):
    out = dpa.dot_product_attention(q, k, v, mask)
    return (out * jnp.arange(1.0, 1 + out.shape[-1])).sum(), out

  grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
  return out, grads


@_few
@given(st.integers(0, 99), st.sampled_from([_HUGE, -_HUGE, 1e30, 7.0]))
def test_masked_keys_have_no_effect_on_values_and_gradients(seed, garbage):
  shape = (2, 3, 5, 2, 4, 6)
  q, k, v = _qkv(shape, seed)
  real = jnp.arange(5) < 3
  mask = jnp.broadcast_to(real, (2, 1, 5))
  corrupt = lambda x: jnp.where(real[:, None, None], x, garbage)
  out, grads = _value_and_grads(q, corrupt(k), corrupt(v), mask)
  np.testing.assert_allclose(out, _attend(q, k[:, :3], v[:, :3]), atol=1e-5)
  clean_out, clean = _value_and_grads(q, k, v, mask)
  np.testing.assert_array_equal(out, clean_out)
  for grad, expected in zip(grads, clean, strict=True):
    np.testing.assert_array_equal(grad, expected)
  for grad in grads[1:]:
    assert not np.any(grad[:, 3:])
    assert np.any(grad[:, :3])


def test_a_fully_masked_row_is_zero_and_has_no_gradient():
  shape = (2, 3, 5, 2, 4, 6)
  q, k, v = _qkv(shape)
  mask = np.ones((2, 3, 5), bool)
  mask[1, 2] = False
  out, grads = _value_and_grads(q, k, v, jnp.asarray(mask))
  assert not np.any(out[1, 2])
  assert np.all(np.any(out[0], -1))
  assert all(np.isfinite(g).all() for g in grads)
  assert not np.any(grads[0][1, 2])
  assert np.any(grads[0][0, 2])
  nothing = jnp.zeros((1, 1, 5), bool)
  out, grads = _value_and_grads(q, k, v, nothing)
  assert not np.any(out)
  assert not any(np.any(g) for g in grads)


@pytest.mark.parametrize("widths", [(261, 322), (322, 261), (1, 257)])
def test_odd_qk_and_v_channels_agree_with_the_definition(widths):
  shape = (1, 2, 3, 1, *widths)
  q, k, v = _qkv(shape)
  out = _attend(q, k, v)
  assert out.shape == (1, 2, widths[1])
  expected = _reference(q, k, v, np.ones((1, 2, 3), bool))
  np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_softmax_of_bfloat16_is_computed_in_float32(masked):
  q, k, v = (
    x.astype(jnp.bfloat16) for x in _qkv((1, 2, 300, 2, 16, 4), seed=5)
  )
  mask = jnp.ones((1, 1, 300), bool) if masked else None
  weights = _weights(q, k, mask)
  assert weights.dtype == jnp.float32
  exact = _weights(q.astype(jnp.float32), k.astype(jnp.float32), mask)
  # Rounding the logits to bfloat16 would cause errors of 1e-3.
  np.testing.assert_allclose(weights, exact, rtol=1e-5, atol=1e-8)
  assert _attend(q, k, v, mask).dtype == jnp.bfloat16


def test_large_logits_do_not_overflow():
  q, k, v = _qkv((1, 2, 4, 1, 3, 6))
  out = _attend(1e4 * q, 1e4 * k, v)
  largest = np.einsum("nf,mf->nm", q[0, :, 0], k[0, :, 0]).argmax(-1)
  np.testing.assert_allclose(out[0], v[0, largest, 0], atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(_shapes(), st.booleans(), st.integers(0, 99))
def test_implementations_agree_in_values_and_gradients(shape, masked, seed):
  qkv = _qkv(shape, seed)
  mask = jnp.asarray(_mask(shape, seed)) if masked else None
  expected = run(_attention("plain", mask), *qkv)
  for name in ("xla", "chunked"):
    with in_chunks(shape[0] * shape[3] * 8):
      assert_close(run(_attention(name, mask), *qkv), expected)


def _attention(name, mask=None):
  return lambda q, k, v: dpa.dot_product_attention(
    q, k, v, mask, Execution(attention=name)
  )


@pytest.mark.parametrize("name", ["plain", "xla"])
def test_masks_have_the_same_effect_in_every_implementation(name):
  q, k, v = _qkv((2, 3, 5, 2, 4, 6))
  real = np.arange(5) < 3
  mask = np.broadcast_to(real, (2, 3, 5)).copy()
  mask[1, 2] = False
  mask = jnp.asarray(mask)
  corrupt = lambda x: jnp.where(real[:, None, None], x, _HUGE)
  out, grads = run(_attention(name, mask), q, corrupt(k), corrupt(v))
  assert_close((out, grads), run(_attention("plain", mask), q, k, v))
  assert not np.any(out[1, 2])
  assert not np.any(grads[0][1, 2])
  assert not any(np.any(g[:, 3:]) for g in grads[1:])


@pytest.mark.parametrize("name", ["plain", "xla"])
def test_bfloat16_is_close_to_float32_in_every_implementation(name):
  half = [x.astype(jnp.bfloat16) for x in _qkv((2, 6, 70, 2, 16, 8))]
  in_float32 = lambda fn: lambda *qkv: fn(*qkv).astype(jnp.float32)
  expected, expected_grads = run(
    _attention("plain"), *(x.astype(jnp.float32) for x in half)
  )
  out, grads = run(in_float32(_attention(name)), *half)
  assert_close(out, expected, 2**-7)
  assert_close(grads, expected_grads, 2**-6)


def test_auto_uses_chunks_above_its_limit_of_logits():
  # 32 x 8 x 256 x 256 logits, and with one more query.
  k, q = jnp.zeros((32, 256, 8, 1)), jnp.zeros((32, 257, 8, 1))
  assert _implementations("auto", k, k, k) == ["xla 256 x 256"]
  assert _implementations("auto", q, k, k) == ["chunked 257 x 256"]


@pytest.mark.parametrize("name", ["plain", "xla", "chunked"])
def test_a_program_names_its_implementations(name):
  q, k, v = _qkv((1, 2, 3, 1, 4, 6))
  assert _implementations(name, q, k, v) == [f"{name} 2 x 3"]


def _implementations(name, *qkv):
  fn = with_gradients(jax.checkpoint(_attention(name)))
  return dpa.implementations(jax.make_jaxpr(fn)(*qkv).jaxpr)
