"""Tests of saving checkpoints, choosing among them and restoring them."""

import errno
import logging as std_logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from etils import epath
from tiny_checkpoints import (
  abstract,
  assert_bitwise_equal,
  make_iterator,
  make_state,
  replicated,
)
from tiny_runs import contents

from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints import folder as folder_lib
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer


@pytest.mark.parametrize("ema", [True, False])
def test_a_state_is_restored_bitwise(open_checkpointer, ema):
  state = make_state(ema=ema)
  extras = {"seconds": 0.1 + 0.2, "best": None, "nested": {"a": [1, 2]}}
  writer = open_checkpointer()
  writer.save(7, state, make_iterator(), extras)
  writer.wait()
  restored = open_checkpointer().restore_latest(abstract(state))
  assert (restored.step, restored.extras) == (7, extras)
  assert_bitwise_equal(restored.state, state)


def test_without_checkpoints_there_is_nothing_to_restore(
  open_checkpointer, warnings
):
  assert open_checkpointer().restore_latest(abstract(make_state())) is None
  assert open_checkpointer().steps() == []
  assert not warnings


def test_the_data_continues_at_the_next_batch(saved):
  reference = make_iterator()
  batches = [next(reference) for _ in range(4)]
  iterator = make_iterator()
  saved.restore(10, abstract(make_state()), iterator)
  np.testing.assert_array_equal(next(iterator), batches[1])
  saved.restore_latest(abstract(make_state()), iterator)
  np.testing.assert_array_equal(next(iterator), batches[2])
  np.testing.assert_array_equal(next(iterator), batches[3])


def test_a_save_is_not_affected_by_later_changes(open_checkpointer):
  state, iterator = make_state(width=4000), make_iterator()
  expected = jax.tree.map(lambda x: np.array(x), state)
  checkpointer = open_checkpointer()
  checkpointer.save(1, state, iterator, {})
  donate = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  jax.block_until_ready(donate(state))
  next(iterator)
  checkpointer.wait()
  restored = checkpointer.restore(1, abstract(expected), iterator)
  assert_bitwise_equal(restored.state, expected)
  np.testing.assert_array_equal(next(iterator), next(make_iterator()))


@pytest.mark.parametrize(("before", "after"), [(8, 2), (1, 8), (8, 1)])
def test_a_state_can_be_restored_onto_other_devices(
  open_checkpointer, before, after
):
  if jax.device_count() < 8:
    pytest.skip("needs 8 fake devices")
  state = jax.device_put(make_state(), replicated(before))
  checkpointer = open_checkpointer()
  checkpointer.save(1, state, None, {})
  restored = checkpointer.restore_latest(abstract(state, after)).state
  assert_bitwise_equal(restored, state)
  for leaf in jax.tree.leaves(restored):
    assert leaf.sharding == replicated(after)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda s: make_state(width=41),
      r"params\.net/~/lin\.b is bfloat16\[40\] in the checkpoint and "
      r"bfloat16\[41\] in this config",
    ),
    (
      lambda s: s._replace(ema_params=()),
      r"ema_params\.net/~/lin\.b is bfloat16\[40\] in the checkpoint and "
      "absent",
    ),
    (
      lambda s: s._replace(net_state={"mean": s.step}),
      r"net_state\.mean is absent in the checkpoint and int32\[\]",
    ),
    (
      lambda s: s._replace(step=jax.device_put(jnp.uint32(0), replicated())),
      r"step is int32\[\] in the checkpoint and uint32\[\]",
    ),
  ],
)
def test_a_checkpoint_of_another_model_is_not_reported_as_damaged(
  saved, directory, change, message
):
  before = contents(directory.parent)
  other = abstract(change(make_state()))
  with pytest.raises(UserError, match=message):
    saved.restore_latest(other)
  with pytest.raises(UserError, match=message):
    saved.restore(10, other)
  assert contents(directory.parent) == before


def test_containers_without_leaves_are_ignored(saved):
  state = make_state(20)._replace(net_state={"new": {}})
  assert_bitwise_equal(saved.restore_latest(abstract(state)).state, state)


def test_a_checkpoint_of_other_data_is_not_reported_as_damaged(
  saved, directory
):
  class Other:
    def set_state(self, state):
      raise ValueError("expected 2 workers")

  with pytest.raises(UserError, match="data pipeline: expected 2 workers"):
    saved.restore_latest(abstract(make_state()), Other())
  assert saved.steps() == [10, 20]


@pytest.mark.parametrize(
  ("mode", "best", "kept"), [("max", 2, [2, 5, 6]), ("min", 1, [1, 5, 6])]
)
def test_the_latest_and_the_best_checkpoints_are_kept(
  open_checkpointer, mode, best, kept
):
  options = {"best_metric": "accuracy", "best_mode": mode}
  checkpointer = open_checkpointer(**options)
  state = make_state()
  values = [0.1, 0.9, float("nan"), None, 0.2, 0.3]
  for step, value in enumerate(values, start=1):
    metrics = None if value is None else {"accuracy": value}
    checkpointer.save(step, state, None, {"step": step}, metrics)
  checkpointer.wait()
  assert checkpointer.steps() == kept
  reopened = open_checkpointer(**options)
  assert reopened.best_step() == best
  assert reopened.restore_best(abstract(state)).extras == {"step": best}
  better = 0.95 if mode == "max" else 0.05
  reopened.save(7, state, None, {}, {"accuracy": np.float32(better)})
  reopened.wait()
  assert reopened.steps() == [6, 7]


def test_the_newest_of_equally_good_checkpoints_is_kept(open_checkpointer):
  checkpointer = open_checkpointer(keep_latest=1, best_metric="accuracy")
  for step in (1, 2):
    checkpointer.save(step, make_state(), None, {}, {"accuracy": 0.5})
  checkpointer.save(3, make_state(), None, {})
  checkpointer.wait()
  assert checkpointer.steps() == [2, 3]


def test_restoring_the_best_without_a_metric_is_an_error(saved):
  with pytest.raises(UserError, match="no checkpoint with the metric"):
    saved.restore_best(abstract(make_state()))


def test_an_old_checkpoint_is_deleted_once_the_new_one_is_complete(
  open_checkpointer,
):
  checkpointer = open_checkpointer(keep_latest=1)
  checkpointer.save(1, make_state(), None, {})
  checkpointer.wait()
  checkpointer.save(2, make_state(), None, {})
  assert 1 in checkpointer.steps()
  checkpointer.wait()
  assert checkpointer.steps() == [2]


def test_a_save_succeeds_if_an_old_checkpoint_cannot_be_deleted(
  open_checkpointer, directory, warnings, monkeypatch
):
  path_type = type(epath.Path(directory))
  rmtree = path_type.rmtree

  def refuse_step_1(path, *args, **kwargs):
    if path.name == "1":
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    rmtree(path, *args, **kwargs)

  monkeypatch.setattr(path_type, "rmtree", refuse_step_1)
  checkpointer = open_checkpointer(keep_latest=1)
  for step in (1, 2, 3):
    checkpointer.save(step, make_state(), None, {})
  checkpointer.wait()
  assert checkpointer.steps() == [1, 3]
  message = f"can't remove the old checkpoint {directory / '1'}: "
  assert warnings == [f"{message}Permission denied"] * 2


def test_saving_a_step_again_changes_nothing(saved, directory):
  before = contents(directory)
  saved.save(20, make_state(99), make_iterator(), {})
  saved.wait()
  assert contents(directory) == before


def test_a_relative_directory_is_resolved_at_construction(
  tmp_path, monkeypatch
):
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path)
  checkpointer = Checkpointer("run/checkpoints")
  monkeypatch.chdir(tmp_path / "elsewhere")
  checkpointer.save(1, make_state(), None, {})
  checkpointer.close()
  assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_a_remote_directory_is_not_resolved():
  folder = folder_lib.CheckpointFolder("gs://b/c", read_only=True)
  assert str(folder / 3) == "gs://b/c/3"


@pytest.mark.parametrize(
  "options", [{"keep_latest": 0}, {"keep_best": -1}, {"best_mode": "most"}]
)
def test_invalid_options_are_refused(directory, options):
  with pytest.raises(UserError, match="keep_latest >= 1"):
    Checkpointer(directory, **options)


def test_only_warnings_of_orbax_are_logged(open_checkpointer):
  records = []
  handler = std_logging.Handler()
  handler.emit = records.append
  logger, verbosity = logging.get_absl_logger(), logging.get_verbosity()
  logger.addHandler(handler)
  logging.set_verbosity(logging.INFO)
  try:
    checkpointer = open_checkpointer()
    checkpointer.save(1, make_state(), make_iterator(), {})
    checkpointer.wait()
    logger.handle(
      logger.makeRecord("absl", 30, "/x/orbax/y.py", 1, "careful", (), None)
    )
  finally:
    logger.removeHandler(handler)
    logging.set_verbosity(verbosity)
  assert [record.getMessage() for record in records] == ["careful"]
