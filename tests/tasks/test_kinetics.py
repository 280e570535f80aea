"""Tests of the Kinetics autoencoding task."""

import functools
import json

import jax
import numpy as np
import pytest
import task_helpers

from configs import kinetics as config_file
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import decoding
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop, step
from perceiver_jax.training import metrics as metrics_lib

pytestmark = pytest.mark.usefixtures("compile_once")


_config = functools.partial(task_helpers.make_config, config_file)
_task = functools.partial(task_helpers.make_task, config_file)


def _train_batch(task, size=8):
  (batch,) = task_helpers.train_batches(task, 1, size)
  return batch


def _outputs(**decoded):
  return task_helpers.outputs(decoded)


def test_training_decodes_some_points_and_masks_half_of_the_labels():
  task = _task()
  batch = _train_batch(task, 32)
  example = task.dummy_batch()
  assert {*example} - {"mask"} == batch.keys()
  for name in batch:
    assert batch[name].shape[1:] == example[name].shape[1:], name
    assert batch[name].dtype == example[name].dtype, name
  assert 6 <= batch["label_masked"].sum() <= 26
  points = batch["image_queries"]
  assert points.shape == (32, 256)
  assert points.min() < 100
  assert 4500 < points.max() < 8 * 24 * 24
  assert len(np.unique(points, axis=0)) == 32
  assert batch["audio_queries"].max() < 160
  assert batch["image"].min() >= 0
  assert 0.5 < batch["image"].max() <= 1


def test_points_and_published_row_are_those_of_the_paper():
  task = tasks.make_task(
    config_file.get_config("latents_392"), {"class_names": ["x"] * 700}
  )
  example = task.dummy_batch()
  assert example["image"].shape == (1, 16, 224, 224, 3)
  assert example["audio"].shape == (1, 30_720, 1)
  assert example["image_queries"].shape == (1, 512)
  assert example["audio_queries"].shape == (1, 512)
  assert task.published["eval/video_psnr"] == 24.27


def test_the_loss_is_computed_at_the_decoded_points():
  task = _task()
  batch = _train_batch(task)
  rng = np.random.default_rng(0)
  decoded = {
    "image": rng.random((8, 256, 3)),
    "audio": rng.normal(size=(8, 64, 32)),
    "label": rng.normal(size=(8, 9)),
  }
  out = metrics_lib.means(task.loss(_outputs(**decoded), batch))
  errors = {"image": [], "audio": []}
  for i in range(8):
    frames, rows, columns = np.unravel_index(
      batch["image_queries"][i], (8, 24, 24)
    )
    target = batch["image"][i][frames, rows, columns]
    errors["image"].append(np.abs(decoded["image"][i] - target).mean())
    starts = 32 * batch["audio_queries"][i]
    target = [batch["audio"][i, s : s + 32, 0] for s in starts]
    errors["audio"].append(np.abs(decoded["audio"][i] - target).mean())
  for name, each in errors.items():
    assert out[f"{name}_loss"] == pytest.approx(np.mean(each), rel=1e-5)
  logs = np.asarray(jax.nn.log_softmax(decoded["label"]))
  entropy = -(logs * batch["label"]).sum(-1).mean()
  assert out["label_loss"] == pytest.approx(entropy, rel=1e-5)
  assert out["loss"] == pytest.approx(
    0.03 * out["image_loss"] + out["audio_loss"] + 1e-4 * entropy, rel=1e-5
  )


def test_training_accuracy_is_that_of_masked_labels():
  task = _task()
  batch = _train_batch(task)
  masked = batch["label_masked"]
  # Predictions are correct only where the label was an input.
  labels = np.where(masked[:, None], 1 - batch["label"], batch["label"])
  outputs = _outputs(
    image=np.zeros((8, 256, 3)), audio=np.zeros((8, 64, 32)), label=labels
  )
  correct, count = task.loss(outputs, batch)["accuracy"]
  assert (correct, count) == (0, masked.sum())


def _eval_batch(task):
  return next(iter(task.eval_datasets(global_batch=4)["eval"]))


def test_evaluation_compares_psnr_with_trivial_predictions():
  task = _task()
  batch = _eval_batch(task)
  assert batch["label_masked"].all()
  image, audio = batch["image"], batch["audio"]
  outputs = _outputs(
    # Values beyond white are clipped.
    image=np.where(image < image.mean(), image, image + 0.1),
    audio=0.5 * audio,
    label=batch["label"],
  )
  batch["mask"][3:] = 0
  out = metrics_lib.means(task.metrics(outputs, batch))
  clipped = outputs.logits["image"].clip(0, 1)
  error = np.square(clipped - image)[:3].mean((1, 2, 3, 4))
  assert out["video_psnr"] == pytest.approx(
    np.mean(-10 * np.log10(error)), rel=1e-4
  )
  # An error of half the amplitude is 6.02 dB better than silence.
  assert out["audio_psnr"] - out["audio_psnr_of_silence"] == pytest.approx(
    20 * np.log10(2), abs=0.01
  )
  own = image - image.mean(1, keepdims=True)
  error = np.square(own)[:3].mean((1, 2, 3, 4))
  assert out["video_psnr_of_own_mean"] == pytest.approx(
    np.mean(-10 * np.log10(error)), rel=1e-4
  )
  # Moving shapes of random colors differ from their mean.
  assert 10 < out["video_psnr_of_mean_frame"] < 18
  assert out["accuracy"] == out["top_5_accuracy"] == 1


def test_evaluation_needs_no_training_clips():
  task = _task(data__train_split="lost")
  batch = _eval_batch(task)
  outputs = _outputs(**{name: batch[name] for name in ("image", "audio")},
                     label=batch["label"])  # fmt: skip
  out = metrics_lib.means(task.metrics(outputs, batch))
  assert "video_psnr_of_own_mean" in out
  assert "video_psnr_of_mean_frame" not in out


def test_evaluation_decodes_all_points_in_parts():
  # Seven parts do not divide the grids.
  task = _task(num_parts=7)
  model = step.model_of(task, "float32")
  batch = {**task.dummy_batch(), "rng": np.zeros((1, 2), np.uint32)}
  init = jax.jit(model.init, static_argnums=2)
  params, state = init(jax.random.key(0), batch, True)
  batch = _eval_batch(task)
  apply = jax.jit(
    lambda batch: model.apply(params, state, None, batch, False)[0].logits
  )
  out = apply(batch)
  assert out["image"].shape == (4, 8, 24, 24, 3)
  assert out["audio"].shape == (4, 5120, 1)
  pick = lambda points: apply(
    {
      **batch,
      "image_queries": np.repeat(points["image"][None], 4, 0),
      "audio_queries": np.repeat(points["audio"][None], 4, 0),
    }
  )
  shapes = {"image": (8, 24, 24), "audio": (160,)}
  expected = decoding.decode_in_parts(pick, shapes, num_parts=3)
  np.testing.assert_allclose(out["image"], expected["image"], atol=2e-5)
  np.testing.assert_allclose(
    out["audio"], expected["audio"].reshape(4, 5120, 1), atol=2e-5
  )
  np.testing.assert_allclose(out["label"], expected["label"], atol=2e-5)
  # The value of a masked label has no effect.
  other = {**batch, "label": np.roll(batch["label"], 1, axis=-1)}
  np.testing.assert_array_equal(out["image"], apply(other)["image"])
  unmasked = {**other, "label_masked": np.zeros(4, bool)}
  assert np.any(np.asarray(out["image"]) != apply(unmasked)["image"])


@pytest.mark.parametrize(
  ("leaves", "message"),
  [
    ({"data__num_frames": 4}, r"image.shape is \(8, 24, 24\).*\(4, 24, 24\)"),
    ({"data__num_samples": 2560}, r"audio.shape is \(160,\).*\(80,\)"),
    ({"model__decoder__outputs__label__num_outputs": 8}, r"is 8, .* gives 9"),
    ({"num_queries__audio": 161}, r"num_queries.audio is 161; give 1 to 160"),
    ({"num_parts": 0}, "num_parts is 0"),
    (
      {"data__source_args__generated__pairs_only": False,
       "model__decoder__outputs__label__num_outputs": 15},
      "no class or several",
    ),
  ],
)  # fmt: skip
def test_inconsistent_configs_are_refused(leaves, message):
  with pytest.raises(UserError, match=message):
    _task(**leaves)


@pytest.mark.slow
def test_the_report_of_a_run_has_reconstructed_video_and_audio(tmp_path):
  config = _config(num_steps=2)
  config.data.source_args.generated.update(num_train=8, num_test=4)
  loop.Trainer(config, tasks.make_task(config), tmp_path, num_devices=1).run()
  metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
  assert {"eval/video_psnr", "eval/audio_psnr", "eval/accuracy"} <= {*metrics}
  page = (tmp_path / "report.html").read_text()
  assert page.count('src="data:video/mp4;base64,') == 4
  assert page.count('src="data:audio/wav;base64,') == 4
  assert page.count('alt="waveforms and spectrograms of ') == 4
  assert "label: disc with " in page or "label: tall bar with " in page
