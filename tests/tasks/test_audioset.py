"""Tests of the AudioSet task."""

import functools
import json
import types

import jax
import numpy as np
import pytest
import task_helpers
import tiny_runs
from sklearn import metrics as sklearn_metrics

from configs import audioset as config_file
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import evaluation, loop, step
from perceiver_jax.training import metrics as metrics_lib

pytestmark = pytest.mark.usefixtures("compile_once")


_config = functools.partial(task_helpers.make_config, config_file)
_task = functools.partial(task_helpers.make_task, config_file)


def test_the_model_gets_the_modalities_of_its_config(monkeypatch):
  inputs = []

  def build(*_):
    return lambda raw, **_: inputs.append(raw)

  monkeypatch.setattr("perceiver_jax.models.zoo.build", build)
  for variant, names in (
    ("mel,smoke", {"audio"}),
    ("video,smoke", {"image"}),
    ("raw_video,smoke", {"audio", "image"}),
  ):
    task = _task(variant)
    example = task.dummy_batch()
    task.forward(example, is_training=False)
    assert inputs[-1].keys() == names
    batch = next(iter(task.train_dataset(global_batch=4)))
    assert {*example, "rng"} - {"mask", "rng"} == batch.keys()
    for name in names:
      assert example[name].shape[1:] == batch[name].shape[1:]
      assert example[name].dtype == batch[name].dtype


def test_windows_and_published_row_are_those_of_the_paper():
  task = tasks.make_task(
    config_file.get_config("mel_video"), {"class_names": ["x"] * 527}
  )
  example = task.dummy_batch()
  assert example["image"].shape == (1, 32, 224, 224, 3)
  assert example["audio"].shape == (1, 4800, 1)
  assert example["label"].shape == (1, 527)
  assert task.published["eval/mAP"] == pytest.approx(0.432)
  assert task.published["source"] == "Perceiver v2, Table 3"


def test_the_loss_is_binary_cross_entropy_of_all_classes():
  task = _task()
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 15))
  batch = {
    "label": rng.integers(0, 2, (4, 15)).astype(np.float32),
    "unreadable": np.float32([0, 1, 0, 0]),
  }
  means = metrics_lib.means(task.loss(task_helpers.outputs(logits), batch))
  expected = sklearn_metrics.log_loss(
    batch["label"].ravel(), 1 / (1 + np.exp(-logits.ravel()))
  )
  assert means["loss"] == pytest.approx(expected, rel=1e-5)
  assert means["unreadable"] == 0.25


def test_probabilities_are_averaged_over_the_windows_of_a_clip():
  task = _task(data__num_windows=3)
  batches = list(task.eval_datasets(global_batch=20)["eval"])
  assert len(batches) == 3  # 16 clips x 3 windows, and 12 copies.
  rng = np.random.default_rng(0)
  sums, all_logits = None, []
  for batch in batches:
    logits = rng.normal(size=(20, 15))
    all_logits.append(logits)
    batch_sums = dict(task.metrics(task_helpers.outputs(logits), batch))
    sums = (
      batch_sums if sums is None else jax.tree.map(np.add, sums, batch_sums)
    )
  final = task.finalize_metrics({"eval": metrics_lib.means(sums)})["eval"]
  logits = np.concatenate(all_logits)[:48].reshape(3, 16, 15)
  averages = (1 / (1 + np.exp(-logits))).mean(0)
  labels = batches[0]["label"][:16]
  assert final["mAP"] == pytest.approx(
    sklearn_metrics.average_precision_score(labels, averages)
  )
  assert final["unreadable"] == 0


def test_unreadable_clips_do_not_affect_metrics():
  task = _task(data__num_windows=1)
  (batch,) = task.eval_datasets(global_batch=16)["eval"]
  batch["mask"][3:] = 0
  # Predictions are correct for readable clips and wrong for the others.
  wrong = np.arange(16)[:, None] >= 3
  logits = np.where(wrong, -1, 1) * (2 * batch["label"] - 1)
  sums = task.metrics(task_helpers.outputs(logits), batch)
  final = task.finalize_metrics({"eval": metrics_lib.means(sums)})["eval"]
  assert final["mAP"] == 1
  assert final["unreadable"] == pytest.approx(13 / 16)


def test_evaluation_without_readable_clips_is_an_error():
  task = _task(data__num_windows=1)
  (batch,) = task.eval_datasets(global_batch=16)["eval"]
  mesh = step.make_mesh(1)
  evaluated = evaluation.evaluate_all(
    lambda params, state, batch: {
      **task.metrics(task_helpers.outputs(batch["label"]), batch),
      "num_examples": (batch["mask"].sum(), 0),
    },
    types.SimpleNamespace(eval_params={}, net_state={}),
    {"eval": tiny_runs.Batches([{**batch, "mask": 0 * batch["mask"]}])},
    mesh,
  )["eval"]
  for means in (evaluated, {}):
    with pytest.raises(UserError, match="no clip of the evaluation split"):
      task.finalize_metrics({"eval": means})


def test_a_model_for_other_classes_or_modalities_is_refused():
  with pytest.raises(UserError, match=r"num_classes is 7 .*15 classes"):
    _task(model__num_classes=7)
  config = _config()
  config.model.adapter.modalities.label = {"kind": "label"}
  with pytest.raises(UserError, match="audio, image, label"):
    tasks.make_task(config)


@pytest.mark.slow
def test_the_report_of_a_run_has_clips(tmp_path):
  config = _config("mel_video,smoke", num_steps=2)
  config.data.source_args.generated.update(num_train=8, num_test=4)
  outcome = loop.Trainer(
    config, tasks.make_task(config), tmp_path, num_devices=1
  ).run()
  metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
  assert outcome.results["metrics"] == metrics
  assert 0 < metrics["eval/mAP"] <= 1
  assert {"eval/AUC", "eval/d_prime", "eval/unreadable"} <= metrics.keys()
  page = (tmp_path / "report.html").read_text()
  assert page.count('src="data:video/mp4;base64,') == 8
  assert "labels: disc; " in page
  assert "average precision" in page


@pytest.mark.nightly
def test_a_model_of_both_modalities_is_better_than_one_of_either(
  tmp_path, no_report
):
  mean_precisions = {}
  for variant in ("small", "small_audio", "small_video"):
    config = _config(variant, num_steps=400, eval_every_steps=0)
    config.data.source_args.generated.num_test = 128
    outcome = loop.Trainer(
      config, tasks.make_task(config), tmp_path / variant, num_devices=1
    ).run()
    mean_precisions[variant] = outcome.results["metrics"]["eval/mAP"]
  assert mean_precisions["small"] > 0.9
  assert mean_precisions["small_audio"] < 0.6
  assert mean_precisions["small_video"] < 0.6
