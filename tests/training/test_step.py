"""Tests of the training step and its state on any number of devices."""

import functools

import haiku as hk
import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import metrics, optimizers, step

DEVICES = (1, 2, 4, 8)
BATCH = 16
FEATURES, CLASSES = 5, 3

pytestmark = pytest.mark.usefixtures("quick_compile")


class Classifier:
  """A network of two layers.

  Args:
    noise: the standard deviation of noise added to the inputs in training,
      drawn with each example's own key.
    batchnorm: whether the hidden layer has batch statistics.
  """

  def __init__(self, noise=0.0, batchnorm=False):
    self._noise = noise
    self._batchnorm = batchnorm

  def forward(self, batch, *, is_training, return_attention=False):
    x = batch["x"]
    if is_training and self._noise:
      draw = lambda key: jax.random.normal(
        jax.random.wrap_key_data(key), x.shape[1:]
      )
      x = x + self._noise * jax.vmap(draw)(batch["rng"])
    # Normalization would remove a bias.
    x = hk.Linear(4, with_bias=not self._batchnorm)(x)
    if self._batchnorm:
      mapped = is_training and not hk.running_init()
      axis = step.AXIS if mapped else None
      x = hk.BatchNorm(True, True, 0.9, cross_replica_axis=axis)(x, is_training)
    return hk.Linear(CLASSES)(jnp.tanh(x))

  def loss(self, outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs, batch["label"]
    )
    return {"loss": metrics.weighted(losses, jnp.ones_like(losses))}

  def prepare_batch(self, batch):
    return batch

  def dummy_batch(self):
    return classifier_batch(0, size=1)


def classifier_batch(seed, size=BATCH):
  rng = np.random.default_rng(seed)
  return {
    "x": rng.normal(size=(size, FEATURES)).astype(np.float32),
    "label": rng.integers(0, CLASSES, size).astype(np.int32),
    "index": rng.permutation(1000)[:size].astype(np.int32),
  }


def image_batch(seed):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.normal(size=(BATCH, 8, 8, 1)).astype(np.float32),
    "label": rng.integers(0, 10, BATCH).astype(np.int32),
    "index": rng.permutation(1000)[:BATCH].astype(np.int32),
  }


class Run:
  """A task with its initial state on a mesh and its train step."""

  def __init__(
    self,
    task,
    devices=1,
    optimizer=None,
    seed=0,
    first=None,
    ema_decay=0.0,
    num_microbatches=1,
  ):
    optimizer = optimizer or optax.sgd(0.3)
    self.mesh = step.make_mesh(devices)
    self.model = step.model_of(task, "float32")
    self.init = step.make_init(
      self.model, optimizer, seed, use_ema=bool(ema_decay)
    )
    # A copy on the host, since a step donates the state on the devices.
    self.first = first or jax.device_get(jax.jit(self.init)(task.dummy_batch()))
    self.state = jax.device_put(self.first, step.replicated(self.mesh))
    self.step = step.make_train_step(
      self.model,
      task,
      optimizer,
      self.mesh,
      num_microbatches=num_microbatches,
      ema_decay=ema_decay,
    )

  def take(self, batch):
    placed = step.place_train_batch(batch, self.mesh)
    self.state, sums = self.step(self.state, placed)
    return {name: float(v) for name, v in metrics.means(sums).items()}


def assert_close(actual, expected, tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance),
    actual,
    expected,
  )


def assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


# The same results on any number of devices.


def assert_devices_agree(task, make_batch, numbers=DEVICES, optimizer=None):
  """Checks that metrics and state after 20 steps agree over device counts."""
  first, records, ends = None, {}, {}
  for devices in numbers:
    run = Run(task, devices, optimizer, first=first)
    first = run.first
    records[devices] = [run.take(make_batch(i)) for i in range(20)]
    ends[devices] = jax.device_get(run.state)
  for devices in numbers[1:]:
    for actual, expected in zip(records[devices], records[1], strict=True):
      # Other sums round otherwise, which grows over the steps.
      assert actual["loss"] == pytest.approx(expected["loss"], abs=5e-5)
      assert actual == pytest.approx(expected, rel=1e-3)
    assert_close(ends[devices].params, ends[1].params, 1e-4)
    assert_close(ends[devices].net_state, ends[1].net_state, 1e-4)
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), first.params, ends[1].params
  )
  assert max(jax.tree.leaves(moved)) > 1e-3, "nothing was learned"
  return ends[1]


def make_task(config):
  config.model.decoder = {"kind": "average_and_project"}  # Compiles faster.
  return tasks.make_task(config)


def test_devices_agree_on_a_perceiver(tiny_config):
  assert_devices_agree(make_task(tiny_config), image_batch, (1, 8))


def test_devices_agree_on_batch_statistics(tiny_conv_config):
  task = make_task(tiny_conv_config)
  end = assert_devices_agree(task, image_batch, (1, 4))
  assert end.net_state


def mixing_batch(seed):
  """Returns a batch with partners to mix with, like one of the pipeline."""
  batch, partner = image_batch(seed), image_batch(1000 + seed)
  del partner["index"]
  return {
    **batch,
    **{f"partner_{name}": value for name, value in partner.items()},
    "batch_position": np.arange(BATCH, dtype=np.int32),
  }


def test_devices_and_microbatches_agree_on_mixed_images(tiny_config):
  # With 8 devices and 2 microbatches, each device processes single images.
  tiny_config.mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
  task, first, losses = make_task(tiny_config), None, []
  for devices, parts in ((1, 1), (8, 2)):
    # Rounding differences grow with the rate and the number of steps.
    run = Run(
      task, devices, optax.sgd(0.1), first=first, num_microbatches=parts
    )
    first = run.first
    losses.append([run.take(mixing_batch(i))["loss"] for i in range(4)])
  assert losses[1] == pytest.approx(losses[0], abs=5e-5)
  assert len(set(losses[0])) == 4


def test_batch_statistics_are_those_of_each_device(tiny_conv_config):
  tiny_conv_config.sync_batch_norm = False
  task, batch = make_task(tiny_conv_config), image_batch(0)
  run = Run(task, 4)
  prepared = {k: jnp.split(x, 4) for k, x in task.prepare_batch(batch).items()}
  apply = jax.jit(run.model.apply, static_argnums=4)
  states = []
  for part in range(4):
    share = {name: parts[part] for name, parts in prepared.items()}
    _, state = apply(run.first.params, run.first.net_state, None, share, True)
    states.append(jax.device_get(state))
  run.take(batch)
  # All devices get the mean of the devices' states.
  mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *states)
  assert_close(jax.device_get(run.state.net_state), mean, 1e-6)
  spread = jax.tree.map(lambda *x: np.ptp(x, axis=0).max(), *states)
  assert max(jax.tree.leaves(spread)) > 1e-3
  for leaf in jax.tree.leaves(run.state.net_state):
    first, *others = (shard.data for shard in leaf.addressable_shards)
    for other in others:
      np.testing.assert_array_equal(other, first)


def test_devices_agree_on_randomness_under_lamb(tiny_config):
  config = tiny_config.optimizer
  config.update(warmup_steps=2, clip_norm=0.5, learning_rate=0.05)
  optimizer, _ = optimizers.from_config(config, 20, BATCH)
  task = Classifier(noise=1.0, batchnorm=True)
  assert_devices_agree(task, classifier_batch, optimizer=optimizer)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_gradient_is_that_of_the_mean_over_the_global_batch(devices):
  run = Run(Classifier(), devices, optax.sgd(1.0))
  batch = classifier_batch(1)

  def objective(params):
    logits, _ = run.model.apply(params, {}, None, batch, True)
    return Classifier().loss(logits, batch)["loss"][0] / BATCH

  loss, grads = jax.jit(jax.value_and_grad(objective))(run.first.params)
  placed = step.place_train_batch(batch, run.mesh)
  state, sums = run.step(run.state, placed)
  expected = jax.tree.map(np.subtract, run.first.params, grads)
  assert_close(jax.device_get(state.params), expected, 1e-6)
  total, count = sums["loss"]
  assert float(count) == BATCH
  assert float(total) == pytest.approx(BATCH * float(loss), rel=1e-5)
  for name, tree in (("grad_norm", grads), ("param_norm", expected)):
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
    assert metrics.means(sums)[name] == pytest.approx(norm, rel=1e-5)
  assert int(state.step) == 1


def test_batch_with_a_loss_over_no_examples_changes_nothing():
  class Empty(Classifier):
    def loss(self, outputs, batch):
      return {"loss": (0 * super().loss(outputs, batch)["loss"][0], 0.0)}

  run = Run(Empty(), 1)
  placed = step.place_train_batch(classifier_batch(1), run.mesh)
  state, _ = run.step(run.state, placed)
  assert_same(jax.device_get(state.params), run.first.params)


# Microbatches.


@pytest.mark.parametrize("parts", [2, 8])
def test_microbatches_equal_one_batch(parts):
  task = Classifier(noise=0.5)
  unsplit = Run(task, devices=2)
  split = Run(task, devices=2, first=unsplit.first, num_microbatches=parts)
  for i in range(5):
    expected = unsplit.take(classifier_batch(i))
    assert split.take(classifier_batch(i)) == pytest.approx(expected, rel=1e-5)
  assert_close(split.state.params, unsplit.state.params, 1e-5)


def test_batch_statistics_are_updated_by_each_microbatch():
  task, frozen = Classifier(batchnorm=True), optax.sgd(0.0)
  split = Run(task, 2, frozen, num_microbatches=2)
  unsplit = Run(task, 2, frozen, first=split.first)
  batch = classifier_batch(3)
  split.take(batch)
  for part in range(2):  # The first half of each device's examples, the second.
    at = np.arange(BATCH).reshape(2, 2, -1)[:, part].ravel()
    unsplit.take({name: value[at] for name, value in batch.items()})
  assert_close(split.state.net_state, unsplit.state.net_state, 1e-5)


# Randomness.


@functools.cache
def noisy():
  """Returns a run with fixed parameters, whose loss varies by noise alone."""
  return Run(Classifier(noise=1.0), devices=2, optimizer=optax.sgd(0.0))


def test_noise_of_an_example_does_not_depend_on_its_position():
  batch, run = classifier_batch(0), noisy()
  order = np.random.default_rng(1).permutation(BATCH)
  losses = []
  for rearranged in (batch, {k: v[order] for k, v in batch.items()}):
    run.state = jax.device_put(run.first, step.replicated(run.mesh))
    losses.append(run.take(rearranged)["loss"])
  assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_noise_differs_between_steps_and_examples():
  batch, run = classifier_batch(0), noisy()
  first, second = run.take(batch)["loss"], run.take(batch)["loss"]
  assert abs(first - second) > 1e-3
  run.state = jax.device_put(run.first, step.replicated(run.mesh))
  other_index = {**batch, "index": batch["index"] + 1}
  assert abs(run.take(other_index)["loss"] - first) > 1e-3


def test_the_seed_determines_parameters_and_noise():
  run = noisy()
  other = Run(Classifier(noise=1.0), seed=1)
  assert not np.array_equal(run.first.rng, other.first.rng)
  assert not np.array_equal(
    run.first.params["linear"]["w"], other.first.params["linear"]["w"]
  )
  losses = []
  for first in (run.first, run.first._replace(rng=other.first.rng)):
    run.state = jax.device_put(first, step.replicated(run.mesh))
    losses.append(run.take(classifier_batch(0))["loss"])
  assert abs(losses[0] - losses[1]) > 1e-3


def test_two_runs_are_bitwise_identical():
  task = Classifier(noise=1.0, batchnorm=True)
  ends = []
  for _ in range(2):
    run = Run(task, devices=4)
    for i in range(3):
      run.take(classifier_batch(i))
    ends.append(jax.device_get(run.state))
  assert_same(*ends)


# The training state.


def test_initial_state_depends_only_on_shapes_of_the_batch():
  run = Run(Classifier(batchnorm=True))
  initial = jax.jit(run.init)(classifier_batch(7, size=1))
  assert_same(initial.params, run.first.params)
  assert_same(initial.rng, run.first.rng)
  assert int(run.first.step) == 0
  assert run.first.ema_params == ()
  # Haiku's running statistics depend on the first batch until the first step.
  ends = []
  for first in (run.first, jax.device_get(initial)):
    run.state = jax.device_put(first, step.replicated(run.mesh))
    run.take(classifier_batch(0))
    ends.append(jax.device_get(run.state))
  assert_same(*ends)


def test_state_is_replicated_and_not_stacked():
  run = Run(Classifier(batchnorm=True), 4, optax.adam(0.1), ema_decay=0.9)
  abstract = step.abstract_state(run.init, Classifier().dummy_batch(), run.mesh)
  run.take(classifier_batch(0))

  def check(array, expected):
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.sharding.is_equivalent_to(expected.sharding, array.ndim)
    assert len(array.addressable_shards) == 4
    for shard in array.addressable_shards:
      np.testing.assert_array_equal(shard.data, array)

  jax.tree.map(check, run.state, abstract)
  assert run.state.params["linear"]["w"].shape == (FEATURES, 4)


def test_the_state_is_donated_and_the_batch_is_not():
  run = Run(Classifier(), 4, optax.adam(0.1), ema_decay=0.9)
  before = run.state
  batch = step.place_train_batch(classifier_batch(0), run.mesh)
  run.state, _ = run.step(run.state, batch)
  assert all(x.is_deleted() for x in jax.tree.leaves(before))
  run.state, _ = run.step(run.state, batch)
  assert int(run.state.step) == 2


def test_averaged_parameters_are_an_exponential_moving_average():
  run = Run(Classifier(), 2, ema_decay=0.8)
  expected = run.first.params
  assert_same(run.first.ema_params, expected)
  for i in range(4):
    run.take(classifier_batch(i))
    expected = jax.tree.map(
      lambda old, new: 0.8 * old + 0.2 * np.asarray(new),
      expected,
      run.state.params,
    )
  assert_close(run.state.ema_params, expected, 1e-6)
  assert run.state.eval_params is run.state.ema_params


def test_without_averaging_the_trained_parameters_are_evaluated():
  state = Run(Classifier()).state
  assert state.eval_params is state.params


def test_step_compiles_with_a_dummy_batch():
  run = Run(Classifier(), 4)
  example = {**Classifier().dummy_batch(), "mask": np.ones(1, np.float32)}
  dummy = step.dummy_train_batch(example, BATCH, run.mesh)
  placed = step.place_train_batch(classifier_batch(0), run.mesh)
  assert dummy.keys() == placed.keys()
  for name, array in placed.items():
    for attribute in ("shape", "dtype", "sharding"):
      expected = getattr(array, attribute)
      assert getattr(dummy[name], attribute) == expected, name
    assert not np.any(dummy[name])
  abstract = step.abstract_state(run.init, Classifier().dummy_batch(), run.mesh)
  compiled = run.step.lower(abstract, dummy).compile()
  state, _ = compiled(run.state, placed)
  assert int(state.step) == 1


def test_invalid_model_is_a_user_error(tiny_config):
  tiny_config.model.encoder.num_self_attend_heads = 3
  model = step.model_of(tasks.make_task(tiny_config), "float32")
  init = step.make_init(model, optax.sgd(0.1), 0, use_ema=False)
  example = tasks.make_task(tiny_config).dummy_batch()
  with pytest.raises(UserError, match=r"config\.model .*3 heads do not divide"):
    step.abstract_state(init, example, step.make_mesh(1))


# Placing batches on devices.


def test_each_device_gets_its_part_of_the_batch_in_order():
  mesh = step.make_mesh(4)
  batch = classifier_batch(0)
  whole = step.place_batch(batch, mesh)
  split = step.place_train_batch(batch, mesh)
  for name, value in batch.items():
    np.testing.assert_array_equal(whole[name], value)
    np.testing.assert_array_equal(np.concatenate(split[name]), value)
    for placed in (whole[name], split[name]):
      for shard in placed.addressable_shards:
        at = list(mesh.devices).index(shard.device)
        np.testing.assert_array_equal(
          np.reshape(shard.data, (4, *value.shape[1:])),
          value[4 * at : 4 * (at + 1)],
        )


def test_a_mesh_has_the_first_devices_or_all():
  assert step.make_mesh().size == jax.device_count()
  mesh = step.make_mesh(2)
  assert list(mesh.devices) == jax.devices()[:2]
  assert mesh.axis_names == (step.AXIS,)


def test_more_devices_than_there_are_is_a_user_error():
  count = jax.device_count()
  with pytest.raises(
    UserError, match=f"--num_devices is {count + 1}, but there are {count};"
  ):
    step.make_mesh(count + 1)


# Batch sizes.


@settings(deadline=None)
@given(st.integers(-3, 200), st.integers(1, 8), st.integers(1, 4))
def test_batch_size_is_accepted_if_it_divides(size, devices, parts):
  if size > 0 and size % (devices * parts) == 0:
    step.check_batch_size(size, devices, parts)
    return
  with pytest.raises(UserError) as error:
    step.check_batch_size(size, devices, parts)
  assert str(error.value) == (
    f"config.batch_size is {size}, which does not divide over {devices}"
    f" devices x {parts} microbatches; give a multiple of {devices * parts}"
  )


@pytest.mark.parametrize("parts", [0, -2])
def test_fewer_than_one_microbatch_are_refused(parts):
  with pytest.raises(
    UserError, match=rf"config\.num_microbatches is {parts}; give 1 or more"
  ):
    step.check_batch_size(16, 1, parts)
