"""Tests of self-attention and cross-attention blocks by their definitions."""

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import attention, blocks


def _build(fn, *args):
  """Returns the compiled application of a Haiku model and random parameters."""
  model = plain.transform(fn)
  return jax.jit(model.apply), plain.random_params(model, *args)


def test_self_attention_is_a_pre_norm_residual_block():
  make = lambda x: blocks.SelfAttention(2, 4, 10, 3, name="layer")(x)
  x = plain.normal(2, 3, 6)
  apply, params = _build(make, x)
  layer = plain.Module(params, "layer")
  expected = np.asarray(x, np.float64)
  normed = layer.norm("attention_norm", expected)
  expected = expected + layer.attend("attention", normed, normed, 2)[0]
  expected = expected + layer.mlp("mlp", layer.norm("mlp_norm", expected))
  np.testing.assert_allclose(apply(params, x), expected, atol=1e-4)
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
def test_cross_attention_is_pre_norm_with_an_optional_query_residual(residual):
  def make(query, inputs):
    layer = blocks.CrossAttention(
      1, use_query_residual=residual, widening_factor=2, name="layer"
    )
    return layer(query, inputs, return_attention=True)

  query, inputs = plain.normal(2, 3, 4), plain.normal(2, 5, 7, seed=2)
  apply, params = _build(make, query, inputs)
  layer = plain.Module(params, "layer")
  q, kv = (np.asarray(x, np.float64) for x in (query, inputs))
  expected, expected_weights = layer.attend(
    "attention", layer.norm("query_norm", q), layer.norm("input_norm", kv)
  )
  expected = expected + q if residual else expected
  expected = expected + layer.mlp("mlp", layer.norm("mlp_norm", expected))
  out, weights = apply(params, query, inputs)
  np.testing.assert_allclose(out, expected, atol=1e-4)
  np.testing.assert_allclose(weights, expected_weights, atol=1e-5)


def _cross_widths(**kwargs):
  """Returns QK and V channels of a cross-attend from 4 to 6 channels."""
  layer = lambda q, x: blocks.CrossAttention(name="x", **kwargs)(q, x)[0]
  model = hk.transform(layer)
  params = jax.eval_shape(
    model.init, jax.random.key(0), plain.normal(1, 2, 4), plain.normal(1, 3, 6)
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


def test_returning_weights_changes_neither_parameters_nor_output():
  make = lambda weights: (
    lambda q, x: blocks.CrossAttention(name="x")(q, x, return_attention=weights)
  )
  q, x = plain.normal(1, 2, 4), plain.normal(1, 3, 6)
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
def test_heads_must_divide_qk_and_v_channels(sizes, message):
  x = plain.normal(1, 2, 8)
  model = hk.transform(lambda x: attention.Attention(*sizes)(x, x))
  with pytest.raises(ValueError, match=message):
    model.init(jax.random.key(0), x)


def test_unknown_shape_for_attn_names_the_choices():
  model = hk.transform(lambda: blocks.CrossAttention(shape_for_attn="v"))
  with pytest.raises(ValueError, match=r"'v': use 'kv' or 'q'"):
    model.init(jax.random.key(0))


def test_linear_layers_have_truncated_normal_weights_and_zero_biases():
  make = lambda x: blocks.SelfAttention(4, widening_factor=2, name="l")(x)
  init = jax.jit(hk.transform(make).init)
  params = init(jax.random.key(0), plain.normal(1, 2, 96))
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
    # A normal that is cut at two deviations and scaled to the deviation `std`.
    assert np.abs(weights).max() < 2.28 * std, module
    assert np.abs(weights).max() > 2.1 * std, module


def test_cross_attention_mask_combines_query_and_input_masks():
  queries = jnp.asarray([[True, False]])
  inputs = jnp.asarray([[True, True, False]])
  assert blocks.cross_attention_mask(None, None) is None
  both = blocks.cross_attention_mask(queries, inputs)
  np.testing.assert_array_equal(both, [[[1, 1, 0], [0, 0, 0]]])
  only_inputs = blocks.cross_attention_mask(None, inputs)
  np.testing.assert_array_equal(only_inputs, [[[1, 1, 0]]])
  only_queries = blocks.cross_attention_mask(queries, None)
  np.testing.assert_array_equal(only_queries, [[[1], [0]]])


def test_masked_queries_have_no_attention_weights():
  queries, inputs = plain.normal(1, 2, 4), plain.normal(1, 3, 4)
  mask = jnp.asarray([[True, False]])

  def make(q, x):
    layer = blocks.CrossAttention(name="x")
    return layer(q, x, query_mask=mask, return_attention=True)[1]

  apply, params = _build(make, queries, inputs)
  weights = apply(params, queries, inputs)
  np.testing.assert_allclose(weights.sum(-1), [[[1, 0]]], atol=1e-6)
