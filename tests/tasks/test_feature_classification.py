"""Tests of the classification of clips from features."""

import jax
import numpy as np
import pytest
import task_helpers

from configs import resampler
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from perceiver_jax.training import loop, step

pytestmark = pytest.mark.usefixtures("compile_once")


def _task(variant="smoke", **leaves):
  return task_helpers.make_task(resampler, variant, **leaves)


def _clip(frames):
  features = np.random.default_rng(frames).normal(size=(frames, 9, 32))
  return {"features": np.float32(features), "label": np.int32(1)}


@pytest.mark.parametrize("variant", ["smoke", "mean_pooling,smoke"])
def test_padding_never_matters(variant):
  task = _task(variant)
  examples = [task.preprocess(_clip(frames), None) for frames in (6, 10)]
  batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
  assert batch["features"].shape == (2, 10, 9, 32)
  np.testing.assert_array_equal(batch["frame_mask"].sum(1), [6, 10])
  model = step.model_of(task, "float32")
  params, state = task_helpers.random_variables(model, batch)
  run = jax.jit(
    lambda b: model.apply(params, state, None, b, is_training=False)[0].logits
  )
  other = np.where(batch["frame_mask"][..., None, None], batch["features"], 7.0)
  np.testing.assert_allclose(
    run({**batch, "features": other}), run(batch), rtol=1e-5
  )


def test_training_reads_batches_of_the_source():
  task = _task()
  assert isinstance(task, registry.TASKS["feature_classification"])
  (batch,) = task_helpers.train_batches(task, 1, 8)
  assert batch["features"].shape == (8, 10, 9, 32)
  assert task.metadata() == {"class_names": task.class_names}
  assert task.dummy_batch().keys() >= set(batch) - {"rng"}


def test_wrong_configs_are_refused():
  with pytest.raises(UserError, match="num_classes is 7 but the data has 12"):
    _task(model__num_classes=7)
  with pytest.raises(UserError, match=r"config.data.num_frames is 0"):
    _task(data__num_frames=0)
  with pytest.raises(UserError, match="choose"):
    _task(data__source="nothing")
  with pytest.raises(UserError, match="has 9 frames, and"):
    _task(data__num_frames=8).preprocess(_clip(9), None)


def test_a_smoke_run_trains_and_is_evaluated(tmp_path, no_report):
  config = resampler.get_config("smoke")
  config.num_steps = config.eval_every_steps = 2
  task = registry.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path, num_devices=1).run()
  assert 0 <= outcome.results["metrics"]["eval/accuracy"] <= 1


@pytest.mark.slow
def test_a_resampler_learns_the_order_that_the_mean_lacks(tmp_path, no_report):
  accuracy = {}
  for variant in ("", "mean_pooling"):
    config = resampler.get_config(variant)
    config.eval_every_steps = 0
    task = registry.make_task(config)
    folder = tmp_path / f"run_{variant}"
    outcome = loop.Trainer(config, task, folder, num_devices=1).run()
    accuracy[variant] = outcome.results["metrics"]["eval/accuracy"]
  assert accuracy[""] > 0.8
  assert accuracy["mean_pooling"] < 0.55  # The mean tells pairs at best: 0.5.
