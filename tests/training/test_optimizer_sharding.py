"""Tests of the optimizer's state in parts, one on each device."""

import shutil

import jax
import numpy as np
import pytest
import tiny_runs as runs
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.errors import UserError
from perceiver_jax.training import (
  interrupts,
  optimizer_sharding,
  optimizers,
  restore,
  step,
)
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer

pytestmark = pytest.mark.usefixtures("compile_once", "no_report")

# The weights of the tiny model are [5, 3], its biases [3], its norms [1, 5].
DEVICES = 5
BATCH = 15


def sharded_config(**leaves):
  leaves = {"batch_size": BATCH, "shard_optimizer_state": True} | leaves
  return runs.tiny_config(**leaves)


def abstract_array(shape, num_devices):
  sharding = optimizer_sharding.sharding(shape, step.make_mesh(num_devices))
  return jax.ShapeDtypeStruct(shape, "float32", sharding=sharding)


@pytest.mark.parametrize(
  ("shape", "axis"),
  [
    ((60, 1024, 4096), 1),
    ((8, 16), 0),
    ((3, 16), 1),
    ((5, 3), None),
    ((), None),
  ],
)
def test_an_array_is_split_along_the_first_axis_that_divides(shape, axis):
  array = abstract_array(shape, 8)
  assert optimizer_sharding.pmap_axes({"x": array}) == {"x": axis}
  mapped = optimizer_sharding.pmap_shapes(array)
  if axis is None:
    assert mapped is array
    return
  assert mapped.shape[axis] == 8
  part = np.prod(array.sharding.shard_shape(shape))
  assert part == np.prod(shape) / 8
  assert np.prod(mapped.sharding.shard_shape(mapped.shape)) == part


@settings(max_examples=20, deadline=None)
@given(
  shape=st.lists(st.integers(1, 9), max_size=3).map(tuple),
  num_devices=st.sampled_from((1, 2, 3, 8)),
)
def test_a_state_survives_a_change_of_its_shapes(shape, num_devices):
  abstract = abstract_array(shape, num_devices)
  value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  state = jax.device_put(value, abstract.sharding)
  shapes = optimizer_sharding.pmap_shapes(abstract)
  mapped = optimizer_sharding.reshape_to(shapes)(state)
  assert mapped.shape == shapes.shape
  assert mapped.sharding.is_equivalent_to(shapes.sharding, mapped.ndim)
  back = optimizer_sharding.reshape_to(abstract)(mapped)
  np.testing.assert_array_equal(back, value)
  assert back.sharding.is_equivalent_to(abstract.sharding, back.ndim)


def test_arrays_are_reshaped_by_a_program_that_compiles_once(caplog):
  abstract = abstract_array((5, 3), DEVICES)
  reshape = optimizer_sharding.reshape_to(
    optimizer_sharding.pmap_shapes(abstract)
  )
  state = jax.device_put(np.zeros((5, 3), np.float32), abstract.sharding)
  with jax.log_compiles():
    reshape(state)
    assert "Compiling" in caplog.text
    caplog.clear()
    reshape(state)
  assert "Compiling" not in caplog.text


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_a_sharded_optimizer_trains_like_a_replicated_one(tmp_path, name):
  leaves = {"optimizer__name": name, "optimizer__clip_norm": 0.5}
  config = sharded_config(**leaves)
  runs.train(tmp_path / "sharded", config, num_devices=DEVICES)
  config.shard_optimizer_state = False
  runs.train(tmp_path / "replicated", config, num_devices=DEVICES)
  runs.assert_alike(tmp_path / "sharded", tmp_path / "replicated")


def test_each_device_keeps_a_part_of_the_moments(tmp_path):
  config = sharded_config()
  runs.train(tmp_path, config, num_devices=DEVICES)
  task = runs.TinyTask()
  abstract = restore.abstract_state(config, task, step.make_mesh(DEVICES))
  checkpointer = Checkpointer(tmp_path / "checkpoints", read_only=True)
  state = checkpointer.restore_latest(abstract).state
  checkpointer.close()
  (adam,) = (x for x in state.opt_state if hasattr(x, "mu"))
  for moment in (adam.mu, adam.nu):
    weights = moment["linear"]["w"]
    assert weights.shape == (5, 3)
    assert {x.data.shape for x in weights.addressable_shards} == {(1, 3)}
    assert moment["linear"]["b"].is_fully_replicated
  assert state.params["linear"]["w"].is_fully_replicated


@pytest.fixture
def train_until(monkeypatch):
  """Returns a function that trains a sharded run until a step."""

  def train_until(folder, last, num_devices=DEVICES, **leaves):
    reasons = {last: interrupts.PREEMPTED} if last else {}
    monkeypatch.setattr(interrupts, "Interrupts", runs.stop_at(reasons))
    runs.train(folder, sharded_config(**leaves), num_devices=num_devices)

  return train_until


def test_a_sharded_run_resumes_bitwise(tmp_path, train_until):
  leaves = {"ema_decay": 0.5, "num_microbatches": 3}
  train_until(tmp_path / "resumed", 4, **leaves)
  train_until(tmp_path / "resumed", None, **leaves)
  train_until(tmp_path / "whole", None, **leaves)
  runs.assert_same_end(tmp_path / "resumed", tmp_path / "whole")


def test_sharding_and_the_number_of_devices_may_change(tmp_path, train_until):
  train_until(tmp_path / "resumed", 3)
  train_until(tmp_path / "resumed", 6, num_devices=3)
  train_until(tmp_path / "resumed", 8, shard_optimizer_state=False)
  train_until(tmp_path / "resumed", None)
  train_until(tmp_path / "whole", None, num_devices=1)
  runs.assert_alike(tmp_path / "resumed", tmp_path / "whole")


def test_a_sharded_checkpoint_with_other_arrays_is_skipped(
  tmp_path, train_until
):
  train_until(tmp_path / "run", 8)
  assert runs.checkpoint_steps(tmp_path / "run") == [6, 8]
  checkpoints = tmp_path / "run" / "checkpoints"
  shutil.rmtree(checkpoints / "8" / "state")
  shutil.copytree(checkpoints / "6" / "state", checkpoints / "8" / "state")
  train_until(tmp_path / "run", None)
  assert (tmp_path / "run/checkpoints_quarantine/8-1").exists()
  train_until(tmp_path / "whole", None)
  runs.assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_weights_start_a_sharded_run_which_can_be_evaluated(
  tmp_path, train_until
):
  train_until(tmp_path / "first", None)
  train_until(tmp_path / "second", None, init_from=str(tmp_path / "first"))
  config, task = sharded_config(), runs.TinyTask()
  restored = restore.restore(config, task, tmp_path / "second", "latest")
  params = restored.state.params["linear"]["w"]
  assert params.is_fully_replicated
  expected = runs.arrays(tmp_path / "second")["params.linear.w"]
  np.testing.assert_array_equal(params, expected)
  start = runs.arrays(tmp_path / "first")["params.linear.w"]
  assert 0 < np.abs(expected - start).max() < np.abs(start).max()


def test_muon_is_refused():
  config = sharded_config(optimizer__name="muon").optimizer
  with pytest.raises(UserError, match=r"optimizer\.name=lamb or adamw"):
    optimizers.from_config(config, 20, 8, step.make_mesh(2))
