"""Tests of attention in chunks against attention with all logits."""

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

from perceiver_jax.models.ops import (
  dot_product_attention,
  masks,
  online_softmax,
)

_HUGE = 3e38  # Close to the largest float32.


_full = dot_product_attention.plain_attention
_chunked = dot_product_attention._chunked_attention


def _qkv(b, n, m, h, f, v, seed=0):
  sizes = ((b, n, h, f), (b, m, h, f), (b, m, h, v))
  return [plain.normal(*s, seed=seed + i) for i, s in enumerate(sizes)]


@st.composite
def _cases(draw):
  """Draws sizes, a mask, the logits of a chunk, and a platform.

  There are more queries, more keys, or as many.
  """
  b, h = draw(st.integers(1, 3)), draw(st.integers(1, 3))
  n, m = draw(st.sampled_from([(3, 11), (1, 9), (13, 4), (8, 1), (6, 6)]))
  f, v = draw(st.sampled_from([(5, 7), (1, 2), (4, 3)]))
  mask = None
  if draw(st.booleans()):
    full = (b, n, m)
    size = tuple(draw(st.sampled_from([1, x])) for x in full)
    seed = draw(st.integers(0, 99))
    mask = jnp.asarray(np.random.default_rng(seed).random(size) < 0.5)
  chunk = draw(st.integers(1, max(n, m)))
  target = draw(st.sampled_from(["cpu", "tpu"]))
  return (b, n, m, h, f, v), mask, chunk * b * h * min(n, m), target


@settings(max_examples=4, deadline=None)
@given(_cases(), st.integers(0, 99))
def test_values_and_gradients_agree_with_full_attention(case, seed):
  _check(*case, seed)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(_cases(), st.integers(0, 99))
def test_many_values_and_gradients_agree_with_full_attention(case, seed):
  _check(*case, seed)


def _check(sizes, mask, logits, target, seed):
  qkv = _qkv(*sizes, seed=seed)
  with in_chunks(logits):
    out = run(functools.partial(_chunked, mask=mask, target=target), *qkv)
  assert_close(out, run(functools.partial(_full, mask=mask), *qkv))


@pytest.mark.parametrize("widths", [(261, 322), (322, 261)])
def test_odd_channels_and_a_smaller_last_chunk(widths):
  qkv = _qkv(1, 3, 10, 1, *widths)
  attend = functools.partial(_chunked, mask=None)
  with in_chunks(3 * 4):
    out = run(attend, *qkv)
  assert_close(out, run(functools.partial(_full, mask=None), *qkv))


@pytest.mark.parametrize(
  ("length", "per_element", "size"),
  [
    (50_176, 8 * 512, 1024),
    (50_176, 3 * 1000, 1280),  # A multiple of 128.
    (100, 512, 100),
    (10, 2**23, 1),
    (10, 0, 10),
  ],
)
def test_chunk_size_is_limited_and_a_multiple_of_128(length, per_element, size):
  assert online_softmax.chunk_size(length, per_element, "cpu") == size


def test_tpus_hold_all_logits_of_imagenet_and_those_of_heads_of_flow():
  heads_at_once = []
  for batch, heads, length in ((16, 8, 512), (8, 16, 2048), (16, 8, 784)):
    x = jax.ShapeDtypeStruct((batch, length, heads, 32), jnp.bfloat16)
    heads_at_once.append(dot_product_attention._group_size(x, x, None))
  assert heads_at_once == [0, 4, 16]
  assert online_softmax.chunk_size(512, 16 * 8 * 512, "tpu") == 512


def _masks():
  """Returns masks of 2 examples of 5 queries and 6 keys, by name."""
  rng = np.random.default_rng(0)
  sizes = {"keys": (2, 1, 6), "shared": (1, 5, 6), "each": (2, 5, 6)}
  arrays = {k: jnp.asarray(rng.random(s) < 0.6) for k, s in sizes.items()}
  positions = jnp.array([[3, 4, 5, 6, 7], [0, 1, 2, 3, 4]])
  keys = jnp.arange(6)[None]
  return {
    "none": None,
    **arrays,
    "causal": masks.CausalMask(positions, keys),
    "causal each": masks.CausalMask(positions, jnp.tile(keys, (2, 1))),
  }


@pytest.mark.parametrize(
  "name", ["none", "keys", "shared", "each", "causal", "causal each"]
)
@pytest.mark.parametrize(
  ("logits", "size", "masked_size"),
  [
    # Only without a mask, groups may have heads of several examples.
    (4 * 5 * 6, 4, 3),
    # One head after the other, three keys at a time.
    (5 * 3, 1, 1),
  ],
)
def test_groups_of_heads_agree_with_full_attention(
  name, logits, size, masked_size
):
  qkv, mask = _qkv(2, 5, 6, 6, 4, 7), _masks()[name]
  attend = functools.partial(_chunked, mask=mask, target="tpu")
  with in_chunks(logits):
    expected = size if mask is None else masked_size
    assert dot_product_attention._group_size(*qkv[:2], mask) == expected
    out = run(attend, *qkv)
  assert_close(out, run(functools.partial(_full, mask=mask), *qkv))


@pytest.mark.parametrize("length", [1, 4, 5, 8, 11])
def test_the_loop_visits_each_element_once(length):
  add = lambda carry, start, size: online_softmax._write(
    carry, online_softmax._slice(carry, start, size, 0) + 1, start, 0
  )
  out = online_softmax._loop(length, 4, add, jnp.zeros(length))
  np.testing.assert_array_equal(out, np.ones(length))


@pytest.mark.parametrize(("n", "m"), [(3, 8), (8, 5)])
@pytest.mark.parametrize("garbage", [_HUGE])
def test_masked_keys_have_no_effect_on_values_and_gradients(n, m, garbage):
  q, k, v = _qkv(2, n, m, 2, 4, 6)
  real = jnp.arange(m) < 3
  corrupt = lambda x: jnp.where(real[:, None, None], x, garbage)
  attend = functools.partial(_chunked, mask=real[None, None])
  with in_chunks(2 * 2 * min(n, m) * 2):
    out, grads = run(attend, q, corrupt(k), corrupt(v))
    expected, expected_grads = run(attend, q, k, v)
  assert_close(out, expected)
  assert_close(grads, expected_grads)
  for grad in grads[1:]:
    assert not np.any(grad[:, 3:])
    assert np.all(np.any(grad[:, :3], -1))


@pytest.mark.parametrize("target", ["cpu", "tpu"])
@pytest.mark.parametrize(("n", "m"), [(3, 8), (8, 5)])
def test_fully_masked_rows_are_zero_and_have_no_gradient(n, m, target):
  qkv = _qkv(2, n, m, 2, 4, 6)
  mask = np.ones((2, n, m), bool)
  mask[1, 2] = False
  mask[0, 0, :4] = False  # All keys of a first chunk.
  attend = functools.partial(_chunked, target=target)
  with in_chunks(2 * 2 * min(n, m) * 2):
    out, grads = run(functools.partial(attend, mask=jnp.asarray(mask)), *qkv)
    masked = functools.partial(attend, mask=jnp.zeros((1, 1, m), bool))
    masked_out, masked_grads = run(masked, *qkv)
  expected = run(functools.partial(_full, mask=jnp.asarray(mask)), *qkv)
  assert_close((out, grads), expected)
  assert not np.any(out[1, 2])
  assert not np.any(grads[0][1, 2])
  assert not np.any(masked_out)
  assert not any(np.any(g) for g in masked_grads)


@pytest.mark.parametrize(("n", "m"), [(2, 9), (9, 4)])
@pytest.mark.parametrize("size", [1e4, -1e33])
def test_large_logits_select_the_largest(n, m, size):
  q, k, v = _qkv(1, n, m, 1, 3, 5)
  q, k = jnp.abs(q) + 1, jnp.abs(k) + 1  # All logits have the sign of `size`.
  with in_chunks(min(n, m) * 2):
    out, grads = run(functools.partial(_chunked, mask=None), size * q, k, v)
  largest = np.einsum("nf,mf->nm", size * q[0, :, 0], k[0, :, 0]).argmax(-1)
  np.testing.assert_allclose(out[0, :, 0], v[0, largest, 0], atol=1e-5)
  assert all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("target", ["cpu", "tpu"])
@pytest.mark.parametrize(("n", "m"), [(6, 70), (70, 6)])
def test_bfloat16_is_close_to_float32(n, m, target):
  half = [x.astype(jnp.bfloat16) for x in _qkv(2, n, m, 2, 16, 8)]
  attend = functools.partial(_chunked, mask=None, target=target)
  with in_chunks(2 * 2 * 6 * 16):
    out, grads = run(attend, *half)
  assert {x.dtype for x in (out, *grads)} == {jnp.dtype("bfloat16")}
  exact = [x.astype(jnp.float32) for x in half]
  expected, expected_grads = run(functools.partial(_full, mask=None), *exact)
  assert_close(out, expected, 2**-7)  # Two roundings to 8 bits.
  assert_close(grads, expected_grads, 2**-6)


@pytest.mark.parametrize(("n", "m"), [(64, 1000), (1000, 64)])
def test_only_the_logits_of_a_chunk_are_held(n, m):
  qkv = _qkv(2, n, m, 2, 4, 4)
  attend = with_gradients(functools.partial(_chunked, mask=None))
  with in_chunks(2 * 2 * 64 * 128):
    held = shapes(attend, *qkv)
  assert (2, 2, min(n, 128), min(m, 128)) in held
  assert max(map(np.prod, held)) <= 2 * 2 * 64 * 128
  full = shapes(with_gradients(functools.partial(_full, mask=None)), *qkv)
  assert (2, 2, n, m) in full


def test_memory_does_not_grow_with_the_keys():
  attend = with_gradients(functools.partial(_chunked, mask=None))
  with in_chunks(16 * 128):
    one, eight = (
      temporary_bytes(attend, *_qkv(1, 16, m, 1, 4, 4))
      for m in (2048, 8 * 2048)
    )
  assert eight <= 1.2 * one, (one, eight)


def test_gradients_with_a_boolean_mask_commute_with_jit():
  qkv = _qkv(1, 3, 8, 1, 2, 2)
  mask = jnp.asarray(np.arange(8) % 3 > 0)[None, None]
  loss = lambda q, k, v, mask: _chunked(q, k, v, mask).sum()
  inner = jax.grad(jax.jit(loss))(*qkv, mask)
  assert_close(inner, jax.jit(jax.grad(loss))(*qkv, mask))
