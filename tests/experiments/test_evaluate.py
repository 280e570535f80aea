import importlib
import json

import cv2
import numpy as np
import pytest
import tiny_runs as runs
from entry_points import SMOKE

from configs import images as images_config
from perceiver_jax.tasks import registry as tasks

pytestmark = pytest.mark.usefixtures("compile_once")


def metrics_of(folder, name):
  return json.loads((folder / name).read_text())["metrics"]


def printed_metrics(done):
  """Returns the printed metrics by name."""
  lines = [line.split() for line in done.out.splitlines()]
  return {line[0]: line[1] for line in lines if line[0].startswith("eval/")}


@pytest.mark.parametrize(
  "flags", [[], ["--checkpoint=best"], ["--checkpoint=4", SMOKE]]
)
def test_evaluation_gives_and_writes_the_metrics_of_the_run(
  call, trained, flags
):
  before = runs.contents(trained)
  done = call("evaluate", f"--workdir={trained}", *flags)
  assert (done.status, done.err) == (0, "")
  expected = metrics_of(trained, "results.json")
  metrics = metrics_of(trained, "evaluation-4.json")
  assert metrics.keys() == expected.keys()
  # Eight devices instead of one sum over other parts of the data.
  assert metrics == pytest.approx(expected, rel=1e-6)
  assert printed_metrics(done) == {k: f"{v:.4f}" for k, v in expected.items()}
  assert f"step 4 of {trained}" in done.out
  assert f"written to {trained / 'evaluation-4.json'}" in done.out
  after = runs.contents(trained)
  after.pop("evaluation-4.json")
  assert after == before


def test_an_earlier_checkpoint_has_its_own_metrics(call, trained):
  assert call("evaluate", f"--workdir={trained}", "--checkpoint=2").status == 0
  early = metrics_of(trained, "evaluation-2.json")
  last = metrics_of(trained, "results.json")
  assert early["eval/loss"] != pytest.approx(last["eval/loss"], rel=1e-5)


def test_a_given_config_must_be_that_of_the_run(refuses, trained, smoke_flag):
  refuses(
    "evaluate",
    *(f"--workdir={trained}", smoke_flag),
    "--config.ema_decay=0.5",
    parts=["ema_decay is 0.99 there and 0.5 here"],
  )


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    (["--checkpoint=3"], ["no checkpoint of step 3", "2, 4"]),
    (["--checkpoint=last"], ["--checkpoint=last", "latest, best or a step"]),
    (["--checkpoint=-4"], ["--checkpoint=-4"]),
    (["--checkpoin=4"], ["'checkpoin'", "checkpoint"]),
    (["4"], ["unexpected argument '4'"]),
    (["--config.seed=3"], ["--config.LEAF is given without --config"]),
  ],
)
def test_invalid_flags_are_refused_and_write_nothing(
  refuses, trained, flags, parts
):
  before = runs.contents(trained)
  refuses("evaluate", f"--workdir={trained}", *flags, parts=parts)
  assert runs.contents(trained) == before


@pytest.mark.parametrize(
  ("config", "variant"),
  [("digits", "smoke"), ("digits", "pairs,smoke"), ("modelnet40", "smoke")],
)
def test_data_of_other_classes_is_refused_and_nothing_is_written(
  refuses, tmp_path, config, variant
):
  module = importlib.import_module(f"configs.{config}")
  runs.write_random(tmp_path, module.get_config(variant))
  metadata = json.loads((tmp_path / "task.json").read_text())
  names = metadata["class_names"]
  metadata["class_names"] = [names[1], names[0], *names[2:]]
  (tmp_path / "task.json").write_text(json.dumps(metadata))
  before = runs.contents(tmp_path)
  parts = [f"number 0, {names[0]!r} instead of {names[1]!r}", "same order"]
  refuses("evaluate", f"--workdir={tmp_path}", parts=parts)
  assert runs.contents(tmp_path) == before


def test_data_that_was_moved_is_found_as_the_error_says(
  call, refuses, tmp_path
):
  data, moved, run = (tmp_path / name for name in ("data", "moved", "run"))
  for name in ("cat", "dog"):
    (data / name).mkdir(parents=True)
    for i in range(20):
      image = np.full((16, 16, 3), i, np.uint8)
      assert cv2.imwrite(str(data / name / f"{i}.png"), image)
  config = images_config.get_config("tiny,smoke")
  config.data.source_args.image_folder.directory = str(data)
  runs.write_random(run, tasks.complete_config(config))
  data.rename(moved)
  flag = f"--workdir={run}"
  place = "--config.data.source_args.image_folder.directory="
  parts = ["if the data was moved, add the --config", f"{place}PLACE"]
  refuses("evaluate", flag, parts=parts)
  assert not (run / "evaluation-1.json").exists()
  file = runs.ROOT / "configs" / "images.py"
  flags = flag, f"--config={file}:tiny,smoke", f"{place}{moved}"
  done = call("evaluate", *flags)
  assert done.status == 0, done.err
  assert (run / "evaluation-1.json").exists()


def test_a_folder_without_a_run_is_refused(refuses, tmp_path):
  flag = f"--workdir={tmp_path}"
  refuses("evaluate", flag, parts=[flag, "holds no run", "config.json"])
  assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_is_refused(refuses, trained):
  (trained / "checkpoints").rename(trained / "elsewhere")
  refuses("evaluate", f"--workdir={trained}", parts=["no checkpoint yet"])
  assert not (trained / "checkpoints").exists()


def test_a_damaged_config_is_refused(refuses, trained):
  (trained / "config.json").write_text("{")
  parts = [str(trained / "config.json"), "can't be read"]
  refuses("evaluate", f"--workdir={trained}", parts=parts)


@pytest.mark.parametrize(
  ("leaf", "value", "message"),
  [("batch_size", "x", "batch_size"), ("ema_decay", 10**400, "too large")],
)
def test_a_config_with_a_wrong_value_is_refused(
  refuses, trained, leaf, value, message
):
  config = json.loads((trained / "config.json").read_text())
  config[leaf] = value
  (trained / "config.json").write_text(json.dumps(config))
  parts = ["config.json is not that of a run", message, "restore"]
  refuses("evaluate", f"--workdir={trained}", parts=parts)


def test_damaged_checkpoints_are_refused(refuses, trained):
  for step in (2, 4):
    (trained / f"checkpoints/{step}/extras/metadata").write_text("{")
  parts = ["no checkpoint in", "can be read", "step 2", "step 4"]
  refuses("evaluate", f"--workdir={trained}", parts=parts)


def test_metrics_are_printed_even_if_they_cannot_be_written(refuses, trained):
  (trained / "evaluation-4.json").mkdir()
  done = refuses(
    "evaluate", f"--workdir={trained}", parts=["can't be written to"]
  )
  assert (
    printed_metrics(done).keys() == metrics_of(trained, "results.json").keys()
  )
