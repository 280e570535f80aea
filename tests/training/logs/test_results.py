"""Tests of the results and the report written at the end of a run."""

import json

import jax
import numpy as np
import optax
import pytest

from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import step
from perceiver_jax.training.logs import metric_writers, results, run_summary
from perceiver_jax.viz import report

# Two digits of some classes and one of the others, and three mistakes.
NUM_SPREAD, MISTAKES = 12, {200: 0.9, 100: 0.8, 300: 0.7}
NUM_SAMPLES = NUM_SPREAD + len(MISTAKES)
STEPS, BATCH_SIZE, EXAMPLES = 20, 16, 1437
BEST_STEP = 10
SECONDS = {"step": 3.0, "data": 0.5}

pytestmark = pytest.mark.usefixtures("quick_compile")


class ImageLog:
  """Stands in for a `RunLog` and keeps its images."""

  def __init__(self):
    self.images = []

  def image(self, step, name, image):
    self.images.append((step, name, image))


def _predictions(labels):
  """Returns predictions of which three are wrong, with padding at the end."""
  predictions = np.array(labels)
  confidence = np.full(len(labels), 0.99, np.float32)
  for i, value in MISTAKES.items():
    predictions[i], confidence[i] = (labels[i] + 1) % 10, value
  return {
    "example_index": np.append(np.arange(len(labels)), [-1, -1]),
    "example_label": np.append(labels, [0, 0]),
    "example_prediction": np.append(predictions, [1, 1]),
    "example_confidence": np.append(confidence, [1, 1]),
  }


class Run:
  """A finished tiny run with random parameters."""

  def __init__(self, config):
    self.config = config
    self.task = tasks.make_task(config)
    self.model = step.model_of(self.task, config.precision)
    init = step.make_init(self.model, optax.sgd(0.1), 0, use_ema=True)
    abstract = step.abstract_state(
      init, self.task.dummy_batch(), step.make_mesh(2)
    )
    rng = np.random.default_rng(0)
    self.state = jax.tree.map(
      lambda x: jax.device_put(
        np.asarray(rng.normal(size=x.shape)).astype(x.dtype), x.sharding
      ),
      abstract,
    )._replace(step=STEPS)
    means = {
      "eval": {
        "loss": np.float32(0.25),
        "accuracy": np.float32(0.975),
        "confusion": np.eye(10),
        "calibration": np.ones((15, 3)),
        **_predictions(self.task.source("eval").labels),
      }
    }
    self.evaluation = self.task.finalize_metrics(means)

  def write(self, folder, log=None):
    return results.write(
      folder,
      self.config,
      self.task,
      self.model,
      self.state,
      self.evaluation,
      log or ImageLog(),
      best_step=BEST_STEP,
      seconds=SECONDS,
    )


@pytest.fixture(scope="module")
def run(make_tiny_config):
  return Run(make_tiny_config())


@pytest.fixture(scope="module")
def samples(run):
  """Returns the outputs for sample images, computed once."""
  return sample_outputs(run)


def sample_outputs(run):
  return results.sample_outputs(
    run.task, run.model, run.state, run.evaluation["eval"]
  )


@pytest.fixture
def cached_samples(monkeypatch, samples):
  """Makes the results use `samples` instead of computing them again."""
  monkeypatch.setattr(results, "sample_outputs", lambda *_: samples)


def test_scalars_have_the_name_of_their_dataset():
  scalars = results.flat_scalars(
    {
      "test": {"loss": np.float32(0.5), "confusion": np.eye(2)},
      "real": {"loss": np.float32(1.5)},
    }
  )
  assert scalars == {"test/loss": 0.5, "real/loss": 1.5}


def test_samples_are_of_all_classes_and_mistakes_with_attention(run, samples):
  outputs, batch = samples
  assert [i for i in batch["index"] if i in MISTAKES] == list(MISTAKES)
  assert batch["index"][1] == 200  # The most confident one comes early.
  others = [
    label
    for label, i in zip(batch["label"], batch["index"], strict=True)
    if i not in MISTAKES
  ]
  assert sorted(others) == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]
  source = run.task.source("eval")
  for i, image in zip(batch["index"], batch["image"], strict=True):
    np.testing.assert_array_equal(image, source[int(i)]["image"])
  apply = jax.jit(lambda p, b: run.model.apply(p, {}, None, b, False)[0])
  expected = apply(jax.device_get(run.state.ema_params), batch).logits
  np.testing.assert_allclose(outputs.logits, expected, rtol=1e-3, atol=1e-3)
  assert type(outputs.logits) is np.ndarray
  assert outputs.decoder_attention.shape == (NUM_SAMPLES, 1, 1, 4)
  assert outputs.encoder_attention[-1].shape == (NUM_SAMPLES, 1, 4, 64)


def test_large_outputs_are_sampled_from_fewer_examples(
  run, samples, monkeypatch
):
  outputs, _ = samples
  numbers = sum(np.size(x) for x in jax.tree.leaves(outputs))
  monkeypatch.setattr(results, "_MAX_OUTPUT_SIZE", numbers * 3 // NUM_SAMPLES)
  fewer, batch = sample_outputs(run)
  assert batch["index"].tolist() == samples[1]["index"][:3].tolist()
  assert {*batch["index"]} & {*MISTAKES}, "both kinds remain"
  np.testing.assert_allclose(fewer.logits, outputs.logits[:3], atol=1e-5)
  monkeypatch.setattr(results, "_MAX_OUTPUT_SIZE", 1)
  _, batch = sample_outputs(run)
  assert len(batch["index"]) == 1


def test_padding_examples_are_not_shown(run, monkeypatch):
  few = InMemoryArrays(
    {
      "image": np.zeros((5, 8, 8, 1), np.float32),
      "label": np.arange(5, dtype=np.int32),
    },
    run.task.class_names,
  )
  monkeypatch.setattr(
    run.task,
    "eval_datasets",
    lambda **kwargs: {"eval": pipeline.eval_dataset(few, **kwargs)},
  )
  monkeypatch.setattr(run.task, "sample_indices", lambda _: ())
  outputs, batch = sample_outputs(run)
  assert batch["label"].tolist() == [0, 1, 2, 3, 4]
  assert len(outputs.logits) == 5


@pytest.mark.usefixtures("cached_samples")
def test_results_hold_metrics_sizes_and_versions(run, tmp_path):
  written = run.write(tmp_path)
  stored = json.loads((tmp_path / "results.json").read_text())
  assert stored == json.loads(json.dumps(written))
  scores = {"eval/loss": 0.25, "eval/accuracy": pytest.approx(0.975)}
  # Of a table with one example, sure of itself and right, in each bin.
  scores["eval/calibration_error"] = pytest.approx(0)
  assert stored["metrics"] == scores
  assert stored["task"] == "image_classification"
  assert stored["parameters"] == run_summary.num_parameters(run.state.params)
  assert stored["published"] == {}
  assert "jax" in stored["versions"]
  assert (stored["steps"], stored["best_step"]) == (STEPS, BEST_STEP)
  assert stored["epochs"] == round(STEPS * BATCH_SIZE / EXAMPLES, 2) == 0.22
  assert stored["seconds"] == SECONDS
  assert stored["train_seconds"] == 3.5


@pytest.mark.usefixtures("cached_samples")
def test_the_report_has_a_summary_curves_and_sections(
  run, tmp_path, monkeypatch
):
  file = metric_writers.MetricsFile(tmp_path / "metrics.jsonl")
  for at in (10, 20):
    file.write(at, {"train/loss": 1 / at})
  file.close()
  pages = []
  write = report.write_report

  def spy(path, page):
    pages.append(page)
    write(path, page)

  monkeypatch.setattr(report, "write_report", spy)
  run.write(tmp_path)
  (page,) = pages
  assert page.title == tmp_path.name
  assert next(iter(page.summary)) == run.task.primary_metric
  assert page.summary["best_step"] == 10
  assert "seconds" not in page.summary, "the summary has no tables"
  assert page.published is None
  assert [record["step"] for record in page.records] == [10, 20]
  assert page.config["optimizer"]["name"] == "lamb"
  assert sum(n for *_, n in page.parameters) == page.summary["parameters"]
  titles = [section.title for section in page.sections]
  assert titles == [
    "Sample predictions",
    "Most confident mistakes of the evaluation set",
    "Attention of single latents",
    "Confusion matrix",
    "Classes",
    "Calibration",
  ]
  spread, mistakes = page.sections[:2]
  assert spread.body.count("<figure") == NUM_SPREAD
  assert mistakes.body.count("<figure") == len(MISTAKES)
  text = (tmp_path / "report.html").read_text()
  assert tmp_path.name in text
  assert "0.975" in text


@pytest.mark.usefixtures("cached_samples")
def test_published_row_is_in_both_files(run, tmp_path, monkeypatch):
  row = {"eval/accuracy": 0.79, "source": "Perceiver IO v3, Table 7"}
  monkeypatch.setattr(run.task, "published", row)
  assert run.write(tmp_path)["published"] == row
  assert "Perceiver IO v3, Table 7" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("cached_samples")
def test_summary_images_are_written_at_the_last_step(run, tmp_path):
  log = ImageLog()
  run.write(tmp_path, log)
  names = {(at, name) for at, name, _ in log.images}
  assert names == {(20, "predictions"), (20, "cross_attention")}
  for _, _, image in log.images:
    assert image.dtype == np.uint8
    assert image.ndim == 3


@pytest.mark.usefixtures("cached_samples")
def test_results_are_written_last_to_mark_a_complete_run(
  run, tmp_path, monkeypatch
):
  def fail(*_):
    raise KeyError("report")

  monkeypatch.setattr(report, "write_report", fail)
  with pytest.raises(KeyError):
    run.write(tmp_path)
  assert not (tmp_path / "results.json").exists()
