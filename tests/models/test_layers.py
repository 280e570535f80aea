"""Linear layers and norms: numpy's values; both backward passes agree."""

import haiku as hk
import jax
import numpy as np
import pytest
from computing import (
  assert_close,
  run,
)
from hypothesis import (
  given,
  settings,
)
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import (
  execution,
  layers,
)

_WRITTEN = execution.PLAIN._replace(backward="written")


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


_FUNCTIONS = {
  "linear": (layers.linear, lambda c: (_normal(c, 5), _normal(5))),
  "layer_norm": (layers.layer_norm, lambda c: (_normal(c), _normal(c))),
}


@settings(max_examples=10, deadline=None)
@given(
  name=st.sampled_from(sorted(_FUNCTIONS)),
  shape=st.lists(st.integers(1, 4), max_size=3),
  channels=st.integers(2, 7),
)
def test_written_gradients_are_those_of_autodiff(name, shape, channels):
  fn, others = _FUNCTIONS[name]
  args = (_normal(*shape, channels, seed=1), *others(channels))
  assert_close(run(fn, *args, how=_WRITTEN), run(fn, *args))


@pytest.mark.parametrize("backward", ["derived", "written"])
def test_linear_is_numpys(backward):
  x, w, b = _normal(2, 3, 4), _normal(4, 5), _normal(5)
  with execution.use(backward=backward):
    out = layers.linear(x, w, b)
  np.testing.assert_allclose(out, np.asarray(x) @ w + b, atol=1e-5)


@pytest.mark.parametrize("backward", ["derived", "written"])
def test_layer_norm_is_numpys(backward):
  x, scale, offset = 3 + _normal(2, 3, 4), _normal(4), _normal(4, seed=1)
  with execution.use(backward=backward):
    out = layers.layer_norm(x, scale, offset)
  exact = np.asarray(x, np.float64)
  deviation = np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  want = (exact - exact.mean(-1, keepdims=True)) / deviation * scale + offset
  np.testing.assert_allclose(out, want, atol=1e-5)


def test_a_norm_far_from_zero_keeps_its_digits():
  x = 1000 + _normal(3, 64)
  out = layers.layer_norm(x, jnp.ones(64), jnp.zeros(64))
  exact = np.asarray(x, np.float64)
  want = exact - exact.mean(-1, keepdims=True)
  want /= np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(out, want, atol=1e-3)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_half_precision_gets_gradients_in_half(name):
  fn, others = _FUNCTIONS[name]
  args = [x.astype(jnp.bfloat16) for x in (_normal(3, 4), *others(4))]
  found = run(fn, *args, how=_WRITTEN)
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
  assert_close(found, run(fn, *args), tolerance=0.03)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
@pytest.mark.parametrize("half", [0, 1, 2])
def test_each_gradient_has_the_type_of_what_it_is_of(name, half):
  fn, others = _FUNCTIONS[name]
  args = [_normal(3, 4), *others(4)]
  args[half] = args[half].astype(jnp.bfloat16)
  _, found = run(fn, *args, how=_WRITTEN)
  assert [x.dtype for x in found] == [x.dtype for x in args]


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_only_derived_passes_differentiate_forward(name):
  fn, others = _FUNCTIONS[name]
  args = (_normal(3, 4), *others(4))
  with execution.use(backward="derived"):
    out, _ = jax.jvp(fn, args, args)
  assert np.isfinite(out).all()
  with execution.use(backward="written"), pytest.raises(TypeError):
    jax.jvp(fn, args, args)


@pytest.mark.parametrize("name", sorted(_FUNCTIONS))
def test_written_passes_can_be_mapped(name):
  """As gradients by example are."""
  fn, others = _FUNCTIONS[name]
  x, rest = _normal(6, 3, 4), others(4)
  loss = lambda x, *rest: jnp.sin(fn(x, *rest)).sum()
  with execution.use(backward="written"):
    gradient = jax.grad(loss, 1)
    found = jax.vmap(gradient, (0, None, None))(x, *rest)
    want = jnp.stack([gradient(each, *rest) for each in x])
  assert_close(found, want)


def test_checkpoint_policies_know_a_linear_layer_by_its_name():
  model = hk.transform(lambda x: layers.Linear(3, "query")(x))
  args = (model.init(jax.random.key(0), _normal(2, 4)), None, _normal(2, 4))
  assert "name=query" in str(jax.make_jaxpr(model.apply)(*args))


def test_auto_is_written_on_a_cpu():
  loss = lambda *args: layers.linear(*args).sum()
  args = (_normal(2, 3), _normal(3, 4), _normal(4))
  trace = lambda: str(jax.make_jaxpr(lambda *args: loss(*args))(*args))
  assert ("custom_vjp" in trace()) == (jax.default_backend() == "cpu")
  with execution.use(backward="derived"):
    assert "custom_vjp" not in trace()
