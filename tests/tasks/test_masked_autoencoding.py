"""Tests of masked autoencoding."""

import jax
import numpy as np
import pytest
import task_helpers

from configs import hip as config_file
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import masked_autoencoding
from perceiver_jax.training import loop, step

pytestmark = pytest.mark.usefixtures("compile_once")


def _task(**leaves):
  return task_helpers.make_task(config_file, "smoke", **leaves)


def _batch(task, size=3):
  (batch,) = task_helpers.train_batches(task, 1, size)
  return {**batch, "mask": np.ones(size, np.float32)}


def _outputs(images):
  flat = images.reshape(len(images), -1, images.shape[-1])
  return task_helpers.outputs({"image": flat})


@pytest.mark.parametrize("size", [1, 4])
def test_the_share_of_masked_squares_is_the_mask_rate(size):
  masked = _batch(_task(data__mask_size=size))["masked"]
  squares = masked.reshape(3, 16 // size, size, 16 // size, size)
  per_square = squares.mean((2, 4))
  assert set(np.unique(per_square)) == {0.0, 1.0}
  np.testing.assert_allclose(per_square.mean((1, 2)), 0.5)
  assert (masked[0] != masked[1]).any()


def test_an_image_is_masked_in_the_same_way_in_every_evaluation():
  task = _task()
  source = task.source("eval")
  first, again = (task.preprocess(source[0], None) for _ in range(2))
  np.testing.assert_array_equal(first["masked"], again["masked"])
  other = task.preprocess(source[1], None)
  assert (first["masked"] != other["masked"]).any()


def test_only_masked_pixels_of_real_examples_count():
  task = _task()
  batch = _batch(task)
  batch["mask"][-1] = 0
  masked = batch["masked"][..., None]
  images = np.where(masked, batch["image"] + 0.2, batch["image"] - 1)
  images[-1] = 7
  sums = task.metrics(_outputs(images), batch)
  means = {name: total / count for name, (total, count) in sums.items()}
  assert float(means["loss"]) == pytest.approx(0.04, rel=1e-4)
  assert float(means["visible_error"]) == pytest.approx(1, rel=1e-4)
  # Images span [-1, 1], so that 0.2 is a tenth of white.
  assert float(means["psnr"]) == pytest.approx(20, abs=1e-3)
  assert float(sums["psnr"][1]) == 2


def test_the_baselines_know_only_visible_pixels():
  task = _task()
  batch = _batch(task)
  rows = np.linspace(-1, 1, 16, dtype=np.float32)
  batch["image"] = np.broadcast_to(rows[:, None, None], (3, 16, 16, 3)).copy()
  hidden = np.where(batch["masked"][..., None], 9, batch["image"])
  for baseline, near in (
    (masked_autoencoding._visible_mean, False),
    (masked_autoencoding._interpolated, True),
  ):
    guess = baseline(batch["image"], batch["masked"])
    other = baseline(hidden, batch["masked"])
    np.testing.assert_allclose(guess, other, atol=1e-5)
    error = np.abs(guess - batch["image"])[batch["masked"]].mean()
    assert (error < 0.1) == near


def test_the_model_does_not_see_masked_pixels():
  task = _task()
  batch = _batch(task)
  model = step.model_of(task, "float32")
  variables = task_helpers.random_variables(model, batch)
  apply = jax.jit(lambda b: model.apply(*variables, None, b, False)[0].logits)
  masked = batch["masked"][..., None]
  changed = {**batch, "image": np.where(masked, 5, batch["image"])}
  changed["image"] = changed["image"].astype(np.float32)
  before, after = apply(batch)["image"], apply(changed)["image"]
  np.testing.assert_array_equal(before, after)


def test_the_report_shows_predictions_and_positions():
  task = _task()
  batch = _batch(task)
  table = np.random.default_rng(0).normal(size=(256, 8))
  outputs = _outputs(batch["image"])
  latents = type("Latents", (), {"queries": {"image": table}})
  outputs = outputs._replace(latents=latents)
  images = task.summary_images(outputs, batch)
  assert set(images) == {"predictions", "learned_positions"}
  titles = [x.title for x in task.report_sections(outputs, batch, {})]
  assert titles == ["Sample predictions", "Learned positions"]


@pytest.mark.parametrize(
  ("leaf", "value", "message"),
  [
    ("data__mask_rate", 1.0, "mask_rate is 1.0"),
    ("data__mask_size", 5, "mask_size is 5"),
    ("data__mask_size", 16, "masks 0 of 1 squares .* lower .*mask_size"),
    ("data__mask_rate", 0.001, "masks 0 of 256 squares"),
    ("data__mask_rate", 0.999, "masks 256 of 256 squares"),
    ("mixing__mixup_alpha", 0.2, "leaves of config.mixing"),
  ],
)
def test_impossible_leaves_are_explained(leaf, value, message):
  with pytest.raises(UserError, match=message):
    _task(**{leaf: value})


@pytest.mark.slow
def test_a_classifier_starts_from_a_pretrained_model(tmp_path, no_report):
  pretrained = task_helpers.make_config(config_file)
  task = task_helpers.registry.make_task(pretrained)
  loop.Trainer(pretrained, task, tmp_path / "a", num_devices=1).run()
  config = task_helpers.make_config(config_file, "small_classify,smoke")
  config.init_from = str(tmp_path / "a")
  task = task_helpers.registry.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path / "b", num_devices=1).run()
  assert "eval/accuracy" in outcome.results["metrics"]
