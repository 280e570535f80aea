"""Tests of counting operations, by rule and against the papers' totals."""

import functools

import haiku as hk
import jax
import pytest
from jax import numpy as jnp

from perceiver_jax.models import encoder as encoder_lib
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.ops import dot_product_attention as dpa
from perceiver_jax.models.ops.execution import PLAIN, Execution

_PUBLISHED = {  # Perceiver v2, Table 6.
  "imagenet_icml": 707.20e9,
  "imagenet_icml_1": 404.35e9,
}


@functools.cache
def _cost(name, batch=1, execution=PLAIN):
  entry = zoo.MODELS[name]
  model = hk.without_apply_rng(
    hk.transform_with_state(
      lambda x, is_training: zoo.build(entry.spec, execution)(
        x, is_training=is_training
      )
    )
  )
  x = entry.example(batch)
  params, state = jax.eval_shape(
    lambda key, x: model.init(key, x, True), jax.random.key(0), x
  )
  before = len(jax.live_arrays())
  count = flops.count_flops(
    lambda p, s, x: model.apply(p, s, x, False)[0].logits, params, state, x
  )
  assert len(jax.live_arrays()) <= before
  return count


@pytest.mark.parametrize("name", _PUBLISHED)
def test_operations_of_icml_models_are_the_published_ones(name):
  assert _cost(name) == pytest.approx(_PUBLISHED[name], rel=1e-3)


@pytest.mark.parametrize(
  ("name", "plain", "absorbed"),
  [
    ("flow", 1894e9, 1414e9),
    ("imagenet_icml", 707.2e9, 595e9),
    ("imagenet_fourier", 406.5e9, 390.3e9),
  ],
)
def test_absorbed_projections_save_operations(name, plain, absorbed):
  assert _cost(name) == pytest.approx(plain, rel=2e-3)
  assert _cost(name, execution=Execution()) == pytest.approx(absorbed, rel=2e-2)


def test_positions_shared_by_examples_are_multiplied_once():
  one, two = (_cost("imagenet_icml_1", b, Execution()) for b in (1, 2))
  # Positions cost 2 x 512 x 50,176 x 258 operations in the first logits.
  assert 2 * one - two == pytest.approx(2 * 512 * 50_176 * 258, rel=5e-2)


def test_operations_are_proportional_to_the_batch_except_shared_queries():
  one, two = (_cost("imagenet_icml_1", b) for b in (1, 2))
  # Examples share the first queries: 512 latents, 1,024 to 261 channels.
  assert two == 2 * one - 2 * 512 * 1024 * 261


def test_matmul_counts_multiplies_and_adds():
  a, b = flops.abstract(3, 4, 5), flops.abstract(3, 5, 7)
  assert flops.count_flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 7
  assert flops.count_flops(lambda x: jnp.tanh(x) + 1, a) == 0


def test_the_softmax_counts_three_operations_per_logit():
  b, n, m, h, f, v = 2, 3, 5, 2, 4, 7
  q, k = flops.abstract(b, n, h, f), flops.abstract(b, m, h, f)
  values = flops.abstract(b, m, h, v)
  expected = b * h * n * m * (2 * f + 3 + 2 * v)
  assert flops.count_flops(dpa.plain_attention, q, k, values) == expected
  mask = flops.abstract(b, n, m, dtype=jnp.bool_)
  assert flops.count_flops(dpa.plain_attention, q, k, values, mask) == expected


def test_the_body_of_a_scan_is_counted_once_per_iteration():
  def repeated(x, times):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=times)[0]

  x = flops.abstract(4, 4)
  once = 2 * 4**3
  assert flops.count_flops(lambda x: repeated(x, 1), x) == once
  assert flops.count_flops(lambda x: repeated(x, 9), x) == 9 * once
  nested = lambda x: jax.lax.scan(
    lambda x, _: (repeated(x, 3), None), x, length=5
  )[0]
  assert flops.count_flops(nested, x) == 15 * once


@pytest.mark.parametrize("remat", [False, True])
def test_every_self_attend_of_the_encoder_is_counted(remat):
  def cost(depth):
    config = encoder_lib.EncoderConfig(
      8, 16, 2, depth, num_self_attend_heads=2, remat=remat
    )
    model = hk.without_apply_rng(
      hk.transform(lambda x: encoder_lib.PerceiverEncoder(config)(x)[0])
    )
    x = flops.abstract(1, 5, 6)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    return flops.count_flops(model.apply, params, x)

  layer = 6 * 2 * 8 * 16 * 16 + 2 * 8 * 8 * (4 * 8 + 3)
  assert cost(1) - cost(0) == 2 * layer
  assert cost(5) - cost(0) == 10 * layer


def test_calls_inside_jit_and_remat_are_counted():
  x = flops.abstract(4, 4)
  once = 2 * 4**3
  square = lambda x: x @ x
  assert flops.count_flops(jax.jit(square), x) == once
  assert flops.count_flops(jax.checkpoint(square), x) == once
  assert flops.count_flops(lambda x: jax.nn.relu(square(x)), x) == once


def test_a_conditional_counts_its_most_expensive_branch():
  x = flops.abstract(4, 4)
  branches = (lambda x: x, lambda x: x @ x, lambda x: x @ x @ x)
  run = lambda x: jax.lax.switch(jnp.int32(x[0, 0]), branches, x)
  assert flops.count_flops(run, x) == 2 * 2 * 4**3


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_counts_its_kernel_for_each_output(groups):
  def conv(x, w):
    return jax.lax.conv_general_dilated(
      x,
      w,
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  x, w = flops.abstract(2, 8, 6, 4), flops.abstract(3, 5, 4 // groups, 10)
  expected = 2 * (3 * 5 * 4 // groups) * (2 * 4 * 3 * 10)
  assert flops.count_flops(conv, x, w) == expected


def test_the_gradients_of_a_matmul_cost_twice_the_matmul():
  x, w = flops.abstract(8, 4), flops.abstract(4, 4)
  loss = lambda x, w: (x @ w).sum()
  forward = flops.count_flops(loss, x, w)
  both = flops.count_flops(jax.value_and_grad(loss, (0, 1)), x, w)
  assert both == 3 * forward
