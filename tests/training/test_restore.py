"""Tests of restoring the checkpoints of a run for evaluation and prediction."""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import pytest

from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.tasks.base import Task
from perceiver_jax.training import restore, step, workdir
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer

ACCURACIES = {2: 0.5, 4: 0.9, 6: 0.7}


def make_state(config, task, seed):
  """Returns a random state with the shapes of the config."""
  rng = np.random.default_rng(seed)

  def fill(x):
    value = np.asarray(100 * rng.normal(size=x.shape)).astype(x.dtype)
    return jax.device_put(value, x.sharding)

  abstract = restore.abstract_state(config, task, step.make_mesh())
  return jax.tree.map(fill, abstract)


class Saved(NamedTuple):
  """A run's folder with its config, task and saved states by step."""

  folder: Path
  config: ml_collections.ConfigDict
  task: Task
  states: dict[int, step.TrainState]

  def restore(self, which):
    return restore.restore(self.config, self.task, self.folder, which)


@pytest.fixture(scope="module")
def shared(make_tiny_config, tmp_path_factory):
  config, folder = make_tiny_config(), tmp_path_factory.mktemp("run")
  config.ema_decay = 0.9
  task, states = tasks.make_task(config), {}
  checkpointer = Checkpointer(folder / workdir.CHECKPOINTS, keep_latest=3)
  for at, accuracy in ACCURACIES.items():
    states[at] = make_state(config, task, at)
    metrics = {task.primary_metric: accuracy}
    checkpointer.save(at, states[at], None, {}, metrics)
  checkpointer.close()
  return Saved(folder, config, task, states)


@pytest.fixture
def saved(shared):
  before = listing(shared.folder)
  yield shared
  assert listing(shared.folder) == before, "restoring must not write"


@pytest.fixture
def task(tiny_config):
  return tasks.make_task(tiny_config)


def listing(folder):
  return {
    str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
    for p in folder.rglob("*")
  }


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize(
  ("which", "at"), [("latest", 6), ("best", 4), ("2", 2), ("6", 6)]
)
def test_checkpoint_is_restored_to_all_devices(saved, which, at):
  restored = saved.restore(which)
  assert restored.step == at
  assert_same(restored.state, saved.states[at])
  assert restored.mesh.size == jax.device_count()
  for x in jax.tree.leaves(restored.state):
    assert x.sharding.is_equivalent_to(step.replicated(restored.mesh), x.ndim)


def test_best_checkpoint_follows_the_mode_of_the_task(saved, monkeypatch):
  monkeypatch.setattr(saved.task, "primary_mode", "min")
  assert saved.restore("best").step == 2


def test_damaged_newest_checkpoint_is_skipped_and_left_in_place(
  saved, tmp_path
):
  copy = saved._replace(folder=tmp_path / "copy")
  shutil.copytree(saved.folder, copy.folder)
  for path in (copy.folder / workdir.CHECKPOINTS / "6").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  before = listing(copy.folder)
  assert copy.restore("latest").step == 4
  assert listing(copy.folder) == before


def test_averaged_parameters_are_evaluated(saved):
  params, net_state = restore.local_params(saved.restore("latest").state)
  assert_same(params, jax.device_get(saved.states[6].ema_params))
  assert net_state == {}
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(params))


def test_the_restored_model_computes_in_the_precision_of_the_config(saved):
  for name, is_half in (("bfloat16", True), ("float32", False)):
    config = saved.config.copy_and_resolve_references()
    config.precision = name
    model = saved._replace(config=config).restore("latest").model
    state = saved.states[6]
    batch = jax.device_put(saved.task.dummy_batch())
    make = jax.make_jaxpr(model.apply, static_argnums=4)
    program = make(state.params, state.net_state, None, batch, False)
    assert ("bf16" in str(program)) == is_half


@pytest.mark.parametrize("warmup", [0, 1, 500])
def test_a_state_can_be_described_without_the_length_of_the_run(
  tiny_config, task, warmup
):
  tiny_config.num_steps = 0
  tiny_config.optimizer.warmup_steps = warmup
  abstract = restore.abstract_state(tiny_config, task, step.make_mesh(2))
  assert abstract.step.sharding.mesh.size == 2
  assert abstract.ema_params == ()


@pytest.mark.parametrize("exists", [True, False])
def test_missing_checkpoint_is_a_user_error(
  tiny_config, task, tmp_path, exists
):
  folder = tmp_path / "run"
  if exists:
    folder.mkdir()
  with pytest.raises(
    UserError, match=f"--workdir={folder} has no checkpoint yet; train first"
  ):
    restore.restore(tiny_config, task, folder, "latest")
  for which in ("best", "3"):
    with pytest.raises(UserError, match="no checkpoint"):
      restore.restore(tiny_config, task, folder, which)
  assert listing(tmp_path) == ({"run": None} if exists else {})


def test_unsaved_step_lists_the_saved_ones(saved):
  with pytest.raises(UserError, match=r"no checkpoint of step 3: .*2, 4, 6"):
    saved.restore("3")


@pytest.mark.parametrize("which", ["newest", "-2", "2.0", "", "²"])
def test_the_error_for_an_invalid_checkpoint_flag_lists_the_choices(
  saved, which
):
  with pytest.raises(
    UserError, match=rf"--checkpoint={which}: give latest, best or a step"
  ):
    saved.restore(which)


def test_a_checkpoint_of_another_model_is_a_user_error(saved):
  config = saved.config.copy_and_resolve_references()
  config.model.encoder.num_latents = 5
  other = saved._replace(config=config, task=tasks.make_task(config))
  with pytest.raises(UserError, match="latents"):
    other.restore("latest")
