"""Tests of the encoder."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp
from small import ENCODER

from perceiver_jax.models import encoder as encoder_lib
from perceiver_jax.models.ops.execution import Execution

_few = settings(max_examples=10, deadline=None)
_BATCH, _ELEMENTS, _CHANNELS = 2, 6, 5


def _inputs(seed=0):
  return plain.normal(_BATCH, _ELEMENTS, _CHANNELS, seed=seed)


@functools.cache
def _encoder():
  """Returns a small compiled encoder: latents, weights, gradient of inputs."""

  def make(inputs, mask):
    encoder = encoder_lib.PerceiverEncoder(ENCODER, name="encoder")
    return encoder(inputs, mask, return_attention=True)

  model = plain.transform(make)
  everything = jnp.ones((_BATCH, _ELEMENTS), bool)
  params = plain.random_params(model, _inputs(), everything)
  cotangent = plain.normal(_BATCH, 3, 4, seed=9)

  @jax.jit
  def run(inputs, mask):
    def loss(inputs):
      latents, weights = model.apply(params, inputs, mask)
      return (latents * cotangent).sum(), (latents, weights)

    grad, (latents, weights) = jax.grad(loss, has_aux=True)(inputs)
    return latents, weights, grad

  return run


@_few
@given(st.permutations(range(_ELEMENTS)), st.integers(0, 99))
def test_the_encoder_is_invariant_to_the_order_of_elements(order, seed):
  inputs, order = _inputs(seed), np.asarray(order)
  mask = np.random.default_rng(seed).random((_BATCH, _ELEMENTS)) < 0.7
  mask = jnp.asarray(mask)
  latents, weights, _ = _encoder()(inputs, mask)
  permuted, weights_too, _ = _encoder()(inputs[:, order], mask[:, order])
  np.testing.assert_allclose(permuted, latents, atol=1e-5)
  for before, after in zip(weights, weights_too, strict=True):
    np.testing.assert_allclose(after, before[..., order], atol=1e-5)


@_few
@given(st.integers(0, 99), st.sampled_from([3e38, -3e38, 1e10, np.nan]))
def test_masked_elements_have_no_effect_even_if_not_finite(seed, garbage):
  inputs = _inputs(seed)
  rng = np.random.default_rng(seed)
  real = rng.random((_BATCH, _ELEMENTS)) < 0.6
  signs = rng.choice([-1.0, 0.5, 1.0], inputs.shape)
  corrupted = np.where(real[..., None], inputs, garbage * signs)
  run = _encoder()
  expected, expected_weights, expected_grad = run(inputs, jnp.asarray(real))
  out, weights, grad = run(
    jnp.asarray(corrupted, jnp.float32), jnp.asarray(real)
  )
  np.testing.assert_array_equal(out, expected)
  jax.tree.map(np.testing.assert_array_equal, weights, expected_weights)
  np.testing.assert_array_equal(grad, expected_grad)
  assert not np.any(np.asarray(grad)[~real])
  assert not real.any() or np.any(np.asarray(grad)[real])


def test_a_padded_input_gives_the_same_latents_as_the_short_one():
  run, inputs = _encoder(), _inputs()
  short = inputs[:, :4]
  expected, _, _ = run(short, jnp.ones((_BATCH, 4), bool))
  mask = jnp.broadcast_to(jnp.arange(_ELEMENTS) < 4, (_BATCH, _ELEMENTS))
  out, weights, _ = run(inputs, mask)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  for w in weights:
    assert w.shape == (_BATCH, 1, 3, _ELEMENTS)
    np.testing.assert_allclose(w.sum(-1), 1, atol=1e-6)
    assert not np.any(w[..., 4:])
  everything, _, _ = run(inputs, jnp.ones_like(mask))
  assert np.abs(everything - out).max() > 1e-2


def test_an_example_without_elements_is_finite_and_affects_no_other():
  run, inputs = _encoder(), _inputs()
  mask = np.ones((_BATCH, _ELEMENTS), bool)
  expected, _, _ = run(inputs, jnp.asarray(mask))
  mask[1] = False
  out, weights, grad = run(inputs, jnp.asarray(mask))
  np.testing.assert_allclose(out[0], expected[0], atol=1e-5)
  assert np.isfinite(out).all()
  assert np.isfinite(grad).all()
  assert not any(np.any(w[1]) for w in weights)
  assert not np.any(grad[1])
  assert np.any(grad[0])


def _encoder_model(**changes):
  config = ENCODER._replace(**changes)
  return plain.transform(
    lambda x: encoder_lib.PerceiverEncoder(config, name="encoder")(x)[0]
  )


def _shapes(**changes):
  model = _encoder_model(**changes)
  return jax.eval_shape(model.init, jax.random.key(0), _inputs())


def _parts(params):
  """Returns the cross-attends and blocks that have parameters."""
  return {m.split("/")[1] for m in params} - {"latents"}


def _size(params):
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ("share", "cross_attends"),
  [
    ("all", {"cross_attend_0"}),
    ("after_first", {"cross_attend_0", "cross_attend_1"}),
    ("none", {f"cross_attend_{i}" for i in range(4)}),
  ],
)
@pytest.mark.parametrize("share_blocks", [True, False])
def test_shared_modules_have_one_set_of_parameters(
  share, cross_attends, share_blocks
):
  params = _shapes(
    num_cross_attends=4,
    num_blocks=4,
    share_cross_attends=share,
    share_blocks=share_blocks,
  )
  block_names = {f"block_{i}" for i in range(1 if share_blocks else 4)}
  assert _parts(params) == cross_attends | block_names


def test_parameters_of_a_cross_attend_and_a_block_keep_names_and_shapes():
  # Checkpoints hold these names; changing one makes old checkpoints unreadable.
  params = _shapes(num_cross_attends=1, num_self_attends_per_block=3)
  linear = lambda rows, columns: {"w": (rows, columns), "b": (columns,)}
  norm = lambda size: {"scale": (size,), "offset": (size,)}
  cross = {
    "query_norm": norm(4),
    "input_norm": norm(5),
    "attention/query": linear(4, 5),
    "attention/key": linear(5, 5),
    "attention/value": linear(5, 5),
    "attention/output": linear(5, 4),
    "mlp_norm": norm(4),
    "mlp/hidden": linear(4, 4),
    "mlp/output": linear(4, 4),
  }
  stacked = {
    "attention_norm": norm(4),
    "mlp_norm": norm(4),
    "mlp/hidden": linear(4, 4),
    "mlp/output": linear(4, 4),
  }
  for name in ("query", "key", "value", "output"):
    stacked[f"attention/{name}"] = linear(4, 4)
  expected = {"encoder/latents": {"embeddings": (3, 4)}}
  expected |= {f"encoder/cross_attend_0/{k}": v for k, v in cross.items()}
  expected |= {
    f"encoder/block_0/layers/self_attend/{k}": {
      leaf: (3, *shape) for leaf, shape in v.items()
    }
    for k, v in stacked.items()
  }
  assert jax.tree.map(lambda x: x.shape, params) == expected


def test_sharing_makes_no_difference_to_a_single_cross_attend():
  sizes = {
    share: _size(_shapes(num_cross_attends=1, share_cross_attends=share))
    for share in encoder_lib.SHARING
  }
  assert len(set(sizes.values())) == 1


def _unshare(params, num_blocks, num_cross_attends, first):
  """Copies shared parameters to the names that unshared modules have."""
  out = {"encoder/latents": params["encoder/latents"]}
  for module, leaves in params.items():
    _, part, *rest = module.split("/")
    kind, _, index = part.rpartition("_")
    count = {"block": num_blocks, "cross_attend": num_cross_attends}.get(kind)
    if not count:
      continue
    first_kept = kind == "cross_attend" and first
    copies = range(int(index), count)
    copies = [0] if first_kept and index == "0" else copies
    for i in copies:
      out["/".join(["encoder", f"{kind}_{i}", *rest])] = leaves
  return out


@pytest.mark.parametrize("share", ["after_first", "all"])
def test_shared_weights_equal_copies_whose_gradients_are_summed(share):
  shared = _encoder_model(
    num_blocks=3, num_cross_attends=3, share_cross_attends=share
  )
  unshared = _encoder_model(
    num_blocks=3,
    num_cross_attends=3,
    share_cross_attends="none",
    share_blocks=False,
  )
  inputs = _inputs()
  params = plain.random_params(shared, inputs)
  unshare = functools.partial(
    _unshare, num_blocks=3, num_cross_attends=3, first=share == "after_first"
  )
  assert jax.tree.structure(unshare(params)) == jax.tree.structure(
    jax.eval_shape(unshared.init, jax.random.key(0), inputs)
  )
  cotangent = plain.normal(_BATCH, 3, 4, seed=9)

  def run(apply):
    loss = lambda p: (apply(p) * cotangent).sum()
    return jax.jit(jax.value_and_grad(loss))(params)

  value, grads = run(lambda p: shared.apply(p, inputs))
  expected, expected_grads = run(lambda p: unshared.apply(unshare(p), inputs))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    grads,
    expected_grads,
  )


def _order_of_use(**changes):
  """Returns the cross-attends and blocks in the order in which they run."""
  used = []

  def note(next_f, args, kwargs, context):
    if context.method_name == "__call__":
      _, *part = context.module.module_name.split("/")
      used.extend(part if len(part) == 1 else [])
    return next_f(*args, **kwargs)

  def make(x):
    with hk.intercept_methods(note):
      config = ENCODER._replace(**changes)
      return encoder_lib.PerceiverEncoder(config, name="encoder")(x)[0]

  jax.eval_shape(plain.transform(make).init, jax.random.key(0), _inputs())
  short = {"cross_attend": "x", "block": "b"}
  split = [name.rpartition("_") for name in used if name[-1].isdigit()]
  return " ".join(short[kind] + index for kind, _, index in split)


_UNSHARED = {"share_cross_attends": "none", "share_blocks": False}


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"num_cross_attends": 1, "num_blocks": 3, **_UNSHARED}, "x0 b0 b1 b2"),
    (
      {"num_cross_attends": 2, "num_blocks": 4, **_UNSHARED},
      "x0 b0 b1 x1 b2 b3",
    ),
    (
      {"num_cross_attends": 3, "num_blocks": 3, **_UNSHARED},
      "x0 b0 x1 b1 x2 b2",
    ),
    (
      {
        "num_cross_attends": 3,
        "num_blocks": 2,
        "cross_attend_placement": "start",
        **_UNSHARED,
      },
      "x0 x1 x2 b0 b1",
    ),
    ({"num_cross_attends": 3, "num_blocks": 3}, "x0 b0 x1 b0 x1 b0"),
    (
      {
        "num_cross_attends": 2,
        "num_blocks": 2,
        "share_cross_attends": "all",
        "share_blocks": False,
      },
      "x0 b0 x0 b1",
    ),
    ({"num_cross_attends": 0, "num_blocks": 2}, "b0 b0"),
  ],
)
def test_cross_attends_and_blocks_run_in_the_configured_order(
  changes, expected
):
  assert _order_of_use(**changes) == expected


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"num_cross_attends": 3}, "3 cross-attends cannot be .* with 2 blocks"),
    (
      {"num_blocks": 0, "cross_attend_placement": "start"},
      "2 cross-attends need a block that follows them: raise num_blocks",
    ),
    (
      {"cross_attend_placement": "end"},
      "cross_attend_placement 'end': choose one of interleaved, start",
    ),
    (
      {"share_cross_attends": "some"},
      "share_cross_attends 'some': choose one of after_first, all, none",
    ),
    ({"shape_for_attn": "v"}, "'v': use 'kv' or 'q'"),
    ({"num_self_attend_heads": 3}, "3 heads do not divide 4 query/key"),
    ({"num_cross_attend_heads": 2}, "2 heads do not divide 5 query/key"),
    ({"v_channels": 7, "num_self_attend_heads": 4}, "4 heads .* 7 value"),
  ],
)
def test_invalid_encoder_configs_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    _shapes(**changes)


def test_bfloat16_models_compute_the_softmax_in_float32():
  inputs = _inputs().astype(jnp.bfloat16)
  model = _encoder_model()
  params = plain.random_params(model, _inputs())
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  jaxpr = jax.make_jaxpr(model.apply)(half, inputs)
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16
  dtypes = _dtypes_of("exp", jaxpr.jaxpr)
  # Two in each of two cross-attends (weights, and the rescaling of the online
  # softmax), one in the self-attend of each of two blocks.
  assert len(dtypes) == 6
  assert set(dtypes) == {jnp.dtype("float32")}


def _dtypes_of(primitive, jaxpr):
  """Returns the types of all results of `primitive`, nested calls included."""
  dtypes = []
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == primitive:
      dtypes.append(eqn.outvars[0].aval.dtype)
    for value in eqn.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        dtypes += _dtypes_of(primitive, inner)
  return dtypes


def _operations(num_blocks, cross_attends, **choices):
  """Returns operations by XLA, which counts the body of a loop once."""
  config = ENCODER._replace(
    num_blocks=num_blocks, num_cross_attends=min(cross_attends, num_blocks)
  )
  model = plain.transform(
    lambda x: encoder_lib.PerceiverEncoder(
      config, Execution(**choices), name="encoder"
    )(x)[0]
  )
  params = jax.eval_shape(model.init, jax.random.key(0), _inputs())
  lowered = jax.jit(model.apply).lower(params, _inputs())
  return lowered.compile().cost_analysis()["flops"]


# Without cross-attends, with one, and with a shared one before every block.
@pytest.mark.parametrize("cross_attends", [0, 1, 8])
def test_shared_blocks_and_cross_attends_are_compiled_once(cross_attends):
  many, few = (_operations(n, cross_attends) for n in (8, 4))
  assert many == pytest.approx(few, rel=0.01)


def test_without_loops_every_block_and_cross_attend_is_compiled():
  many, few = (_operations(n, n, scan_layers=False) for n in (4, 2))
  assert many > 1.5 * few
