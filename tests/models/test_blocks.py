"""Blocks against plain numpy; the scanned stack; how parameters start."""

import contextlib
import functools

import haiku as hk
import jax
import numpy as np
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

from perceiver_jax.models import attention, blocks, flops
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.ops import absorbed_projections, depth
from perceiver_jax.models.ops.execution import CHOICES, PLAIN, Execution


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def _random_params(model, *args):
  """Parameters away from their special first values: each one matters."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype),
    jax.eval_shape(model.init, jax.random.key(0), *args),
  )


def _build(fn, *args):
  model = hk.without_apply_rng(hk.transform(fn))
  return jax.jit(model.apply), _random_params(model, *args)


class _Numpy:
  """The blocks by their definitions, in float64 on our parameters."""

  def __init__(self, params, prefix):
    self.params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    self.prefix = prefix

  def linear(self, name, x):
    leaf = self.params[f"{self.prefix}/{name}"]
    return x @ leaf["w"] + leaf["b"]

  def norm(self, name, x):
    leaf = self.params[f"{self.prefix}/{name}"]
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    normed = (x - mean) / np.sqrt(variance + 1e-5)
    return normed * leaf["scale"] + leaf["offset"]

  def attend(self, q, kv, heads):
    split = lambda x: x.reshape(*x.shape[:2], heads, -1)
    q = split(self.linear("attention/query", q))
    k = split(self.linear("attention/key", kv))
    v = split(self.linear("attention/value", kv))
    logits = np.einsum("bnhf,bmhf->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits)
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhnm,bmhv->bnhv", weights, v)
    out = out.reshape(*out.shape[:2], -1)
    return self.linear("attention/output", out), weights

  def mlp(self, x):
    h = self.linear("mlp/hidden", x)
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return self.linear("mlp/output", h)


def test_self_attention_normalises_first_then_adds():
  make = lambda x: blocks.SelfAttention(2, 4, 10, 3, name="layer")(x)
  x = _normal(2, 3, 6)
  apply, params = _build(make, x)
  plain = _Numpy(params, "layer")
  want = np.asarray(x, np.float64)
  normed = plain.norm("attention_norm", want)
  want = want + plain.attend(normed, normed, 2)[0]
  want = want + plain.mlp(plain.norm("mlp_norm", want))
  np.testing.assert_allclose(apply(params, x), want, atol=1e-4)
  weights = {m: x["w"] for m, x in params.items() if "w" in x}
  shapes = {module: w.shape for module, w in weights.items()}
  assert shapes == {
    "layer/attention/query": (6, 4),
    "layer/attention/key": (6, 4),
    "layer/attention/value": (6, 10),
    "layer/attention/output": (10, 6),
    "layer/mlp/hidden": (6, 18),
    "layer/mlp/output": (18, 6),
  }


@pytest.mark.parametrize("residual", [True, False])
def test_cross_attention_with_and_without_query_residual(residual):
  def make(query, inputs):
    layer = blocks.CrossAttention(
      1, use_query_residual=residual, widening_factor=2, name="layer"
    )
    return layer(query, inputs, return_attention=True)

  query, inputs = _normal(2, 3, 4), _normal(2, 5, 7, seed=2)
  apply, params = _build(make, query, inputs)
  plain = _Numpy(params, "layer")
  q, kv = (np.asarray(x, np.float64) for x in (query, inputs))
  want, want_weights = plain.attend(
    plain.norm("query_norm", q), plain.norm("input_norm", kv), 1
  )
  want = want + q if residual else want
  want = want + plain.mlp(plain.norm("mlp_norm", want))
  out, weights = apply(params, query, inputs)
  np.testing.assert_allclose(out, want, atol=1e-4)
  np.testing.assert_allclose(weights, want_weights, atol=1e-5)


def _cross_widths(**kwargs):
  """Widths (query, value) of a cross-attend from 4 to 6 channels."""
  layer = lambda q, x: blocks.CrossAttention(name="x", **kwargs)(q, x)[0]
  model = hk.transform(layer)
  params = jax.eval_shape(
    model.init, jax.random.key(0), _normal(1, 2, 4), _normal(1, 3, 6)
  )
  assert params["x/attention/query"]["w"].shape[0] == 4
  assert params["x/attention/output"]["w"].shape[1] == 4
  return tuple(
    params[f"x/attention/{leaf}"]["w"].shape[1] for leaf in ("key", "value")
  )


def test_default_widths_of_cross_attention():
  assert _cross_widths() == (6, 6)
  assert _cross_widths(shape_for_attn="q") == (4, 4)
  assert _cross_widths(qk_channels=3) == (3, 3)
  assert _cross_widths(v_channels=5) == (6, 5)
  assert _cross_widths(qk_channels=8, v_channels=2, num_heads=2) == (8, 2)


def test_asking_for_weights_changes_neither_parameters_nor_output():
  make = lambda weights: (
    lambda q, x: blocks.CrossAttention(name="x")(q, x, return_attention=weights)
  )
  q, x = _normal(1, 2, 4), _normal(1, 3, 6)
  apply, params = _build(make(False), q, x)
  apply_too, params_too = _build(make(True), q, x)
  jax.tree.map(np.testing.assert_array_equal, params, params_too)
  out, nothing = apply(params, q, x)
  assert nothing is None
  np.testing.assert_allclose(apply_too(params, q, x)[0], out, atol=1e-6)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ((3, 8, 9, 8), "3 heads do not divide 8 query/key channels"),
    ((3, 9, 8, 8), "3 heads do not divide 8 value channels"),
    ((0, 8, 8, 8), "0 heads"),
  ],
)
def test_heads_divide_both_widths(sizes, message):
  x = _normal(1, 2, 8)
  model = hk.transform(lambda x: attention.Attention(*sizes)(x, x))
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), x)


def test_unknown_shape_for_attn_names_the_choices():
  model = hk.transform(lambda: blocks.CrossAttention(shape_for_attn="v"))
  with pytest.raises(ValueError, match=r"'v': use 'kv' or 'q'"):
    model.init(jax.random.key(0))


def test_initialisers():
  make = lambda x: blocks.SelfAttention(4, widening_factor=2, name="l")(x)
  init = jax.jit(hk.transform(make).init)
  params = init(jax.random.key(0), _normal(1, 2, 96))
  for module, leaves in params.items():
    if "scale" in leaves:
      assert np.all(leaves["scale"] == 1), module
      assert not np.any(leaves["offset"]), module
      continue
    assert not np.any(leaves["b"]), module
    weights = np.asarray(leaves["w"])
    std = weights.shape[0] ** -0.5
    assert abs(weights.std() / std - 1) < 0.04, module
    assert abs(weights.mean()) < 0.05 * std, module
    # Truncated at two standard deviations of the normal before correction.
    assert np.abs(weights).max() < 2.28 * std, module
    assert np.abs(weights).max() > 2.1 * std, module


def _layer():
  return blocks.SelfAttention(2, name="self_attend")


@functools.cache
def _stack(remat, calls=1):
  """A compiled block of three layers: value and gradient, and parameters."""

  def make(x):
    block = blocks.LatentTransformer(3, _layer, remat, name="block")
    for _ in range(calls):
      x = block(x)
    return x

  model = hk.without_apply_rng(hk.transform(make))
  x = _normal(2, 3, 4)

  def loss(params, x):
    out = model.apply(params, x)
    return jnp.square(out).sum(), out

  run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
  params = _random_params(model, x)
  return run, params, jax.make_jaxpr(run)(params, x)


def _unrolled(params, x):
  one = hk.without_apply_rng(hk.transform(lambda x: _layer()(x)))
  prefix = "block/layers/"
  assert all(module.startswith(prefix) for module in params)
  for i in range(3):
    sliced = {
      m.removeprefix(prefix): {k: v[i] for k, v in leaves.items()}
      for m, leaves in params.items()
    }
    x = one.apply(sliced, x)
  return x


def test_scan_equals_a_loop_in_value_and_gradient():
  run, params, jaxpr = _stack(False)
  x = _normal(2, 3, 4)
  grads, out = run(params, x)

  @jax.jit
  def loop(params, x):
    def loss(params, x):
      out = _unrolled(params, x)
      return jnp.square(out).sum(), out

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  want_grads, want = loop(params, x)
  np.testing.assert_allclose(out, want, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
    grads,
    want_grads,
  )
  assert "scan" in str(jaxpr)


def test_remat_recomputes_and_changes_nothing():
  run, params, jaxpr = _stack(False)
  run_remat, params_remat, jaxpr_remat = _stack(True)
  jax.tree.map(np.testing.assert_array_equal, params, params_remat)
  x = _normal(2, 3, 4)
  plain, remat = run(params, x), run_remat(params, x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    plain,
    remat,
  )
  # Whole layers: the attention's four products with weights too.
  count = lambda jaxpr: str(jaxpr).count("dot_general")
  assert count(jaxpr_remat) == count(jaxpr) + 4


def test_calling_a_block_twice_shares_its_weights():
  run, params, _ = _stack(False)
  run_twice, params_twice, _ = _stack(False, calls=2)
  jax.tree.map(np.testing.assert_array_equal, params, params_twice)
  x = _normal(2, 3, 4)
  once = run(params, x)[1]
  np.testing.assert_allclose(
    run_twice(params, x)[1], run(params, once)[1], atol=1e-5
  )


def test_layers_of_a_block_start_apart():
  make = lambda x: blocks.LatentTransformer(3, _layer, name="block")(x)
  init = jax.jit(hk.transform(make).init)
  params = init(jax.random.key(0), _normal(1, 2, 4))
  weights = params["block/layers/self_attend/mlp/hidden"]["w"]
  assert weights.shape == (3, 4, 4)
  for i, j in ((0, 1), (1, 2), (0, 2)):
    assert np.abs(weights[i] - weights[j]).max() > 0.1


def test_stacked_modules_are_told_by_their_names():
  _, params, _ = _stack(False)
  assert all(depth.is_stacked(module) for module in params)
  assert not depth.is_stacked("encoder/cross_attend_0/mlp/hidden")
  assert not depth.is_stacked("encoder/my_layers/hidden")


def test_block_of_no_layers_is_the_identity():
  make = lambda x: blocks.LatentTransformer(0, _layer)(x)
  x = _normal(1, 2, 4)
  apply, params = _build(make, x)
  assert not params
  np.testing.assert_array_equal(apply(params, x), x)


def test_cross_attention_mask_combines_both_sides():
  queries = jnp.asarray([[True, False]])
  inputs = jnp.asarray([[True, True, False]])
  assert blocks.cross_attention_mask(None, None) is None
  both = blocks.cross_attention_mask(queries, inputs)
  np.testing.assert_array_equal(both, [[[1, 1, 0], [0, 0, 0]]])
  only_inputs = blocks.cross_attention_mask(None, inputs)
  np.testing.assert_array_equal(only_inputs, [[[1, 1, 0]]])
  only_queries = blocks.cross_attention_mask(queries, None)
  np.testing.assert_array_equal(only_queries, [[[1], [0]]])


def test_query_mask_reaches_attention():
  queries, inputs = _normal(1, 2, 4), _normal(1, 3, 4)
  mask = jnp.asarray([[True, False]])

  def make(q, x):
    layer = blocks.CrossAttention(name="x")
    return layer(q, x, query_mask=mask, return_attention=True)[1]

  apply, params = _build(make, queries, inputs)
  weights = apply(params, queries, inputs)
  np.testing.assert_allclose(weights.sum(-1), [[[1, 0]]], atol=1e-6)


def _cross_attend(heads=1, residual=True, execution=PLAIN, **kwargs):
  """A Haiku model of query, data, positions (or None) and both masks."""

  def make(query, data, table, query_mask, input_mask):
    layer = blocks.CrossAttention(
      heads,
      use_query_residual=residual,
      execution=execution,
      name="x",
      **kwargs,
    )
    inputs = InputArray(data, table)
    return layer(query, inputs, query_mask, input_mask)[0]

  return hk.without_apply_rng(hk.transform(make))


@contextlib.contextmanager
def _absorbing(side):
  """Absorbs projections into "queries" or "keys", whatever it costs."""
  with pytest.MonkeyPatch.context() as patch:
    if side != "cheapest":
      patch.setattr(absorbed_projections, "cheapest", lambda **_: side)
    yield


@st.composite
def _cross_attends(draw):
  """Sizes, inputs, choices of how to compute, and logits of a chunk."""
  b, n, m = (draw(st.integers(1, largest)) for largest in (3, 4, 9))
  c, p = draw(st.sampled_from([(3, 6), (7, 0), (1, 8)]))
  e = draw(st.sampled_from([4, 5]))
  heads = draw(st.sampled_from([1, 1, 2]))
  sizes = {
    "heads": heads,
    "residual": draw(st.booleans()),
    "qk_channels": draw(st.sampled_from([2, 6])),
    "v_channels": draw(st.sampled_from([4, 8])),
  }
  random = np.random.default_rng(draw(st.integers(0, 99)))

  def mask(count):
    real = random.random((b, count)) < 0.6
    return jnp.asarray(real) if draw(st.booleans()) else None

  args = (
    _normal(draw(st.sampled_from([1, b])), n, e),
    _normal(b, m, c, seed=2),
    _normal(m, p, seed=3) if p else None,
    mask(n),
    mask(m),
  )
  execution = Execution(
    **{
      # The cuDNN kernel needs a GPU: see ops/test_cudnn.py.
      k: draw(st.sampled_from([x for x in v if x != "cudnn"]))
      for k, v in CHOICES.items()
    }
  )
  side = draw(st.sampled_from(["cheapest", "queries", "keys"]))
  return sizes, args, execution, side, b * heads * n * draw(st.integers(1, m))


@settings(max_examples=2, deadline=None)
@given(_cross_attends())
def test_cross_attends_are_equal_however_computed(case):
  _check_cross_attend(*case)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(_cross_attends())
def test_many_cross_attends_are_equal_however_computed(case):
  _check_cross_attend(*case)


def _check_cross_attend(sizes, args, execution, side, logits):
  query, data, table, *masks = args
  params = _random_params(_cross_attend(**sizes), *args)
  tables = [] if table is None else [table]
  arrays = (params, query, data, *tables)

  def apply(execution):
    model = _cross_attend(**sizes, execution=execution)
    return lambda params, query, data, table=None: model.apply(
      params, query, data, table, *masks
    )

  with in_chunks(logits), _absorbing(side):
    out = run(apply(execution), *arrays)
  assert_close(out, run(apply(PLAIN), *arrays), 1e-4)


@pytest.mark.parametrize("side", ["queries", "keys"])
def test_masked_queries_and_inputs_do_nothing_with_absorbed_projections(side):
  query_mask = jnp.asarray([[True, False], [True, True]])
  input_mask = jnp.asarray([[True] * 4 + [False], [False] * 5])
  args = (_normal(1, 2, 4), _normal(2, 5, 3), _normal(5, 4, seed=2))
  params = _random_params(_cross_attend(), *args, query_mask, input_mask)

  def apply(execution):
    model = _cross_attend(residual=False, execution=execution)
    return lambda query, data, table: model.apply(
      params, query, data, table, query_mask, input_mask
    )

  with _absorbing(side):
    out, grads = run(apply(PLAIN.replace(absorb_projections="auto")), *args)
  assert_close((out, grads), run(apply(PLAIN), *args), 1e-4)
  # Both attend to nothing, so they get the bias and what the MLP makes of it.
  np.testing.assert_allclose(out[0, 1], out[1, 0], atol=1e-6)
  assert not np.any(grads[1][0, 4])
  assert not np.any(grads[1][1])
  assert not np.any(grads[2][4])
  assert np.any(grads[1][0, :4])


def _absorption(sizes, heads, query_shape, input_shape, **choices):
  make = lambda: attention.Attention(
    heads, *sizes, query_shape[-1], Execution(**choices)
  )._absorption(query_shape, input_shape)
  return hk.transform(make).apply({}, None)


def test_published_models_absorb_projections_where_it_costs_least():
  # ImageNet: 512 latents of 1,024 channels attend to 224^2 pixels of 3 + 258.
  imagenet = (1, 512, 1024), (1, 224**2, 261)
  assert _absorption((261, 261), 1, *imagenet) == "queries"
  # Flow: 368 x 496 queries of 322 channels attend to 2,048 latents of 512.
  flow = (1, 368 * 496, 322), (1, 2048, 512)
  assert _absorption((512, 512), 1, *flow) == "keys"
  # There is nothing to gain for a single small head.
  assert _absorption((8, 8), 1, (1, 64, 512), (1, 64, 512)) == "nowhere"


def test_projections_of_several_heads_are_never_absorbed():
  imagenet = (1, 512, 1024), (1, 224**2, 261)
  assert _absorption((256, 256), 8, *imagenet) == "nowhere"
  never = _absorption((261, 261), 1, *imagenet, absorb_projections="never")
  assert never == "nowhere"


@settings(max_examples=15, deadline=None)
@given(*[st.sampled_from([1, 8, 64, 512])] * 6)
def test_auto_absorbs_where_the_count_of_operations_is_least(n, e, m, c, qk, v):
  args = (flops.abstract(1, n, e), flops.abstract(1, m, c), None, None, None)
  sizes = {"qk_channels": qk, "v_channels": v}
  model = _cross_attend(**sizes)
  params = jax.eval_shape(model.init, jax.random.key(0), *args)

  def cost(side):
    execution = PLAIN.replace(absorb_projections="auto")
    model = _cross_attend(**sizes, execution=execution)
    with _absorbing(side):
      return flops.count_flops(
        lambda p, q, x: model.apply(p, q, x, None, None, None),
        params,
        *args[:2],
      )

  least = min(map(cost, ("nowhere", "queries", "keys")))
  assert cost("cheapest") == least


@pytest.mark.parametrize("queries", [1, 4])
def test_unprojected_inputs_and_their_logits_never_exist(queries):
  b, n, m, c, p = 4, 16, 1024, 2, 30
  args = (_normal(queries, n, 8), _normal(b, m, c), _normal(m, p), None, None)
  params = _random_params(_cross_attend(), *args)
  arrays = {}
  for side in ("queries", "nowhere"):
    model = _cross_attend(execution=Execution())
    apply = lambda params, model=model: model.apply(params, *args)
    with in_chunks(b * n * 128), _absorbing(side):
      arrays[side] = shapes(with_gradients(apply), params)
  assert max(map(np.prod, arrays["queries"])) < b * m * min(n, c + p)
  assert (b, m, c + p) in arrays["nowhere"]
  assert (b, 1, n, m) in arrays["nowhere"]


def test_memory_of_a_cross_attend_does_not_grow_with_the_inputs():
  model = _cross_attend(execution=Execution())

  def temporary(m):
    args = (_normal(1, 16, 8), _normal(4, m, 3), _normal(m, 20))
    params = _random_params(model, *args, None, None)
    apply = lambda params, *args: with_gradients(
      lambda params: model.apply(params, *args, None, None)
    )(params)
    return temporary_bytes(apply, params, *args)

  with in_chunks(4 * 16 * 256), _absorbing("queries"):
    one, eight = temporary(2048), temporary(8 * 2048)
  assert eight <= 1.2 * one, (one, eight)


_SCANNED = PLAIN.replace(scan_layers=True)
_CHOICES = {
  "fused": {"fuse_qkv": "always"},
  "unrolled": {"scan_layers": False},
  "full": {"remat": "full"},
  "projections": {"remat": "projections"},
  "dots": {"remat": "dots"},
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
  return hk.without_apply_rng(hk.transform(make))


@functools.cache
def _block_and_result():
  model = _block_of_two(_SCANNED)
  args = (_random_params(model, _normal(2, 3, 4)), _normal(2, 3, 4))
  return args, run(model.apply, *args)


@pytest.mark.parametrize("name", _CHOICES)
def test_latent_transformers_are_equal_however_computed(name):
  args, want = _block_and_result()
  out = run(_block_of_two(_SCANNED.replace(**_CHOICES[name])).apply, *args)
  assert_close(out, want)


def test_choices_of_remat_and_fusing_change_the_program():
  args, _ = _block_and_result()

  def products(**choices):
    model = _block_of_two(_SCANNED.replace(**choices))
    trace = jax.make_jaxpr(with_gradients(model.apply))(*args)
    return str(trace).count("dot_general")

  # Logits and values are recomputed with the rest, the projections are not.
  none, dots = products(), products(remat="dots")
  assert dots == none + 2
  assert products(remat="projections") == dots + 1
  assert products(remat="full") == dots + 5  # The last is not needed.
  fused = {"fuse_qkv": "always"}
  # One product for three: forward, and twice backward.
  assert products(**fused) == none - 6
  assert products(**fused, remat="projections") == none - 6 + 3


def test_gradients_of_repeated_layers_are_added_in_place():
  layer = lambda: blocks.SelfAttention(2, name="self_attend")

  def memory(repeats):
    """Bytes of temporary memory and of parameters."""

    def run(x):
      block = blocks.LatentTransformer(3, layer, remat=True, name="block")
      return block(x, repeats=repeats)

    model = hk.without_apply_rng(hk.transform(run))
    x = _normal(1, 4, 128)
    params = _random_params(model, x)
    loss = lambda params, x: model.apply(params, x).sum()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return temporary_bytes(jax.grad(loss), params, x), size

  (few, size), (many, same_size) = memory(2), memory(16)
  assert size == same_size
  assert many < few + 0.5 * size
