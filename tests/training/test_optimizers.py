"""Tests of optimizers, schedules and how a config selects them."""

import haiku as hk
import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from perceiver_jax.errors import UserError
from perceiver_jax.models import blocks
from perceiver_jax.models.ops import depth
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import optimizers, step

DEPTH = 3
PAPER_BOUNDARIES = (84 / 120, 102 / 120, 114 / 120)


def normal(shapes, seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), shapes
  )


def steps_of(optimizer, params, grads_list):
  """Returns the parameters after each step."""
  state, history = optimizer.init(params), []
  update = jax.jit(optimizer.update)
  for grads in grads_list:
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    actual,
    expected,
  )


@pytest.fixture(scope="module")
def params_and_grads():
  """Returns the parameters of a layer and gradients of three magnitudes."""
  params = normal(
    {
      "net/linear": {"w": np.empty((4, 3)), "b": np.empty(3)},
      "net/norm": {"scale": np.empty(3), "offset": np.empty(3)},
      "net/latents": {"embeddings": np.empty((2, 3))},
    },
    seed=0,
  )
  return params, [normal(params, 1 + i, 10.0 ** (1 - i)) for i in range(3)]


# LAMB, AdamW and Muon.


def test_lamb_agrees_with_optax_for_parameters_that_are_not_stacked(
  params_and_grads,
):
  settings = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}
  schedule = optax.linear_schedule(0.1, 0.01, 3)
  expected = optax.lamb(schedule, mask=optimizers.decay_mask, **settings)
  ours = optimizers.make_optimizer("lamb", schedule, **settings)
  assert_close(
    steps_of(ours, *params_and_grads), steps_of(expected, *params_and_grads)
  )


def test_adamw_agrees_with_optax(params_and_grads):
  settings = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.3}
  schedule = optax.linear_schedule(0.1, 0.01, 3)
  expected = optax.adamw(schedule, mask=optimizers.decay_mask, **settings)
  ours = optimizers.make_optimizer("adamw", schedule, **settings)
  assert_close(
    steps_of(ours, *params_and_grads), steps_of(expected, *params_and_grads)
  )


def test_muon_updates_only_weights_with_orthogonal_matrices(params_and_grads):
  params, grads = params_and_grads
  # 3 x 3 kernels from 2 channels to 16: a matrix of 18 rows.
  add = lambda tree, seed: (
    tree | {"conv": normal({"w": np.empty((3, 3, 2, 16))}, seed)}
  )
  params, grad = add(params, 5), add(grads[0], 6)
  ours = optimizers.make_optimizer("muon", optax.constant_schedule(0.1))
  (updated,) = steps_of(ours, params, [grad])
  change = jax.tree.map(lambda new, old: (old - new) / 0.1, updated, params)
  for module in ("conv", "net/linear"):
    matrix = change[module]["w"].reshape(-1, change[module]["w"].shape[-1])
    # The singular values of an orthogonal matrix with the root mean square of
    # Adam's updates. Newton-Schulz iteration reaches them up to about 30%.
    values = np.linalg.svd(matrix)[1] / (0.2 * max(matrix.shape) ** 0.5)
    np.testing.assert_allclose(values, 1, atol=0.35)
  adam = optax.adam(0.1, eps=1e-6, nesterov=True)
  (expected,) = steps_of(adam, params, [grad])
  for module, name in (
    ("net/linear", "b"), ("net/norm", "scale"), ("net/latents", "embeddings"),
  ):  # fmt: skip
    assert_close(updated[module][name], expected[module][name])


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_a_scanned_layer_is_updated_like_a_separate_layer(name):
  def block(x):
    layer = lambda: blocks.SelfAttention(2, name="self_attend")
    return blocks.LatentTransformer(DEPTH, layer, name="block_0")(x)

  init = hk.transform(block).init
  shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 2, 4)))
  assert all(map(depth.is_stacked, shapes))
  layer_shapes = jax.tree.map(lambda x: np.empty(x.shape[1:]), shapes)
  # The layers' norms differ, so each layer needs its own trust ratio.
  trees = [
    [normal(layer_shapes, seed * DEPTH + i, 10.0**i) for i in range(DEPTH)]
    for seed in range(3)
  ]
  params, *grads = (jax.tree.map(lambda *x: np.stack(x), *t) for t in trees)
  schedule = optax.constant_schedule(0.1)
  optimizer = optimizers.make_optimizer(name, schedule, weight_decay=0.3)
  stacked = steps_of(optimizer, params, grads)
  for i in range(DEPTH):
    params, *grads = (
      # A name that is not that of a stack.
      {name.replace("layers", "layer"): x for name, x in layers[i].items()}
      for layers in trees
    )
    assert not any(map(depth.is_stacked, params))
    layer = jax.tree.map(lambda x, i=i: x[i], stacked)
    for ours, theirs in zip(
      layer, steps_of(optimizer, params, grads), strict=True
    ):
      assert_close(list(ours.values()), list(theirs.values()), rtol=1e-4)


def test_biases_and_norms_have_no_weight_decay(tiny_conv_config):
  task = tasks.make_task(tiny_conv_config)
  state = step.abstract_state(
    step.make_init(
      step.model_of(task, "float32"), optax.sgd(0.1), 0, use_ema=False
    ),
    task.dummy_batch(),
    step.make_mesh(1),
  )
  mask = optimizers.decay_mask(state.params)
  decayed, not_decayed = set(), set()
  for leaves in mask.values():
    for name, is_decayed in leaves.items():
      (decayed if is_decayed else not_decayed).add(name)
  assert decayed == {"w", "embeddings"}
  assert not_decayed == {"b", "scale", "offset"}


def test_with_zero_gradients_only_decayed_parameters_shrink(params_and_grads):
  params, _ = params_and_grads
  optimizer = optimizers.make_optimizer(
    "adamw", optax.constant_schedule(0.1), weight_decay=0.5
  )
  (updated,) = steps_of(
    optimizer, params, [jax.tree.map(np.zeros_like, params)]
  )
  expected = {
    module: {
      k: v * 0.95 if k in ("w", "embeddings") else v for k, v in leaves.items()
    }
    for module, leaves in params.items()
  }
  assert_close(updated, expected)


def test_clipping_bounds_the_global_norm(params_and_grads):
  params, grads = params_and_grads
  schedule = optax.constant_schedule(0.1)
  make = lambda norm: optimizers.make_optimizer(
    "lamb", schedule, clip_norm=norm
  )
  norms = [float(optax.tree.norm(g)) for g in grads]
  assert norms[0] > 5 > norms[2]
  scaled = [
    optax.tree.scale(min(1, 5 / norm), grad)
    for grad, norm in zip(grads, norms, strict=True)
  ]
  clipped = steps_of(make(5.0), params, grads)
  assert_close(clipped, steps_of(make(0.0), params, scaled))
  # Adam is invariant to a common factor of all gradients, so their norms
  # must differ for clipping to matter.
  unclipped = steps_of(make(0.0), params, grads)
  with pytest.raises(AssertionError):
    assert_close(clipped[-1], unclipped[-1])


def test_the_error_for_an_unknown_optimizer_lists_the_choices():
  with pytest.raises(
    UserError, match=r"config\.optimizer\.name is 'sgd'.*lamb, adamw, muon"
  ):
    optimizers.make_optimizer("sgd", optax.constant_schedule(0.1))


# Schedules.


def at(schedule, *steps):
  """Returns the approximate learning rates at the given steps."""
  return pytest.approx([float(schedule(s)) for s in steps], rel=1e-5, abs=1e-9)


def test_a_constant_schedule_never_changes():
  schedule = optimizers.make_schedule("constant", 0.5, 100)
  assert at(schedule, 0, 50, 99, 100) == [0.5] * 4


def test_constant_cosine_decays_to_zero_in_the_second_half():
  schedule = optimizers.make_schedule("constant_cosine", 2.0, 100)
  assert at(schedule, 0, 25, 50) == [2, 2, 2]
  assert at(schedule, 75) == [1]
  assert at(schedule, 100) == [0]
  assert 0 < float(schedule(99)) < float(schedule(98)) < 0.02


def test_constant_fraction_sets_where_the_cosine_begins():
  schedule = optimizers.make_schedule(
    "constant_cosine", 2.0, 100, constant_fraction=0.8
  )
  assert at(schedule, 79, 80, 90, 100) == [2, 2, 1, 0]
  constant = optimizers.make_schedule(
    "constant_cosine", 2.0, 100, constant_fraction=1.0
  )
  assert at(constant, 0, 99) == [2, 2]


def test_a_cosine_schedule_decays_from_the_first_step():
  schedule = optimizers.make_schedule("cosine", 2.0, 100)
  expected = [1 + np.cos(np.pi * s / 100) for s in (0, 25, 50, 75, 100)]
  assert at(schedule, 0, 25, 50, 75, 100) == expected


def test_a_step_schedule_decays_at_fractions_of_the_run():
  schedule = optimizers.make_schedule(
    "step", 1.0, 1200, boundaries=PAPER_BOUNDARIES
  )
  assert at(schedule, 0, 839, 840) == [1, 1, 0.1]
  assert at(schedule, 1019, 1020) == [0.1, 0.01]
  assert at(schedule, 1139, 1140, 1199) == [0.01, 0.001, 0.001]


def test_boundaries_rounded_to_the_same_step_all_count():
  schedule = optimizers.make_schedule(
    "step", 1.0, 4, boundaries=PAPER_BOUNDARIES, decay_factor=0.5
  )
  # The boundaries are at 2.8, 3.4 and 3.8 of 4 steps.
  assert at(schedule, 2, 3, 4) == [1, 0.25, 0.125]


@pytest.mark.parametrize(
  ("name", "end"),
  [("constant", 1.0), ("constant_cosine", 0.0), ("cosine", 0.0), ("step", 0.1)],
)
def test_warmup_rises_from_zero_before_the_schedule(name, end):
  schedule = optimizers.make_schedule(
    name, 1.0, 100, warmup_steps=20, boundaries=(0.5,)
  )
  assert at(schedule, 0, 5, 10, 20) == [0, 0.25, 0.5, 1]
  assert at(schedule, 100) == [end]


def test_warmup_does_not_shift_boundaries():
  flat = optimizers.make_schedule("constant_cosine", 1.0, 100, warmup_steps=20)
  assert at(flat, 60, 80) == [1, 0.5]
  steps = optimizers.make_schedule(
    "step", 1.0, 100, warmup_steps=20, boundaries=(0.7,)
  )
  assert at(steps, 69, 70) == [1, 0.1]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"schedule": "linear"},
      r"config\.optimizer\.schedule is 'linear'; choose one of constant,"
      r" constant_cosine, cosine, step",
    ),
    ({"warmup_steps": 100}, r"warmup_steps is 100; .* less than .* 100 steps"),
    ({"warmup_steps": -1}, r"config\.optimizer\.warmup_steps is -1"),
    ({"constant_fraction": 50}, r"optimizer\.constant_fraction has 50; .* 1"),
    ({"boundaries": (0.5, 84)}, r"config\.optimizer\.boundaries has 84; .* 1"),
    ({"boundaries": ("a",)}, r"config\.optimizer\.boundaries has 'a'; .* 1"),
  ],
)
def test_invalid_schedules_are_refused_with_their_name(changes, message):
  arguments = {"schedule": "step", "learning_rate": 1.0, "num_steps": 100}
  with pytest.raises(UserError, match=message):
    optimizers.make_schedule(**(arguments | changes))


# Optimizers from a config.


def test_from_config_builds_the_optimizer_and_schedule(
  tiny_config, params_and_grads
):
  config = tiny_config.optimizer
  config.update(learning_rate=0.5, warmup_steps=2, clip_norm=3.0)
  optimizer, schedule = optimizers.from_config(config, 12, batch_size=8)
  assert at(schedule, 0, 1, 2, 7, 12) == [0, 0.25, 0.5, 0.5, 0]
  expected = optax.chain(
    optax.clip_by_global_norm(3.0),
    optax.lamb(
      schedule, 0.9, 0.999, 1e-6, weight_decay=0.1, mask=optimizers.decay_mask
    ),
  )
  assert_close(
    steps_of(optimizer, *params_and_grads),
    steps_of(expected, *params_and_grads),
  )
  assert config.name == "lamb", "the config was modified"


@pytest.mark.parametrize(
  ("reference", "batch", "rate"),
  [(0, 512, 1.0), (64, 512, 8.0), (64, 16, 0.25)],
)
def test_the_learning_rate_scales_with_the_batch_size(
  tiny_config, reference, batch, rate
):
  config = tiny_config.optimizer
  config.update(learning_rate=1.0, learning_rate_batch_size=reference)
  _, schedule = optimizers.from_config(config, 10, batch)
  assert at(schedule, 0) == [rate]


@pytest.mark.parametrize(
  ("leaf", "value"),
  [
    ("learning_rate", -0.1),
    ("learning_rate", np.nan),
    ("learning_rate_batch_size", -8),
    ("decay_factor", -1.0),
    ("weight_decay", np.nan),
    ("clip_norm", -1.0),
    ("clip_norm", np.nan),
    ("eps", -1.0),
    ("b1", 1.5),
    ("b2", -1.0),
    ("b2", 1.0),
    ("b2", np.nan),
  ],
)
def test_numbers_out_of_range_are_refused(tiny_config, leaf, value):
  tiny_config.optimizer[leaf] = value
  with pytest.raises(UserError, match=rf"optimizer\.{leaf} is {value}; give"):
    optimizers.from_config(tiny_config.optimizer, 10, 8)


def test_an_unknown_name_in_a_config_is_a_user_error(tiny_config):
  for leaf in ("name", "schedule"):
    config = tiny_config.optimizer.copy_and_resolve_references()
    config[leaf] = "none"
    with pytest.raises(
      UserError, match=rf"config\.optimizer\.{leaf} is 'none'"
    ):
      optimizers.from_config(config, 10, 8)
