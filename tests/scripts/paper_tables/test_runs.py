"""Runs count for a row if they are what the row's variant says."""

import json

import made_runs
import pytest

from configs import digits, imagenet
from perceiver_jax.errors import UserError
from scripts.paper_tables import runs


def test_a_run_of_a_variant_reproduces_its_row(tmp_path):
  free = {
    "seed": 3,
    "num_microbatches": 8,
    "execution.scan_layers": False,
    "data.source": "image_folder",
    "data.source_args.image_folder.directory": "/data",
    "log.every_steps": 7,
  }
  folder = made_runs.imagenet_run(tmp_path / "a", **free)
  (result,) = runs.collect([tmp_path])
  assert result.origin == "configs/imagenet.py:fourier"
  assert result.path == folder / "report.html"
  assert result.metric("accuracy") == made_runs.ACCURACY
  assert result.metric("mAP") is None
  assert not result.differences


@pytest.mark.parametrize(
  ("leaf", "value"),
  [
    ("num_epochs", 10.0),
    ("batch_size", 256),
    ("data.source", "photos"),
    ("data.eval_split", "train[:10000]"),
    ("model.encoder.num_latents", 64),
    ("optimizer.learning_rate", 1e-3),
    ("data.source_args.tfds.name", "imagenet2012_subset/1pct"),
  ],
)
def test_a_run_with_other_settings_reproduces_none(tmp_path, leaf, value):
  made_runs.imagenet_run(tmp_path / "a", **{leaf: value})
  (result,) = runs.collect([tmp_path])
  assert not result.origin
  assert result.nearest == "configs/imagenet.py:fourier"
  before = imagenet.get_config("fourier")
  for part in leaf.split("."):
    before = before[part]
  assert list(result.differences) == [f"{leaf} {value}, not {before}"]


def test_a_leaf_that_a_run_lacks_is_a_difference(tmp_path):
  folder = made_runs.imagenet_run(tmp_path / "a")
  config = json.loads((folder / "config.json").read_text())
  del config["label_smoothing"]
  (folder / "config.json").write_text(json.dumps(config))
  (result,) = runs.collect([tmp_path])
  assert result.differences == ["label_smoothing missing, not 0.1"]


def test_microbatches_count_where_they_are_normalized_one_by_one(tmp_path):
  made_runs.imagenet_run(tmp_path / "a", "conv", num_microbatches=8)
  (result,) = runs.collect([tmp_path])
  assert result.differences == ["num_microbatches 8, not 1"]


@pytest.mark.parametrize(
  ("variant", "init_from", "differences"),
  [
    ("fourier", "weights.pickle", ["init_from weights.pickle, not no weights"]),
    ("jft_fourier", "", ["init_from no weights, not a model of {}"]),
    ("jft_fourier", "pretrained.safetensors", []),
  ],
)
def test_fine_tuned_rows_start_from_weights_and_others_do_not(
  tmp_path, variant, init_from, differences
):
  made_runs.imagenet_run(tmp_path / "a", variant, init_from=init_from)
  (result,) = runs.collect([tmp_path])
  after = "configs/imagenet.py:jft_pretrain_fourier"
  assert result.differences == [line.format(after) for line in differences]


def test_pretraining_is_that_of_the_row(tmp_path):
  pretrained = made_runs.imagenet_run(
    tmp_path / "pretrained", "jft_pretrain_fourier", num_epochs=1.0
  )
  made_runs.imagenet_run(
    tmp_path / "runs" / "a", "jft_fourier", init_from=str(pretrained)
  )
  (result,) = runs.collect([tmp_path / "runs"])
  assert result.differences == ["init_from: num_epochs 1.0, not 14.0"]


def test_small_runs_reproduce_none(tmp_path):
  made_runs.imagenet_run(tmp_path / "a", "conv,smoke")
  made_runs.run(tmp_path / "b", digits.get_config(""), {"eval/accuracy": 0.98})
  for result in runs.collect([tmp_path]):
    assert not result.origin
    assert result.differences


def test_a_sweep_over_all_tasks_reproduces_the_row_of_its_model(tmp_path):
  made_runs.glue_sweep(tmp_path / "sweep", model="sentencepiece")
  (sweep,) = runs.collect([tmp_path])
  assert sweep.origin == "scripts.sweeps.glue --model=sentencepiece"
  assert sweep.metric("average") == 0.805
  assert sweep.metric("cola") == sweep.metric("mnli_matched") == 0.8
  assert sweep.metric("mnli_mismatched") == 0.7


def test_a_sweep_over_some_tasks_reproduces_none(tmp_path):
  made_runs.glue_sweep(tmp_path / "sweep", tasks=("cola", "mnli"))
  (sweep,) = runs.collect([tmp_path])
  assert not sweep.origin
  assert "no run of rte" in sweep.differences


def test_evaluated_weights_reproduce_the_row_of_their_config(tmp_path):
  file = made_runs.evaluation(tmp_path / "released.json")
  (result,) = runs.collect([file])
  assert result.origin == "configs/imagenet.py:fourier"
  assert result.weights == "imagenet_fourier_position_encoding.pystate"
  made_runs.evaluation(file, overrides={"data.source": "photos"})
  (result,) = runs.collect([file])
  assert not result.origin
  assert list(result.differences) == ["data.source photos, not tfds"]


def test_evaluated_weights_of_a_run_are_compared_by_its_config(tmp_path):
  folder = made_runs.imagenet_run(tmp_path / "whole")
  short = made_runs.imagenet_run(tmp_path / "short", num_epochs=1.0)
  for weights, differences in (
    (folder, []),
    (folder / "model.safetensors", []),
    (short, ["weights: num_epochs 1.0, not 110.0"]),
    ("model.safetensors", ["model.safetensors is neither a released file nor"
                           " of a finished run"]),
  ):  # fmt: skip
    file = made_runs.evaluation(tmp_path / "e.json", weights=str(weights))
    (result,) = runs.collect([file])
    assert result.differences == differences
    assert bool(result.origin) == (not differences)


def test_evaluations_of_single_tasks_are_cells_of_the_sweep(tmp_path):
  file = made_runs.evaluation(
    tmp_path / "e.json",
    config="configs/glue.py",
    weights="language_perceiver_io_bytes.pickle",
    overrides={},
    task="glue",
    metrics={"cola/matthews": 0.5, "glue/average": 0.5},
  )
  (result,) = runs.collect([file])
  assert result.origin == "scripts.sweeps.glue --model=bytes"
  assert result.metric("cola") == 0.5
  assert result.metric("average") is None


def test_evaluations_of_small_models_reproduce_none(tmp_path):
  file = made_runs.evaluation(tmp_path / "e.json", variant="fourier,smoke")
  (result,) = runs.collect([file])
  assert not result.origin
  assert result.nearest.startswith("configs/imagenet.py:")
  assert result.differences


def test_broken_files_are_skipped(tmp_path):
  folder = made_runs.imagenet_run(tmp_path / "a")
  (folder / "config.json").unlink()
  (tmp_path / "other.json").write_text('{"weights": "a", "metrics": {}}')
  with pytest.raises(UserError, match="has no finished run"):
    runs.collect([tmp_path])


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("c/sweep.json", '{"best": {"cola": {"folder": "no"}}, "average": 0.8}'),
    ("c/benchmark.json", '{"device": "cpu", "rows": ["a", "b"]}'),
    ("c/weights.json", '{"weights": "a", "metrics": [], "config": 1}'),
    ("b/results.json", '{"metrics": 0.5}'),
  ],
)
def test_a_damaged_file_does_not_hide_the_others(tmp_path, caplog, name, text):
  made_runs.imagenet_run(tmp_path / "a")
  made_runs.imagenet_run(tmp_path / "b")
  (tmp_path / "c").mkdir()
  (tmp_path / name).write_text(text)
  with caplog.at_level("WARNING"):
    results = runs.collect([tmp_path])
  names = [result.name for result in results]
  assert names == (["a"] if name.startswith("b") else ["a", "b"])
  assert f"{tmp_path / name} is damaged" in caplog.text


def test_a_damaged_evaluation_of_a_run_is_skipped(tmp_path, caplog):
  folder = made_runs.imagenet_run(tmp_path / "a")
  (folder / "evaluation-10.json").write_text('{"metrics": {"sint')
  with caplog.at_level("WARNING"):
    (result,) = runs.collect([tmp_path])
  assert result.metric("accuracy") == made_runs.ACCURACY
  assert "evaluation-10.json is damaged" in caplog.text


def test_the_latest_evaluation_of_a_run_adds_metrics(tmp_path):
  folder = made_runs.imagenet_run(tmp_path / "a")
  for step, error in ((9, 3.0), (10, 2.0)):
    text = f'{{"metrics": {{"sintel_clean/epe": {error}}}}}'
    (folder / f"evaluation-{step}.json").write_text(text)
  (result,) = runs.collect([tmp_path])
  assert result.metric("sintel_clean") == 2.0
  assert result.metric("accuracy") == made_runs.ACCURACY


def test_a_folder_without_results_is_an_error(tmp_path):
  with pytest.raises(UserError, match=r"--runs=.* has no finished run"):
    runs.collect([tmp_path])


@pytest.mark.parametrize(
  ("device", "columns"),
  [
    ("NVIDIA H200", ["gpu_frames"]),
    ("TPU v5 lite", ["tpu_frames"]),
    ("cpu", []),
  ],
)
def test_frames_count_for_the_kind_of_device(tmp_path, device, columns):
  row = {"model": "flow", "measured on": device, "frames/s": 2.0}
  content = {"device": device, "rows": [row]}
  (tmp_path / "flow.json").write_text(json.dumps(content))
  (result,) = runs.collect([tmp_path])
  assert list(result.metrics) == columns
