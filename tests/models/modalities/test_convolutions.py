"""Tests of the convolution stem and of the upsampling modules."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models.modalities import convolutions

_RNG = np.random.default_rng(0)
# Examples differ in mean and deviation, so that the statistics of a part of
# the batch differ from those of the batch.
_IMAGES = jnp.asarray(
  _RNG.normal(size=(4, 8, 8, 3)) * np.arange(1, 5).reshape(4, 1, 1, 1) + 1,
  "float32",
)
_DEVICES = 4


def _stem(axis="", num_layers=1, use_batchnorm=True):
  make = lambda x, is_training: convolutions.ConvDownsample(
    num_layers, 2, use_batchnorm, axis, name="stem"
  )(x, is_training=is_training)
  return hk.without_apply_rng(hk.transform_with_state(make))


def _random_params(model, *args):
  params, state = jax.eval_shape(
    lambda key: model.init(key, *args, True), jax.random.key(0)
  )
  rng = np.random.default_rng(1)
  random = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)
  return jax.tree.map(random, params), jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), state
  )


def _train(model, params, state, images):
  return jax.jit(lambda x: model.apply(params, state, x, True))(images)


def _mapped(model, params, state):
  split = _IMAGES.reshape(_DEVICES, 1, 8, 8, 3)
  out, new_state = jax.pmap(
    lambda x: model.apply(params, state, x, True),
    axis_name="data",
    devices=jax.devices()[:_DEVICES],
  )(split)
  return np.asarray(out).reshape(_DEVICES, *out.shape[2:]), new_state


@pytest.mark.skipif(jax.device_count() < _DEVICES, reason="needs 4 devices")
def test_statistics_do_not_depend_on_the_number_of_devices():
  shared, alone = _stem("data"), _stem("")
  params, state = _random_params(shared, _IMAGES)
  expected, expected_state = _train(alone, params, state, _IMAGES)
  out, new_state = _mapped(shared, params, state)
  np.testing.assert_allclose(out, expected, atol=1e-4)
  for module, leaves in expected_state.items():
    for leaf, value in leaves.items():
      for device in range(_DEVICES):
        np.testing.assert_allclose(
          new_state[module][leaf][device], value, rtol=1e-4, atol=1e-5
        )
  # Without the axis, each device has its own statistics.
  apart, apart_state = _mapped(alone, params, state)
  assert np.abs(apart - expected).max() > 0.1
  means = apart_state["stem/batch_norm_0/~/mean_ema"]["average"]
  assert np.abs(means[0] - means[3]).max() > 0.1


def test_evaluation_uses_running_statistics():
  model = _stem("data")  # No mapped axis is needed to evaluate or initialize.
  params, state = _random_params(model, _IMAGES)
  run = jax.jit(lambda state, x: model.apply(params, state, x, False))
  running = {
    "stem/batch_norm_0/~/mean_ema": jnp.asarray([5.0, -5.0]),
    "stem/batch_norm_0/~/var_ema": jnp.asarray([4.0, 9.0]),
  }
  for module, value in running.items():
    average = value.reshape(1, 1, 1, 2)
    state[module] = state[module] | {"average": average}
  out, after = run(state, _IMAGES)
  jax.tree.map(np.testing.assert_array_equal, after, state)
  # The output of an example does not depend on the other examples.
  alone, _ = run(state, jnp.concatenate([_IMAGES[:1], 9 * _IMAGES[1:]]))
  np.testing.assert_allclose(alone[0], out[0], atol=1e-4)
  x = jax.lax.conv_general_dilated(
    _IMAGES,
    params["stem/conv_0"]["w"],
    (2, 2),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  norm = params["stem/batch_norm_0"]
  x = (x - jnp.asarray([5.0, -5.0])) / jnp.sqrt(jnp.asarray([4.0, 9.0]) + 1e-5)
  x = np.asarray(jax.nn.relu(x * norm["scale"] + norm["offset"]))
  padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # SAME, 4 to 2.
  for i, j in np.ndindex(2, 2):
    window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
    np.testing.assert_allclose(out[:, i, j], window.max((1, 2)), atol=1e-3)


def test_running_statistics_are_moving_averages_of_those_of_batches():
  model = _stem()
  params, state = _random_params(model, _IMAGES)
  _, once = _train(model, params, state, _IMAGES)
  mean = once["stem/batch_norm_0/~/mean_ema"]
  x = jax.lax.conv_general_dilated(
    _IMAGES,
    params["stem/conv_0"]["w"],
    (2, 2),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  expected = np.asarray(x).mean((0, 1, 2))
  np.testing.assert_allclose(mean["average"].ravel(), expected, atol=1e-3)
  np.testing.assert_allclose(mean["hidden"].ravel(), 0.1 * expected, atol=1e-3)


@pytest.mark.parametrize(
  ("layers", "size", "expected"), [(1, 8, 2), (2, 32, 2), (1, 9, 3), (1, 7, 2)]
)
def test_each_layer_of_the_stem_divides_sizes_by_four_rounding_up(
  layers, size, expected
):
  model = _stem(num_layers=layers, use_batchnorm=False)
  images = jnp.zeros((2, size, size, 3))
  out, (params, state) = jax.eval_shape(
    lambda key: _out_and_variables(model, key, images), jax.random.key(0)
  )
  assert out.shape == (2, expected, expected, 2)
  assert set(params) == {f"stem/conv_{i}" for i in range(layers)}
  assert params["stem/conv_0"]["w"].shape == (7, 7, 3, 2)
  assert "b" not in params["stem/conv_0"]
  assert not state


def _out_and_variables(model, key, images):
  params, state = model.init(key, images, True)
  return model.apply(params, state, images, True)[0], (params, state)


def _upsampled(make, shape):
  model = hk.without_apply_rng(hk.transform(make))

  def run(key, x):
    params = model.init(key, x)
    return model.apply(params, x), params

  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  out, params = jax.eval_shape(run, jax.random.key(0), x)
  return out.shape, params


def test_upsample_2d_multiplies_sizes_by_four():
  make = lambda x: convolutions.ConvUpsample2D(3, name="up")(x)
  shape, params = _upsampled(make, (2, 5, 7, 4))
  assert shape == (2, 20, 28, 3)
  assert params["up/conv_0"]["w"].shape == (4, 4, 6, 4)
  assert params["up/conv_1"]["w"].shape == (4, 4, 3, 6)


@pytest.mark.parametrize(("time", "space"), [(1, 2), (2, 1), (2, 4), (0, 1)])
def test_upsample_3d_doubles_time_and_space_as_configured(time, space):
  make = lambda x: convolutions.ConvUpsample3D(3, time, space, name="up")(x)
  shape, params = _upsampled(make, (1, 2, 1, 2, 4))
  assert shape == (1, 2 * 2**time, 2**space, 2 * 2**space, 3)
  depth = max(time, space)
  assert set(params) == {f"up/conv_{i}" for i in range(depth)}
  widths = [params[f"up/conv_{i}"]["b"].shape[0] for i in range(depth)]
  assert widths == [3 * 2**i for i in reversed(range(depth))]


_FACTOR, _COARSE = 3, (4, 5)


@functools.cache
def _convex():
  """Returns the compiled convex upsampling and random parameters."""
  model = plain.transform(
    lambda x: convolutions.ConvexUpsample(_FACTOR, name="up")(x)
  )
  params = plain.random_params(model, plain.normal(2, *_COARSE, 4))
  return plain.jit(model.apply), params


def _neighbors(image, y, x):
  """Returns the 3 x 3 pixels around one, row by row; zeros outside."""
  padded = np.pad(np.asarray(image, np.float64), ((1, 1), (1, 1), (0, 0)))
  return padded[y : y + 3, x : x + 3].reshape(9, -1)


def test_convex_upsampling_agrees_with_its_definition():
  run, params = _convex()
  x = plain.normal(2, *_COARSE, 4)
  out = run(params, x)
  assert out.shape == (2, 12, 15, 2)
  layers = plain.Module(params, "up")
  kernel = np.asarray(params["up/mask_hidden"]["w"], np.float64)
  kernel, bias = kernel.reshape(36, 8), params["up/mask_hidden"]["b"]
  for b, y, x_ in np.ndindex(2, *_COARSE):
    around = _neighbors(x[b], y, x_).reshape(-1)
    hidden = np.maximum(around @ kernel + bias, 0)
    weights = layers.linear("mask", hidden)[0, 0].reshape(9, _FACTOR, _FACTOR)
    weights = np.exp(weights - weights.max(0))
    weights /= weights.sum(0)
    coarse = _FACTOR * _neighbors(layers.linear("flow", x[b]), y, x_)
    expected = np.einsum("kij,kc->ijc", weights, coarse)
    fine = out[b, _FACTOR * y : _FACTOR * (y + 1)]
    fine = fine[:, _FACTOR * x_ : _FACTOR * (x_ + 1)]
    np.testing.assert_allclose(fine, expected, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.floats(-3, 3), st.floats(-3, 3))
def test_constant_coarse_flow_is_constant_and_scaled(seed, u, v):
  run, params = _convex()
  constant = {
    "w": jnp.zeros_like(params["up/flow"]["w"]),
    "b": jnp.asarray([u, v], "float32"),
  }
  x = plain.normal(2, *_COARSE, 4, seed=seed)
  out = np.asarray(run(params | {"up/flow": constant}, x))
  expected = _FACTOR * np.asarray([u, v])
  inside = out[:, _FACTOR:-_FACTOR, _FACTOR:-_FACTOR]
  # This holds for any weights, since they sum to one.
  np.testing.assert_allclose(
    inside, np.broadcast_to(expected, inside.shape), atol=1e-5
  )
  # Flow is zero outside, so that it can only be smaller at the border.
  assert np.all(np.abs(out) <= np.abs(expected) + 1e-5)


def test_upsampled_flow_lies_between_its_coarse_neighbors():
  run, params = _convex()
  x = plain.normal(2, *_COARSE, 4)
  out = np.asarray(run(params, x)).reshape(2, 4, _FACTOR, 5, _FACTOR, 2)
  coarse = _FACTOR * plain.Module(params, "up").linear("flow", x)
  for b, y, x_ in np.ndindex(2, *_COARSE):
    around = _neighbors(coarse[b], y, x_)
    fine = out[b, y, :, x_].reshape(-1, 2)
    assert np.all(fine <= around.max(0) + 1e-4)
    assert np.all(fine >= around.min(0) - 1e-4)
  assert np.ptp(out, axis=(2, 4)).min() > 1e-3, "fine pixels differ"


def test_upsampled_flow_is_initially_zero_and_has_a_gradient():
  run, params = _convex()
  model = hk.transform(
    lambda x: convolutions.ConvexUpsample(_FACTOR, name="up")(x)
  )
  x = plain.normal(2, *_COARSE, 4)
  start = plain.jit(lambda key: model.init(key, x)["up/flow"])
  params = params | {"up/flow": start(jax.random.key(0))}
  assert not np.any(run(params, x))
  gradient = jax.grad(lambda p: model.apply(p, None, x).sum())
  assert np.any(plain.jit(gradient)(params)["up/flow"]["w"])
