"""What the autoencoder's task makes of a config, and a run of it."""

import json

import jax
import numpy as np
import pytest

from configs import kinetics as config_file
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import decoding
from perceiver_jax.models.perceiver import Outputs
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop, step
from perceiver_jax.training import metrics as metrics_lib

pytestmark = pytest.mark.usefixtures("compile_once")


def _config(variant="smoke", **leaves):
  config = config_file.get_config(variant)
  for name, value in leaves.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  return config


def _task(variant="smoke", **leaves):
  return tasks.make_task(_config(variant, **leaves))


def _train_batch(task, size=8):
  iterator = iter(task.train_dataset(global_batch=size))
  batch = next(iterator)
  iterator.close()
  return batch


def _outputs(**decoded):
  decoded = {name: np.asarray(x, np.float32) for name, x in decoded.items()}
  return Outputs(decoded, None, (), None)


def test_training_decodes_some_points_and_hides_half_of_the_labels():
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


def test_the_papers_points_and_published_row():
  task = tasks.make_task(
    config_file.get_config("latents_392"), {"class_names": ["x"] * 700}
  )
  example = task.dummy_batch()
  assert example["image"].shape == (1, 16, 224, 224, 3)
  assert example["audio"].shape == (1, 30_720, 1)
  assert example["image_queries"].shape == (1, 512)
  assert example["audio_queries"].shape == (1, 512)
  assert task.published["eval/video_psnr"] == 24.27


def test_the_loss_is_of_the_chosen_points():
  task = _task()
  batch = _train_batch(task)
  rng = np.random.default_rng(0)
  decoded = {
    "image": rng.random((8, 256, 3)),
    "audio": rng.normal(size=(8, 64, 32)),
    "label": rng.normal(size=(8, 9)),
  }
  found = metrics_lib.means(task.loss(_outputs(**decoded), batch))
  errors = {"image": [], "audio": []}
  for i in range(8):
    frames, rows, columns = np.unravel_index(
      batch["image_queries"][i], (8, 24, 24)
    )
    truth = batch["image"][i][frames, rows, columns]
    errors["image"].append(np.abs(decoded["image"][i] - truth).mean())
    starts = 32 * batch["audio_queries"][i]
    truth = [batch["audio"][i, s : s + 32, 0] for s in starts]
    errors["audio"].append(np.abs(decoded["audio"][i] - truth).mean())
  for name, each in errors.items():
    assert found[f"{name}_loss"] == pytest.approx(np.mean(each), rel=1e-5)
  logs = np.asarray(jax.nn.log_softmax(decoded["label"]))
  entropy = -(logs * batch["label"]).sum(-1).mean()
  assert found["label_loss"] == pytest.approx(entropy, rel=1e-5)
  assert found["loss"] == pytest.approx(
    0.03 * found["image_loss"] + found["audio_loss"] + 1e-4 * entropy, rel=1e-5
  )


def test_accuracy_in_training_is_of_masked_labels():
  task = _task()
  batch = _train_batch(task)
  masked = batch["label_masked"]
  # Correct only where the label is visible.
  labels = np.where(masked[:, None], 1 - batch["label"], batch["label"])
  outputs = _outputs(
    image=np.zeros((8, 256, 3)), audio=np.zeros((8, 64, 32)), label=labels
  )
  right, count = task.loss(outputs, batch)["accuracy"]
  assert (right, count) == (0, masked.sum())


def _eval_batch(task):
  return next(iter(task.eval_datasets(global_batch=4)["eval"]))


def test_evaluation_compares_with_what_says_little():
  task = _task()
  batch = _eval_batch(task)
  assert batch["label_masked"].all()
  image, audio = batch["image"], batch["audio"]
  outputs = _outputs(
    # What is beyond black and white is shown as those.
    image=np.where(image < image.mean(), image, image + 0.1),
    audio=0.5 * audio,
    label=batch["label"],
  )
  batch["mask"][3:] = 0
  found = metrics_lib.means(task.metrics(outputs, batch))
  shown = outputs.logits["image"].clip(0, 1)
  error = np.square(shown - image)[:3].mean((1, 2, 3, 4))
  assert found["video_psnr"] == pytest.approx(
    np.mean(-10 * np.log10(error)), rel=1e-4
  )
  # Half of the amplitude is missing: 6.02 dB better than all of it.
  assert found["audio_psnr"] - found["audio_psnr_of_silence"] == pytest.approx(
    20 * np.log10(2), abs=0.01
  )
  own = image - image.mean(1, keepdims=True)
  error = np.square(own)[:3].mean((1, 2, 3, 4))
  assert found["video_psnr_of_own_mean"] == pytest.approx(
    np.mean(-10 * np.log10(error)), rel=1e-4
  )
  # Moving shapes of any colour have little to do with the mean of them all.
  assert 10 < found["video_psnr_of_mean_frame"] < 18
  assert found["accuracy"] == found["top_5_accuracy"] == 1


def test_evaluation_needs_no_training_clips():
  task = _task(data__train_split="lost")
  batch = _eval_batch(task)
  outputs = _outputs(**{name: batch[name] for name in ("image", "audio")},
                     label=batch["label"])  # fmt: skip
  found = metrics_lib.means(task.metrics(outputs, batch))
  assert "video_psnr_of_own_mean" in found
  assert "video_psnr_of_mean_frame" not in found


def test_everything_is_decoded_in_parts_as_by_single_calls():
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
  found = apply(batch)
  assert found["image"].shape == (4, 8, 24, 24, 3)
  assert found["audio"].shape == (4, 5120, 1)
  pick = lambda points: apply(
    {
      **batch,
      "image_queries": np.repeat(points["image"][None], 4, 0),
      "audio_queries": np.repeat(points["audio"][None], 4, 0),
    }
  )
  shapes = {"image": (8, 24, 24), "audio": (160,)}
  expected = decoding.decode_in_parts(pick, shapes, num_parts=3)
  np.testing.assert_allclose(found["image"], expected["image"], atol=2e-5)
  np.testing.assert_allclose(
    found["audio"], expected["audio"].reshape(4, 5120, 1), atol=2e-5
  )
  np.testing.assert_allclose(found["label"], expected["label"], atol=2e-5)
  # The value of a masked label has no effect.
  other = {**batch, "label": np.roll(batch["label"], 1, axis=-1)}
  np.testing.assert_array_equal(found["image"], apply(other)["image"])
  seen = {**other, "label_masked": np.zeros(4, bool)}
  assert np.any(np.asarray(found["image"]) != apply(seen)["image"])


@pytest.mark.parametrize(
  ("leaves", "why"),
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
def test_what_does_not_fit_together_is_refused(leaves, why):
  with pytest.raises(UserError, match=why):
    _task(**leaves)


@pytest.mark.slow
def test_a_run_leaves_reconstructions_to_see_and_hear(tmp_path):
  config = _config(num_steps=2)
  config.data.source_args.generated.update(num_train=8, num_test=4)
  loop.Trainer(config, tasks.make_task(config), tmp_path, num_devices=1).run()
  scores = json.loads((tmp_path / "results.json").read_text())["metrics"]
  assert {"eval/video_psnr", "eval/audio_psnr", "eval/accuracy"} <= {*scores}
  page = (tmp_path / "report.html").read_text()
  assert page.count('src="data:video/mp4;base64,') == 4
  assert page.count('src="data:audio/wav;base64,') == 4
  assert "label: disc with " in page or "label: tall bar with " in page
