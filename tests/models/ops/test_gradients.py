"""Linear layers and norms: numpy's values; both backward passes agree."""

import haiku as hk
import jax
import numpy as np
import pytest
from computing import assert_close, run
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import layers
from perceiver_jax.models.ops import gradients


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


_FUNCTIONS = {
  "linear": (gradients.linear, lambda c: (_normal(c, 5), _normal(5))),
  "layer_norm": (gradients.layer_norm, lambda c: (_normal(c), _normal(c))),
}


def _functions(name):
  """The function with custom gradients, with derived ones, its parameters."""
  fn, others = _FUNCTIONS[name]
  custom = lambda *args: fn(*args, custom_gradients=True)
  return custom, lambda *args: fn(*args, custom_gradients=False), others


@settings(max_examples=10, deadline=None)
@given(
  name=st.sampled_from(sorted(_FUNCTIONS)),
  shape=st.lists(st.integers(1, 4), max_size=3),
  channels=st.integers(2, 7),
)
def test_custom_gradients_are_those_of_autodiff(name, shape, channels):
  fn, derived, others = _functions(name)
  args = (_normal(*shape, channels, seed=1), *others(channels))
  assert_close(run(fn, *args), run(derived, *args))


@pytest.mark.parametrize("custom", [True, False])
def test_linear_is_numpys(custom):
  x, w, b = _normal(2, 3, 4), _normal(4, 5), _normal(5)
  out = gradients.linear(x, w, b, custom)
  np.testing.assert_allclose(out, np.asarray(x) @ w + b, atol=1e-5)


@pytest.mark.parametrize("custom", [True, False])
def test_layer_norm_is_numpys(custom):
  x, scale, offset = 3 + _normal(2, 3, 4), _normal(4), _normal(4, seed=1)
  out = gradients.layer_norm(x, scale, offset, custom)
  exact = np.asarray(x, np.float64)
  deviation = np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  want = (exact - exact.mean(-1, keepdims=True)) / deviation * scale + offset
  np.testing.assert_allclose(out, want, atol=1e-5)


def test_a_norm_far_from_zero_keeps_its_digits():
  x = 1000 + _normal(3, 64)
  out = gradients.layer_norm(x, jnp.ones(64), jnp.zeros(64))
  exact = np.asarray(x, np.float64)
  want = exact - exact.mean(-1, keepdims=True)
  want /= np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(out, want, atol=1e-3)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_half_precision_gets_gradients_in_half(name):
  fn, derived, others = _functions(name)
  args = [x.astype(jnp.bfloat16) for x in (_normal(3, 4), *others(4))]
  found = run(fn, *args)
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
  assert_close(found, run(derived, *args), tolerance=0.03)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
@pytest.mark.parametrize("half", [0, 1, 2])
def test_each_gradient_has_the_type_of_its_array(name, half):
  fn, _, others = _functions(name)
  args = [_normal(3, 4), *others(4)]
  args[half] = args[half].astype(jnp.bfloat16)
  _, found = run(fn, *args)
  assert [x.dtype for x in found] == [x.dtype for x in args]


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_only_derived_gradients_support_forward_mode(name):
  fn, derived, others = _functions(name)
  args = (_normal(3, 4), *others(4))
  out, _ = jax.jvp(derived, args, args)
  assert np.isfinite(out).all()
  with pytest.raises(TypeError):
    jax.jvp(fn, args, args)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_custom_gradients_can_be_mapped(name):
  fn, _, others = _functions(name)
  x, rest = _normal(6, 3, 4), others(4)
  loss = lambda x, *rest: jnp.sin(fn(x, *rest)).sum()
  gradient = jax.grad(loss, 1)
  by_example = jax.vmap(gradient, (0, None, None))(x, *rest)
  want = jnp.stack([gradient(each, *rest) for each in x])
  assert_close(by_example, want)


def test_checkpoint_policies_know_a_linear_layer_by_its_name():
  model = hk.transform(lambda x: layers.Linear(3, name="query")(x))
  args = (model.init(jax.random.key(0), _normal(2, 4)), None, _normal(2, 4))
  assert "name=query" in str(jax.make_jaxpr(model.apply)(*args))
