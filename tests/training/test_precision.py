"""Tests of the types in which models compute, by tracing them."""

import haiku as hk
import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from configs import hip, masked_lm, optical_flow, perceiver_ar, resampler
from perceiver_jax.errors import UserError
from perceiver_jax.models import inputs, layers, perceiver, zoo
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import step
from perceiver_jax.training.precision import PRECISIONS, precision

CONTRACTIONS = ("dot_general", "conv_general_dilated")


def equations(jaxpr):
  """Yields all equations, also those inside scans and calls."""
  for eqn in jaxpr.eqns:
    yield eqn
    parameters = jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
    )
    for nested in (getattr(p, "jaxpr", p) for p in parameters):
      if hasattr(nested, "eqns"):
        yield from equations(nested)


def inputs_of(jaxpr, *primitives):
  """Returns the input types of all equations with these primitives."""
  return {
    variable.aval.dtype.name
    for eqn in equations(jaxpr)
    if eqn.primitive.name in primitives
    for variable in eqn.invars
  }


def float_types(tree):
  return {
    x.dtype.name
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.floating)
  }


class Traced:
  """Traces a model's forward pass and gradient without computing them."""

  def __init__(self, config, name):
    task = tasks.make_task(config)
    model, batch = step.model_of(task, name), jax.device_put(task.dummy_batch())
    init = step.make_init(model, optax.adam(0.1), 0, use_ema=True)
    self.state = step.abstract_state(init, batch, step.make_mesh(1))

    def forward(params, net_state):
      return model.apply(params, net_state, None, batch, True)

    def gradient(params, net_state):
      prepared = task.prepare_batch(batch)
      loss = lambda p: task.loss(forward(p, net_state)[0], prepared)["loss"][0]
      return jax.grad(loss)(params)

    def trace(fn):
      make = jax.make_jaxpr(fn, axis_env=[(step.AXIS, 1)], return_shape=True)
      jaxpr, shapes = make(self.state.params, self.state.net_state)
      return jaxpr.jaxpr, shapes

    self.forward, (self.outputs, self.net_state) = trace(forward)
    self.gradient, self.grads = trace(gradient)


@pytest.fixture
def traced_bfloat16(tiny_conv_config):
  return Traced(tiny_conv_config, "bfloat16")


def test_bfloat16_keeps_the_state_in_float32(traced_bfloat16):
  assert float_types(traced_bfloat16.state) == {"float32"}
  assert float_types(traced_bfloat16.net_state) == {"float32"}
  assert float_types(traced_bfloat16.grads) == {"float32"}


def test_bfloat16_multiplies_in_bfloat16(traced_bfloat16):
  for kind in CONTRACTIONS:
    assert inputs_of(traced_bfloat16.forward, kind) == {"bfloat16"}
  stacks = [
    e for e in equations(traced_bfloat16.forward) if e.primitive.name == "scan"
  ]
  assert stacks, "no layer was scanned"
  for stack in stacks:
    nested = stack.params["jaxpr"].jaxpr
    assert inputs_of(nested, "dot_general") == {"bfloat16"}


def test_bfloat16_keeps_logits_softmax_and_norms_in_float32(traced_bfloat16):
  assert traced_bfloat16.outputs.logits.dtype == jnp.float32
  assert inputs_of(traced_bfloat16.forward, "exp") == {"float32"}
  assert inputs_of(traced_bfloat16.forward, "rsqrt") == {"float32"}


def test_bfloat16_multiplies_in_bfloat16_in_the_backward_pass(traced_bfloat16):
  pairs = {
    tuple(v.aval.dtype.name for v in eqn.invars)
    for eqn in equations(traced_bfloat16.gradient)
    if eqn.primitive.name in CONTRACTIONS
    and eqn.outvars[0].aval.ndim > 1
    and eqn.outvars[0].aval.shape[-1] > 1  # Exclude a norm's sums.
  }
  # The cotangents of the float32 attention logits are float32.
  assert pairs == {("bfloat16", "bfloat16"), ("float32", "bfloat16")}


@pytest.mark.parametrize(
  ("file", "variant"),
  [
    (masked_lm, "byte_bert,smoke"),
    (hip, "smoke"),
    (perceiver_ar, "smoke"),
    (resampler, "smoke"),
    (resampler, "mean_pooling,smoke"),
  ],
)
def test_bfloat16_multiplies_in_bfloat16_in_other_architectures(file, variant):
  task = tasks.make_task(file.get_config(variant))
  model = step.model_of(task, "bfloat16")
  batch = jax.device_put(task.dummy_batch())
  init = step.make_init(model, optax.adam(0.1), 0, use_ema=False)
  state = step.abstract_state(init, batch, step.make_mesh(1))
  forward = lambda *state: model.apply(*state, None, batch, is_training=False)
  traced = jax.make_jaxpr(forward)(state.params, state.net_state).jaxpr
  assert float_types(state) == {"float32"}
  assert inputs_of(traced, *CONTRACTIONS) == {"bfloat16"}


@pytest.mark.parametrize("variant", ["conv", "conv_light"])
def test_bfloat16_upsamples_flow_with_bfloat16_convolutions(variant):
  config = optical_flow.get_config(f"{variant},smoke")
  traced = Traced(config, "bfloat16")
  convolutions = [
    [x.aval.dtype.name for x in eqn.invars]
    for eqn in equations(traced.forward)
    if eqn.primitive.name == "conv_general_dilated"
  ]
  assert convolutions.count(["bfloat16", "bfloat16"]) >= 2
  # Neighbors of the flow are taken in float32.
  assert convolutions.count(["float32", "float32"]) == 1
  assert inputs_of(traced.forward, "exp") == {"float32"}
  assert traced.outputs.logits.dtype == jnp.float32
  assert float_types(traced.grads) == {"float32"}


def test_float32_uses_no_other_float_type(tiny_conv_config):
  traced = Traced(tiny_conv_config, "float32")
  types = {
    variable.aval.dtype.name
    for eqn in equations(traced.gradient)
    for variable in eqn.outvars
    if hasattr(variable.aval, "dtype")
  }
  assert "float32" in types
  assert not types & {"bfloat16", "float16", "float64"}


@pytest.mark.parametrize("custom_gradients", ["always", "never"])
def test_bfloat16_applies_the_scale_of_norms_in_float32(custom_gradients):
  execution = Execution(custom_gradients=custom_gradients)
  norm = hk.without_apply_rng(
    hk.transform(lambda x: layers.LayerNorm("n", execution)(x))
  )
  x = jnp.asarray([[1.0, -1.0]])
  params = {"n": {"scale": jnp.ones(2), "offset": jnp.zeros(2)}}
  with precision("bfloat16"):
    trace = jax.make_jaxpr(norm.apply)(params, x)
  # Only the result is rounded.
  assert str(trace).count("new_dtype=bfloat16") == 1
  assert trace.out_avals[0].dtype == jnp.bfloat16


def _random(*shape):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, shape).astype(np.float32)


_TOKENS = np.arange(12, dtype=np.int32).reshape(2, 6)
_IMAGES = _random(2, 8, 8, 3)
_ADAPTERS = (
  ("image", {}, _IMAGES),
  ("image", {"prep_type": "conv1x1", "num_channels": 4}, _IMAGES),
  (
    "image",
    {"coordinates": "image", "max_resolution": (224, 224)},
    {"image": _IMAGES, "crop_box": _random(2, 2, 2)},
  ),
  ("audio", {}, _random(2, 64, 1)),
  ("text", {}, _TOKENS),
  (
    "tokens",
    {
      "vocab_size": 12,
      "num_channels": 8,
      "positions": "sinusoidal",
      "position_sizes": (8192,),
    },
    {"tokens": _TOKENS, "positions": 8000 + _TOKENS[..., None]},
  ),
  ("flow", {}, _random(2, 2, 4, 6, 3)),
  ("points", {}, _random(2, 9, 3)),
  ("entities", {}, _random(2, 5, 7)),
  (
    "entity_features",
    {"num_categories": 12},
    {
      "categories": _TOKENS[..., None],
      "numbers": _random(2, 6, 3),
      "positions": _random(2, 6, 2),
    },
  ),
  ("features", {"num_frames": 3}, _random(2, 3, 4, 5)),
  (
    "arrays",
    {},
    {"features": _random(2, 6, 3), "coordinates": _random(2, 6, 2)},
  ),
  ("arrays", {}, {"features": _IMAGES[0], "coordinates": _random(8, 2)}),
  ("grouped", {}, _IMAGES),
  ("label", {}, _random(2, 5)),
)


def test_all_adapters_are_compared():
  kinds = {kind for kind, *_ in _ADAPTERS} | {"multimodal"}
  assert kinds == set(zoo.ADAPTERS)


@pytest.mark.parametrize(
  ("kind", "arguments", "raw", "is_modality"),
  [
    (*adapter, is_modality)
    for adapter in _ADAPTERS
    for is_modality in (False, True)
    # The inputs of "grouped" are no array, so that it can't be a modality.
    if not is_modality or adapter[0] != "grouped"
  ],
)
def test_bfloat16_inputs_agree_with_float32_to_its_precision(
  kind, arguments, raw, is_modality
):
  def make(raw):
    adapter = zoo.ADAPTERS[kind](**arguments)
    if is_modality:
      adapter, raw = zoo.ADAPTERS["multimodal"]({"x": adapter}), {"x": raw}
    return inputs.of_adapter(adapter, raw, is_training=True)

  model = hk.without_apply_rng(hk.transform(make))
  raw = jax.device_put(raw)
  params = model.init(jax.random.key(1), raw)
  expected = model.apply(params, raw)
  with precision("bfloat16"):
    out = model.apply(params, raw)

  def check(x, y):
    np.testing.assert_allclose(
      np.asarray(x, np.float32), y, rtol=0, atol=2**-7 * np.abs(y).max()
    )

  jax.tree.map(check, out, expected)


@pytest.mark.parametrize("name", ["float16", "", "bf16"])
def test_the_error_for_an_unknown_precision_lists_the_choices(
  tiny_config, name
):
  message = rf"config\.precision is '{name}'; choose one of float32, bfloat16"
  with pytest.raises(UserError, match=message), precision(name):
    pass
  with pytest.raises(UserError, match=message):
    Traced(tiny_config, name)


def policies():
  kinds = (perceiver.Perceiver, layers.LayerNorm, hk.BatchNorm)
  return [hk.mixed_precision.get_policy(kind) for kind in kinds]


@pytest.mark.parametrize("name", PRECISIONS)
def test_policies_are_restored_after_an_error(name):
  before = policies()
  with pytest.raises(KeyError), precision(name):
    raise KeyError
  assert policies() == before


@pytest.mark.usefixtures("quick_compile")
def test_bfloat16_agrees_with_float32_to_its_precision(tiny_config):
  task = tasks.make_task(tiny_config)
  image = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
  batch = {**task.dummy_batch(), "image": image}
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32),
    Traced(tiny_config, "float32").state.params,
  )
  logits = {}
  for name in PRECISIONS:
    apply = jax.jit(step.model_of(task, name).apply, static_argnums=4)
    logits[name] = np.asarray(apply(params, {}, None, batch, False)[0].logits)
  np.testing.assert_allclose(*logits.values(), rtol=0.05, atol=0.05)
  assert np.ptp(logits["float32"]) > 0.5
  assert (logits["float32"] != logits["bfloat16"]).any()
