"""Tests of the classification of point clouds."""

import jax
import numpy as np
import pytest
import task_helpers
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import modelnet40
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from perceiver_jax.training import loop, step

_KINDS = ("smoke", "small_transformer,smoke", "small_pointnet,smoke")
_few = settings(max_examples=20, deadline=None)

pytestmark = pytest.mark.usefixtures("compile_once")


def _task(variant="smoke", **leaves):
  return task_helpers.make_task(modelnet40, variant, **leaves)


def _cloud(count, seed=0):
  rng = np.random.default_rng(seed)
  points = rng.normal(size=(count, 3)).astype(np.float32)
  return {"points": points, "label": np.int32(0)}


def _batch(task, *examples):
  examples = [task.preprocess(example, None) for example in examples]
  return {k: np.stack([e[k] for e in examples]) for k in examples[0]}


@_few
@given(st.integers(0, 80))
def test_clouds_of_any_size_fill_the_batch(count):
  task = _task()
  for rng in (None, np.random.default_rng(0)):
    example = task.preprocess(_cloud(count), rng)
    assert example["points"].shape == (32, 3)
    assert example["point_mask"].sum() == min(count, 32)
    assert np.isfinite(example["points"]).all()
    assert (example["points"][~example["point_mask"]] == 0).all()
    if count > 1:
      assert np.abs(example["points"]).max() == pytest.approx(1, rel=1e-5)


def test_points_of_an_epoch_differ_and_those_of_evaluation_do_not():
  task, cloud = _task(), _cloud(100)
  first, second = (
    task.preprocess(cloud, np.random.default_rng(seed))["points"]
    for seed in (0, 1)
  )
  assert not np.allclose(first, second)
  np.testing.assert_array_equal(
    task.preprocess(cloud, None)["points"],
    task.preprocess(cloud, None)["points"],
  )


def test_a_mesh_is_sampled():
  mesh = {
    "vertices": np.eye(3, dtype=np.float32),
    "faces": np.array([[0, 1, 2]], np.int32),
    "label": np.int32(2),
  }
  example = _task().preprocess(mesh, None)
  assert sorted(example) == ["label", "point_mask", "points", "unreadable"]
  assert example["point_mask"].all()


@pytest.mark.parametrize("variant", _KINDS)
def test_masked_points_never_matter(variant):
  task = _task(variant)
  batch = _batch(task, _cloud(0), _cloud(20), _cloud(50))
  model = step.model_of(task, "float32")
  params, state = task_helpers.random_variables(model, batch)
  run = jax.jit(
    lambda b: model.apply(
      params, state, None, b, is_training=False, return_attention="logits"
    )[0]
  )
  outputs = jax.tree.map(np.asarray, run(batch))
  assert np.isfinite(outputs.logits).all()
  padding = np.where(batch["point_mask"][..., None], batch["points"], np.nan)
  padded = run({**batch, "points": padding})
  np.testing.assert_allclose(padded.logits, outputs.logits, rtol=1e-5)
  samples = task.samples(outputs, batch)
  assert [len(s.points) for s in samples] == [0, 20, 32]
  for sample in samples:
    assert 0 < sample.probability <= 1
    for values in sample.maps.values():
      assert len(values) == len(sample.points)
      assert values.sum() == pytest.approx(1, rel=1e-3)
  assert bool(samples[2].maps) == ("transformer" not in variant)
  sections = task.report_sections(
    outputs, {**batch, "index": np.arange(3)}, _metrics(task)
  )
  assert str(sections[0].body).count("<canvas") == 3
  assert sections[1].title.startswith("Most confident mistakes")
  assert str(sections[1].body).count("<canvas") == 1
  images = task.summary_images(outputs, batch)
  assert all(image.shape[-1] == 3 for image in images.values())


def _metrics(task):
  classes = len(task.class_names)
  return {
    "confusion": np.eye(classes),
    "calibration": np.ones((15, 3)),
    "calibration_error": np.float32(0),
    "example_index": np.arange(3),
    "example_label": np.zeros(3, int),
    "example_prediction": np.array([0, 1, 0]),
    "example_confidence": np.ones(3, np.float32),
  }


def test_the_loss_smooths_labels():
  logits = np.array([[2.0, *[0.0] * 15]])
  batch = {"label": np.zeros(1, np.int32), "unreadable": np.zeros(1)}
  outputs = task_helpers.outputs(logits)
  log_total = np.log(np.exp(2) + 15)
  for smoothing in (0.0, 0.1):
    loss, count = _task(label_smoothing=smoothing).loss(outputs, batch)["loss"]
    own = 1 - smoothing + smoothing / 16
    assert loss == pytest.approx(log_total - 2 * own, rel=1e-5)
    assert count == 1


def test_wrong_configs_are_refused():
  with pytest.raises(UserError, match="num_classes is 7 but the data has 16"):
    _task(model__num_classes=7)
  with pytest.raises(UserError, match=r"config.data.num_points is 0"):
    _task(data__num_points=0)
  with pytest.raises(UserError, match="choose"):
    _task(data__source="nothing")


def test_training_reads_batches_of_the_source():
  task = _task()
  assert isinstance(task, registry.TASKS["point_cloud_classification"])
  batches = task_helpers.train_batches(task, 2, 8)
  assert batches[0]["points"].shape == (8, 32, 3)
  assert not np.allclose(batches[0]["points"], batches[1]["points"])
  assert task.metadata() == {"class_names": task.class_names}


@pytest.mark.slow
def test_a_smoke_run_reports_clouds(tmp_path):
  config = modelnet40.get_config("smoke")
  config.num_steps = config.eval_every_steps = 2
  task = registry.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path, num_devices=1).run()
  assert 0 <= outcome.results["metrics"]["eval/accuracy"] <= 1
  page = (tmp_path / "report.html").read_text()
  assert page.count("<canvas") == 24  # Clouds, and confident mistakes.
  assert "cross-attend 2, mean over latents" in page
  assert "http" not in page.split("Sample predictions")[1].split("</script>")[0]


@pytest.mark.slow
def test_a_small_perceiver_learns_solids(tmp_path, no_report):
  config = modelnet40.get_config("small")
  config.num_steps, config.eval_every_steps = 300, 0
  config.data.source_args.solids.num_test = 512
  task = registry.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path, num_devices=1).run()
  assert outcome.results["metrics"]["eval/accuracy"] > 0.4  # Chance: 0.0625.
