"""Tests initializing a run from weights and exporting its own."""

import jax
import numpy as np
import pytest
import tiny_runs as runs
from jax import numpy as jnp

from perceiver_jax import weights
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import initialize_from, loop, restore, step

pytestmark = pytest.mark.usefixtures("compile_once", "no_report")


def _train(config, folder):
  loop.Trainer(config, tasks.make_task(config), folder, 1).run()
  return weights.load(folder)


def _short(config):
  config.num_steps, config.num_epochs = 2, 0.0
  config.ema_decay = 0.5
  return config


@pytest.fixture
def config(tiny_config):
  return _short(tiny_config)


@pytest.fixture(scope="module")
def first(make_tiny_config, tmp_path_factory, compile_once):
  """Returns the folder of a run to initialize from, and its weights."""
  folder = tmp_path_factory.mktemp("first")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("perceiver_jax.viz.report.write_report", lambda *_: None)
    return folder, _train(_short(make_tiny_config()), folder)


def test_the_weights_of_a_run_are_those_it_evaluates(config, first):
  folder, exported = first
  assert exported.spec == config.model.to_dict()
  task = tasks.make_task(config)
  state = restore.restore(config, task, folder, "latest").state
  for module, leaves in exported.params.items():
    for name, leaf in leaves.items():
      np.testing.assert_array_equal(leaf, state.ema_params[module][name])
  model = weights.transform(exported.spec)
  images = jax.device_put(task.dummy_batch()["image"])
  out, _ = jax.jit(model.apply)(*jax.device_put(exported[1:]), None, images)
  assert out.logits.shape == (1, 10)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, compile_once):
  """Returns the folder of a run of `TinyTask`."""
  folder = tmp_path_factory.mktemp("tiny")
  runs.train(folder)
  return folder


def test_initializing_from_a_run_loads_all_arrays(tiny, tmp_path, capsys):
  folder, initial = tiny, weights.load(tiny)
  leaves = {"optimizer__learning_rate": 0.0, "ema_decay": 0.9}
  config = runs.tiny_config(init_from=str(folder), **leaves)
  runs.train(tmp_path / "second", config)
  second = weights.load(tmp_path / "second")
  for module, leaves in initial.params.items():
    for name, leaf in leaves.items():
      np.testing.assert_allclose(second.params[module][name], leaf, rtol=1e-6)
  out = capsys.readouterr().out
  count = len(jax.tree.leaves(initial.params))
  assert f"started from {folder}" in out
  assert f"{count} arrays loaded" in out


def test_head_of_another_size_is_initialized_and_named(
  config, first, tmp_path, capsys
):
  _, initial = first
  head = {
    name: x[..., :7] for name, x in initial.params["decoder/output"].items()
  }
  smaller = initial._replace(
    spec=initial.spec | {"num_classes": 7},
    params=initial.params | {"decoder/output": head},
  )
  weights.save(tmp_path / "smaller.safetensors", smaller)
  config.init_from = str(tmp_path / "smaller.safetensors")
  _train(config, tmp_path / "second")
  out = capsys.readouterr().out
  assert "2 initialized: decoder/output/b, decoder/output/w" in out
  assert "2 skipped: decoder/output/b, decoder/output/w" in out


@pytest.mark.parametrize(("width", "warned"), [(2, False), (3, True)])
def test_weights_without_a_self_attend_that_fits_are_a_warning(
  caplog, width, warned
):
  name = "encoder/block_0/layers/self_attend/mlp/hidden"
  params = {name: {"w": jnp.ones((1, 2, 2))}, "a": {"b": jnp.ones(2)}}
  state = step.TrainState(0, params, {}, (), (), rng=None)
  spec = {"adapter": {}}
  given = {name: {"w": np.ones((1, 2, width))}, "a": {"b": np.zeros(2)}}
  with caplog.at_level("WARNING", "absl"):
    initialize_from.initialize_state(
      state, weights.Weights(spec, given, {}), spec
    )
  assert ("no self-attend" in caplog.text) == warned


def test_weights_that_are_not_finite_are_refused(tiny, tmp_path):
  given = weights.load(tiny)
  given.params["linear"]["b"] = np.full_like(
    given.params["linear"]["b"], np.nan
  )
  path = tmp_path / "diverged.safetensors"
  weights.save(path, given)
  config = runs.tiny_config(init_from=str(path))
  with pytest.raises(UserError, match="linear/b that are NaN"):
    runs.train(tmp_path / "second", config)


def test_resumed_run_does_not_need_the_weights(tiny, tmp_path):
  path = tmp_path / "start.safetensors"
  weights.save(path, weights.load(tiny))
  config = runs.tiny_config(init_from=str(path), max_seconds=1e-9)
  assert runs.train(tmp_path / "second", config).step == 1
  path.unlink()
  assert runs.train(tmp_path / "second", config).step == 2


def test_missing_weights_are_an_error_before_anything_is_written(
  config, tmp_path
):
  config.init_from = str(tmp_path / "none.safetensors")
  with pytest.raises(UserError, match="no weights at"):
    _train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
