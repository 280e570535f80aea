"""Tests of all ways to compute a cross-attend."""

import contextlib

import haiku as hk
import jax
import numpy as np
import plain
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
from perceiver_jax.models.ops import absorbed_projections
from perceiver_jax.models.ops.execution import AUTO, CHOICES, PLAIN, Execution


def _cross_attend(heads=1, residual=True, execution=PLAIN, **kwargs):
  """Returns a Haiku model of query, data, positions or None, and two masks."""

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

  return plain.transform(make)


@contextlib.contextmanager
def _absorbing(side):
  """Absorbs projections into "queries" or "keys" regardless of cost."""
  with pytest.MonkeyPatch.context() as patch:
    if side != "cheapest":
      patch.setattr(absorbed_projections, "cheapest", lambda **_: side)
    yield


@st.composite
def _cross_attends(draw):
  """Draws sizes, inputs, an execution, and the logits of a chunk."""
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
    plain.normal(draw(st.sampled_from([1, b])), n, e),
    plain.normal(b, m, c, seed=2),
    plain.normal(m, p, seed=3) if p else None,
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
def test_every_execution_of_a_cross_attend_gives_the_same_result(case):
  _check_cross_attend(*case)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(_cross_attends())
def test_every_execution_of_many_cross_attends_gives_the_same_result(case):
  _check_cross_attend(*case)


def _check_cross_attend(sizes, args, execution, side, logits):
  query, data, table, *masks = args
  params = plain.random_params(_cross_attend(**sizes), *args)
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
def test_absorbed_projections_respect_query_and_input_masks(side):
  query_mask = jnp.asarray([[True, False], [True, True]])
  input_mask = jnp.asarray([[True] * 4 + [False], [False] * 5])
  args = (
    plain.normal(1, 2, 4),
    plain.normal(2, 5, 3),
    plain.normal(5, 4, seed=2),
  )
  params = plain.random_params(_cross_attend(), *args, query_mask, input_mask)

  def apply(execution):
    model = _cross_attend(residual=False, execution=execution)
    return lambda query, data, table: model.apply(
      params, query, data, table, query_mask, input_mask
    )

  with _absorbing(side):
    out, grads = run(apply(PLAIN.replace(absorb_projections="auto")), *args)
  assert_close((out, grads), run(apply(PLAIN), *args), 1e-4)
  # Both attend to nothing, so that they get the bias, followed by the MLP.
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
  # Absorbing would not be cheaper for a single small head.
  assert _absorption((8, 8), 1, (1, 64, 512), (1, 64, 512)) == "nowhere"


def test_projections_of_several_heads_are_never_absorbed():
  imagenet = (1, 512, 1024), (1, 224**2, 261)
  assert _absorption((256, 256), 8, *imagenet) == "nowhere"
  never = _absorption((261, 261), 1, *imagenet, absorb_projections="never")
  assert never == "nowhere"


@settings(max_examples=15, deadline=None)
@given(*[st.sampled_from([1, 8, 64, 512])] * 6)
def test_auto_absorbs_where_it_needs_the_fewest_operations(n, e, m, c, qk, v):
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
def test_absorbed_chunks_hold_neither_whole_inputs_nor_all_logits(queries):
  b, n, m, c, p = 4, 16, 1024, 2, 30
  args = (
    plain.normal(queries, n, 8),
    plain.normal(b, m, c),
    plain.normal(m, p),
    None,
    None,
  )
  params = plain.random_params(_cross_attend(), *args)
  arrays = {}
  for side in ("queries", "nowhere"):
    model = _cross_attend(execution=Execution())
    apply = lambda params, model=model: model.apply(params, *args)
    with in_chunks(b * n * 128), _absorbing(side):
      arrays[side] = shapes(with_gradients(apply), params)
  assert max(map(np.prod, arrays["queries"])) < b * m * min(n, c + p)
  assert (b, m, c + p) in arrays["nowhere"]
  assert (b, 1, n, m) in arrays["nowhere"]


def test_memory_of_a_chunked_cross_attend_does_not_grow_with_inputs():
  model = _cross_attend(execution=Execution())

  def temporary(m):
    args = (plain.normal(1, 16, 8), plain.normal(4, m, 3), plain.normal(m, 20))
    params = plain.random_params(model, *args, None, None)
    apply = lambda params, *args: with_gradients(
      lambda params: model.apply(params, *args, None, None)
    )(params)
    return temporary_bytes(apply, params, *args)

  with in_chunks(4 * 16 * 256), _absorbing("queries"):
    one, eight = temporary(2048), temporary(8 * 2048)
  assert eight <= 1.2 * one, (one, eight)


@pytest.mark.parametrize("side", ["queries", "keys", "nowhere"])
def test_the_same_seed_initializes_the_same_parameters(side):
  args = plain.normal(2, 3, 4), plain.normal(2, 9, 7), None, None, None
  init = lambda execution: plain.jit(_cross_attend(execution=execution).init)(
    jax.random.key(0), *args
  )
  expected = init(PLAIN)
  with _absorbing(side):
    jax.tree.map(np.testing.assert_array_equal, init(AUTO), expected)
