"""Tests of the scanned self-attends of a block."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from computing import (
  assert_close,
  run,
  temporary_bytes,
  with_gradients,
)
from jax import numpy as jnp

from perceiver_jax.models import blocks
from perceiver_jax.models.ops import depth
from perceiver_jax.models.ops.execution import PLAIN


def _build(fn, *args):
  """Returns the compiled application of a Haiku model and random parameters."""
  model = plain.transform(fn)
  return jax.jit(model.apply), plain.random_params(model, *args)


def _layer():
  return blocks.SelfAttention(2, name="self_attend")


@functools.cache
def _stack(remat, calls=1):
  """Returns a compiled block of three layers with gradients, and parameters."""

  def make(x):
    block = blocks.LatentTransformer(3, _layer, remat, name="block")
    for _ in range(calls):
      x = block(x)
    return x

  model = plain.transform(make)
  x = plain.normal(2, 3, 4)

  def loss(params, x):
    out = model.apply(params, x)
    return jnp.square(out).sum(), out

  run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
  params = plain.random_params(model, x)
  return run, params, jax.make_jaxpr(run)(params, x)


def _unrolled(params, x):
  one = plain.transform(lambda x: _layer()(x))
  prefix = "block/layers/"
  assert all(module.startswith(prefix) for module in params)
  for i in range(3):
    sliced = {
      m.removeprefix(prefix): {k: v[i] for k, v in leaves.items()}
      for m, leaves in params.items()
    }
    x = one.apply(sliced, x)
  return x


def test_scanned_layers_equal_a_loop_in_value_and_gradient():
  run, params, jaxpr = _stack(False)
  x = plain.normal(2, 3, 4)
  grads, out = run(params, x)

  @jax.jit
  def loop(params, x):
    def loss(params, x):
      out = _unrolled(params, x)
      return jnp.square(out).sum(), out

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  expected_grads, expected = loop(params, x)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    grads,
    expected_grads,
  )
  assert "scan" in str(jaxpr)


def test_remat_recomputes_layers_and_changes_no_result():
  run, params, jaxpr = _stack(False)
  run_remat, params_remat, jaxpr_remat = _stack(True)
  jax.tree.map(np.testing.assert_array_equal, params, params_remat)
  x = plain.normal(2, 3, 4)
  stored, recomputed = run(params, x), run_remat(params, x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    stored,
    recomputed,
  )
  # Whole layers are recomputed, including four products with weights.
  count = lambda jaxpr: str(jaxpr).count("dot_general")
  assert count(jaxpr_remat) == count(jaxpr) + 4


def test_calling_a_block_twice_shares_its_weights():
  run, params, _ = _stack(False)
  run_twice, params_twice, _ = _stack(False, calls=2)
  jax.tree.map(np.testing.assert_array_equal, params, params_twice)
  x = plain.normal(2, 3, 4)
  once = run(params, x)[1]
  np.testing.assert_allclose(
    run_twice(params, x)[1], run(params, once)[1], atol=1e-5
  )


def test_layers_of_a_block_are_initialized_independently():
  make = lambda x: blocks.LatentTransformer(3, _layer, name="block")(x)
  init = jax.jit(hk.transform(make).init)
  params = init(jax.random.key(0), plain.normal(1, 2, 4))
  weights = params["block/layers/self_attend/mlp/hidden"]["w"]
  assert weights.shape == (3, 4, 4)
  for i, j in ((0, 1), (1, 2), (0, 2)):
    assert np.abs(weights[i] - weights[j]).max() > 0.1


def test_stacked_modules_are_recognized_by_their_names():
  _, params, _ = _stack(False)
  assert all(depth.is_stacked(module) for module in params)
  assert not depth.is_stacked("encoder/cross_attend_0/mlp/hidden")
  assert not depth.is_stacked("encoder/my_layers/hidden")


def test_a_block_without_layers_is_the_identity():
  make = lambda x: blocks.LatentTransformer(0, _layer)(x)
  x = plain.normal(1, 2, 4)
  apply, params = _build(make, x)
  assert not params
  np.testing.assert_array_equal(apply(params, x), x)


_SCANNED = PLAIN.replace(scan_layers=True)
_CHOICES = {
  "fused": {"fuse_qkv": "always"},
  "unrolled": {"scan_layers": False},
  "full": {"remat": "full"},
  "projections": {"remat": "projections"},
  "dots": {"remat": "dots"},
  "attention": {"remat": "attention", "attention": "chunked"},
  "custom": {"custom_gradients": "always"},
  "all": {
    "fuse_qkv": "always",
    "custom_gradients": "always",
    "remat": "projections",
    "attention": "chunked",
  },
}


def _block_of_two(execution):
  make = lambda x: blocks.LatentTransformer(
    2,
    lambda: blocks.SelfAttention(
      2, 6, 10, execution=execution, name="self_attend"
    ),
    execution=execution,
    name="block",
  )(x)
  return plain.transform(make)


@functools.cache
def _block_and_result():
  model = _block_of_two(_SCANNED)
  args = (
    plain.random_params(model, plain.normal(2, 3, 4)),
    plain.normal(2, 3, 4),
  )
  return args, run(model.apply, *args)


@pytest.mark.parametrize("name", _CHOICES)
def test_every_execution_of_a_latent_transformer_gives_the_same_result(name):
  args, expected = _block_and_result()
  out = run(_block_of_two(_SCANNED.replace(**_CHOICES[name])).apply, *args)
  assert_close(out, expected)


def test_remat_and_fuse_qkv_change_the_number_of_products():
  args, _ = _block_and_result()

  def products(**choices):
    model = _block_of_two(_SCANNED.replace(**choices))
    trace = jax.make_jaxpr(with_gradients(model.apply))(*args)
    return str(trace).count("dot_general")

  # "dots" recomputes logits and weighted values, but no projections.
  none, dots = products(), products(remat="dots")
  assert dots == none + 2
  assert products(remat="projections") == dots + 1
  assert products(remat="full") == dots + 5  # The last product is not needed.
  # The output's projection is computed again, but not the attention.
  chunked = {"attention": "chunked", "remat": "attention"}
  full = {"attention": "chunked", "remat": "full"}
  assert products(**full) == products(**chunked) + 3 + 2
  fused = {"fuse_qkv": "always"}
  # One product replaces three, once forward and twice backward.
  assert products(**fused) == none - 6
  assert products(**fused, remat="projections") == none - 6 + 3


def test_gradients_of_repeated_layers_are_added_in_place():
  layer = lambda: blocks.SelfAttention(2, name="self_attend")

  def memory(repeats):
    """Returns bytes of temporary memory and of parameters."""

    def run(x):
      block = blocks.LatentTransformer(3, layer, remat=True, name="block")
      return block(x, repeats=repeats)

    model = plain.transform(run)
    x = plain.normal(1, 4, 128)
    params = plain.random_params(model, x)
    loss = lambda params, x: model.apply(params, x).sum()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return temporary_bytes(jax.grad(loss), params, x), size

  (few, size), (many, same_size) = memory(2), memory(16)
  assert size == same_size
  assert many < few + 0.5 * size
