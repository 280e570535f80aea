"""Tests of custom gradients of linear layers and norms."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from computing import assert_close, run, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import layers
from perceiver_jax.models.ops import depth, gradients
from perceiver_jax.models.ops.execution import Execution

_FUNCTIONS = {
  "linear": (gradients.linear, lambda c: (plain.normal(c, 5), plain.normal(5))),
  "layer_norm": (
    gradients.layer_norm,
    lambda c: (plain.normal(c), plain.normal(c)),
  ),
  "layer_norm_with_sums": (
    functools.partial(gradients.layer_norm, sum_by_product=False),
    lambda c: (plain.normal(c), plain.normal(c)),
  ),
}


def _functions(name):
  """Returns a function with custom and with derived gradients, and parameters.

  The parameters are made by a function of the number of channels.
  """
  fn, others = _FUNCTIONS[name]
  custom = lambda *args: fn(*args, custom_gradients=True)
  return custom, lambda *args: fn(*args, custom_gradients=False), others


@settings(max_examples=10, deadline=None)
@given(
  name=st.sampled_from(sorted(_FUNCTIONS)),
  shape=st.lists(st.integers(1, 4), max_size=3),
  channels=st.integers(2, 7),
)
def test_custom_gradients_agree_with_derived_ones(name, shape, channels):
  fn, derived, others = _functions(name)
  args = (plain.normal(*shape, channels, seed=1), *others(channels))
  assert_close(run(fn, *args), run(derived, *args))


@pytest.mark.parametrize("custom", [True, False])
def test_linear_agrees_with_numpy(custom):
  x, w, b = plain.normal(2, 3, 4), plain.normal(4, 5), plain.normal(5)
  out = gradients.linear(x, w, b, custom)
  np.testing.assert_allclose(out, np.asarray(x) @ w + b, atol=1e-5)


@pytest.mark.parametrize("custom", [True, False])
def test_layer_norm_agrees_with_numpy(custom):
  x, scale, offset = (
    3 + plain.normal(2, 3, 4),
    plain.normal(4),
    plain.normal(4, seed=1),
  )
  out = gradients.layer_norm(x, scale, offset, custom)
  exact = np.asarray(x, np.float64)
  deviation = np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  expected = (
    exact - exact.mean(-1, keepdims=True)
  ) / deviation * scale + offset
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_the_norm_of_values_far_from_zero_is_accurate():
  x = 1000 + plain.normal(3, 64)
  out = gradients.layer_norm(x, jnp.ones(64), jnp.zeros(64))
  exact = np.asarray(x, np.float64)
  expected = exact - exact.mean(-1, keepdims=True)
  expected /= np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(out, expected, atol=1e-3)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_gradients_of_bfloat16_have_its_type_and_precision(name):
  fn, derived, others = _functions(name)
  args = [x.astype(jnp.bfloat16) for x in (plain.normal(3, 4), *others(4))]
  out = run(fn, *args)
  assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("bfloat16")}
  assert_close(out, run(derived, *args), tolerance=0.03)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
@pytest.mark.parametrize("half", [0, 1, 2])
def test_each_gradient_has_the_type_of_its_array(name, half):
  fn, _, others = _functions(name)
  args = [plain.normal(3, 4), *others(4)]
  args[half] = args[half].astype(jnp.bfloat16)
  _, grads = run(fn, *args)
  assert [x.dtype for x in grads] == [x.dtype for x in args]


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_only_derived_gradients_support_forward_mode(name):
  fn, derived, others = _functions(name)
  args = (plain.normal(3, 4), *others(4))
  out, _ = jax.jvp(derived, args, args)
  assert np.isfinite(out).all()
  with pytest.raises(TypeError):
    jax.jvp(fn, args, args)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_custom_gradients_can_be_mapped(name):
  fn, _, others = _functions(name)
  x, rest = plain.normal(6, 3, 4), others(4)
  loss = lambda x, *rest: jnp.sin(fn(x, *rest)).sum()
  gradient = jax.grad(loss, 1)
  by_example = jax.vmap(gradient, (0, None, None))(x, *rest)
  expected = jnp.stack([gradient(each, *rest) for each in x])
  assert_close(by_example, expected)


def test_outputs_of_linear_layers_have_names_for_checkpoint_policies():
  model = hk.transform(lambda x: layers.Linear(3, name="query")(x))
  args = (
    model.init(jax.random.key(0), plain.normal(2, 4)),
    None,
    plain.normal(2, 4),
  )
  assert "name=query" in str(jax.make_jaxpr(model.apply)(*args))


@pytest.mark.parametrize("remat", ["projections", "attention"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_statistics_of_norms_are_not_recomputed(platform, remat):
  def num_operations(remat):
    model = _norms(Execution(platform=platform, remat=remat))
    x = plain.normal(2, 3, 4)
    params = plain.random_params(model, x)
    trace = jax.make_jaxpr(with_gradients(model.apply))(params, x)
    return [str(trace).count(op) for op in ("= rsqrt", "= reduce_sum")]

  roots, sums = num_operations("none")
  assert num_operations(remat) == [roots, sums]
  more_roots, more_sums = num_operations("full")
  assert more_roots == 2 * roots
  assert more_sums > sums


def _norms(execution):
  """Returns a stack of layers of a norm each."""
  layer = lambda x: x + layers.LayerNorm("norm", execution)(x)
  return plain.transform(
    lambda x: depth.apply_layers(
      layer, x, num_layers=2, repeats=1, remat=False, execution=execution
    )
  )
