"""The encoder and the decoders: what they ignore, share and start from."""

import functools

import haiku as hk
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import decoders, perceiver
from perceiver_jax.models import encoder as encoder_lib
from perceiver_jax.models.ops.execution import Execution

_few = settings(max_examples=10, deadline=None)
_SMALL = encoder_lib.EncoderConfig(
  num_latents=3,
  num_latent_channels=4,
  num_blocks=2,
  num_self_attends_per_block=1,
  num_cross_attends=2,
  num_self_attend_heads=2,
)
_BATCH, _ELEMENTS, _CHANNELS = 2, 6, 5


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def _inputs(seed=0):
  return _normal(_BATCH, _ELEMENTS, _CHANNELS, seed=seed)


def _random_params(model, *args):
  """Parameters away from their special first values: each one matters."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(model.init, jax.random.key(0), *args),
  )


def _transform(make):
  return hk.without_apply_rng(hk.transform(make))


@functools.cache
def _encoder():
  """The small encoder, compiled: latents, weights, gradient for inputs."""

  def make(inputs, mask):
    encoder = encoder_lib.PerceiverEncoder(_SMALL, name="encoder")
    return encoder(inputs, mask, return_attention=True)

  model = _transform(make)
  everything = jnp.ones((_BATCH, _ELEMENTS), bool)
  params = _random_params(model, _inputs(), everything)
  cotangent = _normal(_BATCH, 3, 4, seed=9)

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
def test_order_of_elements_does_not_matter(order, seed):
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
def test_masked_elements_do_nothing(seed, garbage):
  inputs = _inputs(seed)
  rng = np.random.default_rng(seed)
  real = rng.random((_BATCH, _ELEMENTS)) < 0.6
  signs = rng.choice([-1.0, 0.5, 1.0], inputs.shape)
  spoilt = np.where(real[..., None], inputs, garbage * signs)
  run = _encoder()
  want, want_weights, want_grad = run(inputs, jnp.asarray(real))
  out, weights, grad = run(jnp.asarray(spoilt, jnp.float32), jnp.asarray(real))
  np.testing.assert_array_equal(out, want)
  jax.tree.map(np.testing.assert_array_equal, weights, want_weights)
  np.testing.assert_array_equal(grad, want_grad)
  assert not np.any(np.asarray(grad)[~real])
  assert not real.any() or np.any(np.asarray(grad)[real])


def test_padding_gives_what_the_short_input_gives():
  run, inputs = _encoder(), _inputs()
  short = inputs[:, :4]
  want, _, _ = run(short, jnp.ones((_BATCH, 4), bool))
  mask = jnp.broadcast_to(jnp.arange(_ELEMENTS) < 4, (_BATCH, _ELEMENTS))
  out, weights, _ = run(inputs, mask)
  np.testing.assert_allclose(out, want, atol=1e-5)
  for w in weights:
    assert w.shape == (_BATCH, 1, 3, _ELEMENTS)
    np.testing.assert_allclose(w.sum(-1), 1, atol=1e-6)
    assert not np.any(w[..., 4:])
  everything, _, _ = run(inputs, jnp.ones_like(mask))
  assert np.abs(everything - out).max() > 1e-2


def test_example_without_elements_stays_finite_and_alone():
  run, inputs = _encoder(), _inputs()
  mask = np.ones((_BATCH, _ELEMENTS), bool)
  want, _, _ = run(inputs, jnp.asarray(mask))
  mask[1] = False
  out, weights, grad = run(inputs, jnp.asarray(mask))
  np.testing.assert_allclose(out[0], want[0], atol=1e-5)
  assert np.isfinite(out).all()
  assert np.isfinite(grad).all()
  assert not any(np.any(w[1]) for w in weights)
  assert not np.any(grad[1])
  assert np.any(grad[0])


@functools.cache
def _decoder():
  """A compiled query decoder with 5 queries of 6 channels."""
  make = lambda queries, latents, mask: decoders.QueryDecoder(
    3, num_heads=2, qk_channels=6, v_channels=4, name="decoder"
  )(queries, latents, mask, True)
  model = _transform(make)
  queries, latents = _normal(2, 5, 6), _normal(2, 3, 4, seed=1)
  params = _random_params(model, queries, latents, jnp.ones((2, 5), bool))

  @jax.jit
  def run(queries, mask):
    def loss(queries):
      out, weights = model.apply(params, queries, latents, mask)
      # The gradient of the first query's output with respect to them all.
      return out[:, 0].sum(), (out, weights)

    return jax.grad(loss, has_aux=True)(queries)

  return run


@_few
@given(st.integers(0, 4), st.integers(1, 99))
def test_an_output_depends_on_its_own_query_only(which, seed):
  queries, everything = _normal(2, 5, 6), jnp.ones((2, 5), bool)
  others = _normal(2, 5, 6, seed=seed).at[:, which].set(queries[:, which])
  grad, (out, weights) = _decoder()(queries, everything)
  _, (out_too, _) = _decoder()(others, everything)
  assert out.shape == (2, 5, 3)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(out_too[:, which], out[:, which], atol=1e-5)
  assert np.abs(np.delete(out_too - out, which, 1)).min(-1).max() > 1e-3
  assert not np.any(grad[:, 1:])
  assert np.any(grad[:, 0])


def test_masked_queries_read_nothing_and_leave_the_others():
  queries = _normal(2, 5, 6)
  mask = jnp.ones((2, 5), bool).at[1, 0].set(False)
  _, (want, _) = _decoder()(queries, jnp.ones_like(mask))
  grad, (out, weights) = _decoder()(queries, mask)
  np.testing.assert_allclose(out[0], want[0], atol=1e-5)
  np.testing.assert_allclose(out[1, 1:], want[1, 1:], atol=1e-5)
  assert np.abs(out[1, 0] - want[1, 0]).max() > 1e-3
  assert not np.any(weights[1, :, 0])
  assert np.isfinite(grad).all()


def _encoder_model(**changes):
  config = _SMALL._replace(**changes)
  return _transform(
    lambda x: encoder_lib.PerceiverEncoder(config, name="encoder")(x)[0]
  )


def _shapes(**changes):
  model = _encoder_model(**changes)
  return jax.eval_shape(model.init, jax.random.key(0), _inputs())


def _parts(params):
  """The cross-attends and blocks that have parameters."""
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
def test_what_is_shared_has_one_set_of_parameters(
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


def test_parameter_names_and_shapes_of_one_of_each():
  # Names are what checkpoints hold: changing one breaks reading old ones.
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
  want = {"encoder/latents": {"embeddings": (3, 4)}}
  want |= {f"encoder/cross_attend_0/{k}": v for k, v in cross.items()}
  want |= {
    f"encoder/block_0/layers/self_attend/{k}": {
      leaf: (3, *shape) for leaf, shape in v.items()
    }
    for k, v in stacked.items()
  }
  assert jax.tree.map(lambda x: x.shape, params) == want


def test_sharing_more_than_one_of_one_changes_nothing():
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
def test_shared_weights_equal_copies_and_add_their_gradients(share):
  shared = _encoder_model(
    num_blocks=3, num_cross_attends=3, share_cross_attends=share
  )
  apart = _encoder_model(
    num_blocks=3,
    num_cross_attends=3,
    share_cross_attends="none",
    share_blocks=False,
  )
  inputs = _inputs()
  params = _random_params(shared, inputs)
  spread = functools.partial(
    _unshare, num_blocks=3, num_cross_attends=3, first=share == "after_first"
  )
  assert jax.tree.structure(spread(params)) == jax.tree.structure(
    jax.eval_shape(apart.init, jax.random.key(0), inputs)
  )
  cotangent = _normal(_BATCH, 3, 4, seed=9)

  def run(apply):
    loss = lambda p: (apply(p) * cotangent).sum()
    return jax.jit(jax.value_and_grad(loss))(params)

  value, grads = run(lambda p: shared.apply(p, inputs))
  want, want_grads = run(lambda p: apart.apply(spread(p), inputs))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    grads,
    want_grads,
  )


def _order_of_use(**changes):
  """Names of the cross-attends and blocks in the order they run."""
  used = []

  def note(next_f, args, kwargs, context):
    if context.method_name == "__call__":
      _, *part = context.module.module_name.split("/")
      used.extend(part if len(part) == 1 else [])
    return next_f(*args, **kwargs)

  def make(x):
    with hk.intercept_methods(note):
      config = _SMALL._replace(**changes)
      return encoder_lib.PerceiverEncoder(config, name="encoder")(x)[0]

  jax.eval_shape(_transform(make).init, jax.random.key(0), _inputs())
  short = {"cross_attend": "x", "block": "b"}
  split = [name.rpartition("_") for name in used if name[-1].isdigit()]
  return " ".join(short[kind] + index for kind, _, index in split)


_APART = {"share_cross_attends": "none", "share_blocks": False}


@pytest.mark.parametrize(
  ("changes", "want"),
  [
    ({"num_cross_attends": 1, "num_blocks": 3, **_APART}, "x0 b0 b1 b2"),
    ({"num_cross_attends": 2, "num_blocks": 4, **_APART}, "x0 b0 b1 x1 b2 b3"),
    ({"num_cross_attends": 3, "num_blocks": 3, **_APART}, "x0 b0 x1 b1 x2 b2"),
    (
      {
        "num_cross_attends": 3,
        "num_blocks": 2,
        "cross_attend_placement": "start",
        **_APART,
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
def test_schedule(changes, want):
  assert _order_of_use(**changes) == want


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"num_cross_attends": 3}, "3 cross-attends cannot be .* with 2 blocks"),
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
def test_bad_sizes_are_errors(changes, message):
  with pytest.raises(ValueError, match=message):
    _shapes(**changes)


def test_start_of_latents_and_of_a_query_decoder():
  config = _SMALL._replace(
    num_latents=100, num_latent_channels=100, num_blocks=0, num_cross_attends=0
  )

  def make():
    encoder = encoder_lib.PerceiverEncoder(config, name="encoder")
    latents, _ = encoder(jnp.zeros((2, 1, 1)))
    decoder = decoders.QueryDecoder(5, zero_init=True, name="decoder")
    return latents, decoder(jnp.ones((2, 3, 4)), latents)[0]

  params = jax.jit(hk.transform(make).init)(jax.random.key(0))
  table = np.asarray(params["encoder/latents"]["embeddings"])
  # 0.02 is the deviation of the normal before it is cut at two deviations.
  assert abs(table.std() / (0.8796 * 0.02) - 1) < 0.03
  assert 0.0395 < np.abs(table).max() <= 0.04
  latents, out = jax.jit(_transform(make).apply)(params)
  np.testing.assert_array_equal(latents, np.stack([table, table]))
  assert not np.any(out)
  assert np.any(params["decoder/cross_attend/attention/query"]["w"])


def test_projection_of_a_query_decoder_can_be_left_out():
  make = lambda q, z: decoders.QueryDecoder(0, name="decoder")(q, z)[0]
  model, args = _transform(make), (_normal(2, 5, 6), _normal(2, 3, 4))
  params = jax.eval_shape(model.init, jax.random.key(0), *args)
  assert jax.eval_shape(model.apply, params, *args).shape == (2, 5, 6)
  assert not any(module.startswith("decoder/output") for module in params)


def test_average_decoder_starts_at_zero_and_averages_first():
  make = lambda z: decoders.AverageAndProjectDecoder(3, name="decoder")(
    z, return_attention=True
  )
  model, latents = _transform(make), _normal(2, 5, 4)
  params = model.init(jax.random.key(0), latents)
  out, weights = model.apply(params, latents)
  assert out.shape == (2, 3)
  assert not np.any(out)
  np.testing.assert_allclose(weights, np.full((2, 1, 1, 5), 0.2))
  params = _random_params(model, latents)
  leaf = params["decoder/output"]
  want = np.asarray(latents).mean(1) @ leaf["w"] + leaf["b"]
  np.testing.assert_allclose(model.apply(params, latents)[0], want, atol=1e-5)


def _classifier(attention):
  def make(inputs, mask):
    model = perceiver.Perceiver(
      lambda x, is_training: x,
      encoder_lib.PerceiverEncoder(_SMALL, name="encoder"),
      decoders.ClassificationDecoder(7, 6, name="decoder"),
    )
    return model(
      inputs,
      is_training=False,
      input_mask=mask,
      return_attention=attention,
    )

  return _transform(make)


def test_attention_is_returned_on_request_and_needs_no_parameters():
  inputs = _inputs()
  mask = jnp.ones((_BATCH, _ELEMENTS), bool).at[:, -1].set(False)
  params = _random_params(_classifier(False), inputs, mask)
  plain = jax.jit(_classifier(False).apply)(params, inputs, mask)
  asked = jax.jit(_classifier(True).apply)(params, inputs, mask)
  assert plain.encoder_attention == ()
  assert plain.decoder_attention is None
  assert [w.shape for w in asked.encoder_attention] == [(2, 1, 3, 6)] * 2
  assert asked.decoder_attention.shape == (2, 1, 1, 3)
  for weights in (*asked.encoder_attention, asked.decoder_attention):
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  assert not any(np.any(w[..., -1]) for w in asked.encoder_attention)
  assert asked.logits.shape == (_BATCH, 7)
  np.testing.assert_allclose(asked.logits, plain.logits, atol=1e-5)


def test_bfloat16_goes_through_with_float32_softmax():
  inputs = _inputs().astype(jnp.bfloat16)
  model = _encoder_model()
  params = _random_params(model, _inputs())
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  jaxpr = jax.make_jaxpr(model.apply)(half, inputs)
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16
  dtypes = _dtypes_of("exp", jaxpr.jaxpr)
  # Two in each of two cross-attends (weights and what the sums so far keep),
  # one in each of two blocks' self-attends.
  assert len(dtypes) == 6
  assert set(dtypes) == {jnp.dtype("float32")}


def _dtypes_of(primitive, jaxpr):
  """Dtypes of every result of `primitive`, nested calls included."""
  found = []
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == primitive:
      found.append(eqn.outvars[0].aval.dtype)
    for value in eqn.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        found += _dtypes_of(primitive, inner)
  return found


# Shared blocks alone, and each with a shared cross-attend before it.
@pytest.mark.parametrize("cross_attends", [0, 1, 8])
def test_repeated_stages_are_one_loop_whatever_their_number(cross_attends):
  def operations(num_blocks, **choices):
    """By XLA, which counts the body of a loop once."""
    config = _SMALL._replace(
      num_blocks=num_blocks,
      num_cross_attends=min(cross_attends, num_blocks),
    )
    model = _transform(
      lambda x: encoder_lib.PerceiverEncoder(
        config, Execution(**choices), name="encoder"
      )(x)[0]
    )
    params = jax.eval_shape(model.init, jax.random.key(0), _inputs())
    lowered = jax.jit(model.apply).lower(params, _inputs())
    return lowered.compile().cost_analysis()["flops"]

  assert operations(8) == pytest.approx(operations(4), rel=0.01)
  many, few = (operations(n, scan_layers=False) for n in (8, 4))
  assert many > 1.5 * few


def test_latents_and_initial_latents_together_are_refused():
  model = hk.transform(
    lambda: perceiver.Perceiver(len, len, len)(
      None,
      is_training=False,
      latents=jnp.zeros((1, 2, 3)),
      initial_latents=jnp.zeros((2, 3)),
    )
  )
  with pytest.raises(ValueError, match="give one"):
    model.init(jax.random.key(0))
