"""Tests of the classification of images with any number of labels."""

import json

import cv2
import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from configs import digits, imagenet
from perceiver_jax.data.images import digits as digit_images
from perceiver_jax.errors import UserError
from perceiver_jax.models.perceiver import Outputs
from perceiver_jax.tasks import multilabel_image_classification
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import metrics as metrics_lib

pytestmark = pytest.mark.usefixtures("compile_once")

CLASSES = 10


def config(variant="pairs,smoke", **leaves):
  made = digits.get_config(variant)
  made.data.source_args.digit_pairs = {"num_train": 32, "num_test": 11}
  for name, value in leaves.items():
    made.update_from_flattened_dict({name.replace("__", "."): value})
  return made


def batch(size=8, seed=0):
  rng = np.random.default_rng(seed)
  return {
    "image": rng.normal(size=(size, 8, 16, 1)).astype(np.float32),
    "label": rng.integers(0, 2, (size, CLASSES)).astype(np.float32),
    "unreadable": np.zeros(size, np.float32),
    "index": np.arange(size, dtype=np.int32),
    "mask": np.ones(size, np.float32),
    "rng": rng.integers(0, 2**32, (size, 2), dtype=np.uint32),
  }


def logits(size=8, seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(size, CLASSES)).astype(np.float32)


def outputs(values):
  return Outputs(values, None, (), None)


def test_the_loss_is_the_sum_of_a_binary_cross_entropy_per_class():
  task, raw, x = tasks.make_task(config()), batch(), logits()
  sums = task.loss(outputs(x), task.prepare_batch(raw))
  p, y = 1 / (1 + np.exp(-x)), raw["label"]
  expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(-1)
  total, count = sums["loss"]
  np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)
  assert count == 8
  first = [label[k] for label, k in zip(y, x.argmax(-1), strict=True)]
  assert float(sums["precision_at_1"][0]) == sum(first)


def test_labels_are_mixed_like_images():
  task = tasks.make_task(config(mixing__mixup_alpha=1.0))
  raw = batch()
  raw |= {f"partner_{name}": x for name, x in batch(seed=5).items()}
  raw["batch_position"] = np.arange(8)
  for side in ("", "partner_"):
    shape = raw[f"{side}image"].shape
    counts = raw[f"{side}label"].sum(-1)[:, None, None, None]
    raw[f"{side}image"] = np.broadcast_to(counts, shape).astype(np.float32)
  mixed = task.prepare_batch(raw)
  # An image's pixels are the number of its labels, blended in the same way.
  np.testing.assert_allclose(
    mixed["targets"].sum(-1), mixed["image"][:, 0, 0, 0], rtol=1e-5
  )
  assert not np.array_equal(mixed["targets"], raw["label"])
  made = task.dummy_batch()
  assert made["label"].shape == made["partner_label"].shape == (1, CLASSES)


def test_map_is_computed_over_all_images_except_padding():
  task = tasks.make_task(config())
  sums, labels, predictions = None, [], []
  for start in (0, 4, 8):
    part, x = batch(4, seed=start), logits(4, seed=start + 50)
    part["index"] = np.minimum(np.arange(start, start + 4), 10).astype(np.int32)
    part["mask"] = (np.arange(start, start + 4) < 11).astype(np.float32)
    if start == 4:
      part["mask"][0] = 0  # An image that can't be read.
    real = part["mask"] > 0
    labels.append(part["label"][real])
    predictions.append(x[real])
    metrics = task.metrics(outputs(x), part)
    sums = metrics if sums is None else jax.tree.map(np.add, sums, metrics)
  labels, predictions = np.concatenate(labels), np.concatenate(predictions)
  assert len(labels) == 10
  means = task.finalize_metrics({"eval": metrics_lib.means(sums)})["eval"]
  expected = [
    sklearn_metrics.average_precision_score(labels[:, k], predictions[:, k])
    for k in range(CLASSES)
    if labels[:, k].any()
  ]
  assert means["mAP"] == pytest.approx(np.mean(expected), rel=1e-5)
  np.testing.assert_array_equal(means["class_examples"], labels.sum(0))
  assert set(metrics_lib.scalars(means)) == {
    "loss", "precision_at_1", "mAP", "AUC", "d_prime",
  }  # fmt: skip


def test_an_evaluation_of_unreadable_images_only_is_an_error():
  task, raw = tasks.make_task(config()), batch()
  raw["mask"][:] = 0
  sums = task.metrics(outputs(logits()), raw)
  counted = {k: v for k, v in sums.items() if v[1] > 0}
  with pytest.raises(UserError, match="no image of the evaluation split"):
    task.finalize_metrics({"eval": metrics_lib.means(counted)})


def test_images_with_one_label_each_can_be_used():
  task = tasks.make_task(
    config(data__source="digits", data__image_shape=(8, 8, 1))
  )
  example = task.preprocess(task.source("train")[3], None)
  assert example["label"].sum() == 1
  single = digit_images.digits("train")[3]
  assert example["label"][single["label"]] == 1
  assert example["label"].dtype == np.float32


def test_images_with_and_without_a_single_label_can_be_used(tmp_path):
  for name in ("a.png", "b.png"):
    assert cv2.imwrite(str(tmp_path / name), np.zeros((8, 16), np.uint8))
  for split in ("train", "test"):
    (tmp_path / f"{split}.csv").write_text("image,labels\na.png,cat\nb.png,\n")
  made = config(data__source="image_list", model__num_classes=1)
  made.data.source_args.image_list = {"directory": str(tmp_path)}
  task = tasks.make_task(made)
  labels = [task.source("eval")[i]["label"].tolist() for i in range(2)]
  assert labels == [[1], [0]]


def test_image_classification_refuses_several_labels():
  with pytest.raises(UserError, match="task=multilabel_image_classification"):
    tasks.make_task(config(task="image_classification"))


def test_invalid_configs_are_refused(monkeypatch):
  with pytest.raises(UserError, match=r"label_smoothing is 0\.1; give 0"):
    tasks.make_task(config(label_smoothing=0.1))
  with pytest.raises(UserError, match="num_classes is 9 but the data has 10"):
    tasks.make_task(config(model__num_classes=9))
  monkeypatch.setattr(multilabel_image_classification, "_MAX_RANKED", 105)
  with pytest.raises(UserError, match=r"has 11 images.*most 10 images"):
    tasks.make_task(config())


def test_labels_and_predictions_in_words():
  task = tasks.make_task(config())
  assert task.label_text(np.eye(10)[3] + np.eye(10)[7]) == "3; 7"
  assert task.label_text(np.zeros(10)) == "none"
  probabilities = np.array([0.9, 0.5, 0.2] + [0.0] * 7)
  text, probability = task.prediction_text(probabilities)
  assert text == "0; 1"
  assert probability == pytest.approx(0.9 * 0.5 * 0.8)


# IO, app. A.2.
@pytest.mark.parametrize("model", ["fourier", "fourier_projected", "conv"])
def test_pretraining_on_jft_has_the_settings_of_the_paper(model):
  made = imagenet.get_config(f"jft_pretrain_{model}")
  assert (made.num_epochs, made.batch_size) == (14, 8192)
  rates = made.optimizer
  assert (rates.learning_rate, rates.learning_rate_batch_size) == (3e-4, 8192)
  assert (rates.name, rates.schedule) == ("lamb", "cosine")
  assert rates.weight_decay == 0.1
  assert (made.data.crop, made.data.flip) == ("inception", True)
  assert made.data.rand_augment.num_layers == 0
  assert not any(made.mixing.values())
  encoder = made.model.encoder
  assert (encoder.num_blocks, encoder.num_self_attends_per_block) == (1, 16)
  assert encoder.self_attend_widening_factor == 4
  # Fine-tuning takes over all but the head.
  tuned = imagenet.get_config(f"jft_{model}").model.to_dict()
  assert {**tuned, "num_classes": 21_841} == made.model.to_dict()


@pytest.mark.slow
def test_a_run_reports_classes_and_predicts_labels(call, tmp_path):
  folder = tmp_path / "run"
  done = call(
    "train", "--config=configs/digits.py:pairs,smoke", f"--workdir={folder}",
    "--config.data.source_args.digit_pairs.num_train=32",
    "--config.data.source_args.digit_pairs.num_test=16", "--num_devices=1",
    "--config.model.encoder.num_blocks=1",
  )  # fmt: skip
  assert done.status == 0, done.err
  results = json.loads((folder / "results.json").read_text())
  assert 0 < results["metrics"]["eval/mAP"] < 1
  page = (folder / "report.html").read_text()
  assert "average precision" in page
  assert "label: " in page
  path = tmp_path / "pair.png"
  assert cv2.imwrite(str(path), np.full((16, 32), 255, np.uint8))
  flags = ("predict", "classify", f"--workdir={folder}", path)
  lines = call(*flags, "--threshold=0").out.splitlines()
  shares = [float(line.split()[1].rstrip("%")) for line in lines[1:-1]]
  assert len(shares) == CLASSES  # All labels, not the five likeliest.
  assert shares == sorted(shares, reverse=True)
  above = [share for share in shares if share >= 50]
  lines = call(*flags).out.splitlines()[1:-1]
  assert len(lines) == max(len(above), 1)
  lines = call(*flags, "--threshold=1").out.splitlines()
  assert lines[1] == "  no label at or above 100%"
