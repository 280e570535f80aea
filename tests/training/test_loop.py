"""Tests of whole training runs: what they write, refuse and report."""

import contextlib
import json
import math
import re
import resource
from typing import ClassVar

import pytest
import tiny_runs as runs
from jax import numpy as jnp

from configs import base, digits, hip
from perceiver_jax.errors import DivergedError, UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import (
  config_checks,
  evaluation,
  interrupts,
  loop,
  metrics,
  workdir,
)
from perceiver_jax.training.checkpoints import manifest as manifest_lib
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer
from perceiver_jax.training.logs import process_log

pytestmark = pytest.mark.usefixtures("compile_once", "no_report")


@pytest.fixture(scope="module")
def finished(trained_once):
  """Returns the folder of the smoke run of the digits; do not write."""
  return trained_once[0]


def read(folder, name):
  return json.loads((folder / name).read_text())


def test_outcome_of_a_finished_run(tmp_path):
  outcome = runs.train(tmp_path)
  assert (outcome.stopped, outcome.step) == ("", 12)
  stored = read(tmp_path, "results.json")
  assert stored == json.loads(json.dumps(outcome.results))


def test_folder_records_config_versions_and_classes(finished):
  folder = finished
  config = digits.get_config("smoke")
  assert read(folder, "config.json") == json.loads(config.to_json())
  assert read(folder, "versions.json")["jax"]
  assert read(folder, "task.json") == {
    "class_names": list("0123456789"),
    "num_train_examples": 1437,
  }


def test_folder_holds_checkpoints_images_report_and_results(finished):
  folder = finished
  assert runs.checkpoint_steps(folder) == [2, 4]
  images = sorted((folder / "images").iterdir())
  names = ["cross_attention-00000004.png", "predictions-00000004.png"]
  assert [image.name for image in images] == names
  for image in images:
    assert image.read_bytes().startswith(b"\x89PNG")
  assert [p.name for p in (folder / "tensorboard").glob("*tfevents*")]
  assert "</html>" in (folder / "report.html").read_text()
  stored = read(folder, "results.json")
  assert stored["task"] == "image_classification"
  assert stored["metrics"].keys() == {
    "eval/accuracy",
    "eval/loss",
    "eval/top_5_accuracy",
    "eval/calibration_error",
  }
  assert stored["steps"] == stored["best_step"] == 4
  assert stored["epochs"] == round(4 * 8 / 1437, 2)
  assert stored["parameters"] > 10_000
  assert stored["train_seconds"] >= stored["seconds"]["compile"] > 0


def test_metrics_are_recorded_at_their_intervals(finished):
  folder = finished
  trained, last, evaluated = runs.records(folder)
  assert (trained["step"], last["step"], evaluated["step"]) == (2, 4, 4)
  assert (
    trained.keys()
    == last.keys()
    >= {
      "step",
      "train/loss",
      "train/accuracy",
      "train/grad_norm",
      "train/param_norm",
      "train/learning_rate",
    }
  )
  metrics = {k: v for k, v in evaluated.items() if k != "step"}
  assert metrics == read(folder, "results.json")["metrics"]


def test_a_finished_run_started_again_repeats_its_results(trained):
  folder, metrics = trained, read(trained, "results.json")["metrics"]
  files = "metrics.jsonl", "config.json"
  before = [(folder / name).read_bytes() for name in files]
  state = runs.state(folder)
  (folder / "versions.json").write_text('{"jax": "of the steps"}')
  config = digits.get_config("smoke")
  again = runs.train(folder, config, tasks.make_task(config))
  assert (again.stopped, again.step) == ("", 4)
  assert again.results["metrics"] == metrics
  assert again.results["versions"] == {"jax": "of the steps"}
  assert read(folder, "versions.json") == {"jax": "of the steps"}
  assert [(folder / name).read_bytes() for name in files] == before
  assert runs.state(folder) == state


def test_logging_evaluation_and_saving_have_separate_intervals(tmp_path):
  runs.train(tmp_path)
  steps = {"train/loss": [], "eval/loss": []}
  for record in runs.records(tmp_path):
    for name, recorded in steps.items():
      recorded += [record["step"]] if name in record else []
  assert steps == {"train/loss": [4, 8, 12], "eval/loss": [5, 10, 12]}
  assert runs.checkpoint_steps(tmp_path) == [9, 12]
  metrics = [
    manifest_lib.read_manifest(tmp_path / "checkpoints" / step).metrics
    for step in ("9", "12")
  ]
  # The metrics of step 5 are not attributed to step 9.
  assert metrics[0] == {}
  assert metrics[1].keys() == {"eval/accuracy", "eval/loss"}


def test_the_lock_is_checked_before_anything_is_written(tmp_path, monkeypatch):
  events = []

  @contextlib.contextmanager
  def locked(folder):
    yield lambda: events.append("check")

  def record(where, name):
    original = getattr(where, name)

    def recorded(*args, **kwargs):
      events.append(name)
      return original(*args, **kwargs)

    monkeypatch.setattr(where, name, recorded)

  monkeypatch.setattr(workdir, "locked", locked)
  record(evaluation, "evaluate_all")
  record(Checkpointer, "save")
  reasons = {6: interrupts.PREEMPTED}
  monkeypatch.setattr(interrupts, "Interrupts", runs.stop_at(reasons))
  for _ in range(2):
    runs.train(tmp_path)
  evaluated = [i for i, name in enumerate(events) if name == "evaluate_all"]
  saved = [i for i, name in enumerate(events) if name == "save"]
  assert (len(evaluated), len(saved)) == (3, 5)
  assert {events[i + 1] for i in evaluated} == {"check"}
  assert {events[i - 1] for i in saved} == {"check"}


def test_means_of_an_interval_do_not_depend_on_its_length(tmp_path):
  for every in (1, 4):
    config = runs.tiny_config(num_steps=4, log__every_steps=every)
    runs.train(tmp_path / str(every), config)
  loss = lambda folder: [
    r["train/loss"]
    for r in runs.records(tmp_path / folder)
    if "train/loss" in r
  ]
  assert len(loss("1")) == 4
  assert loss("4") == [pytest.approx(sum(loss("1")) / 4, rel=1e-5)]


def test_training_raises_the_accuracy(tmp_path):
  config = runs.tiny_config(
    num_steps=60, log__every_steps=30, optimizer__learning_rate=0.1
  )
  outcome = runs.train(tmp_path, config)
  assert outcome.results["metrics"]["eval/accuracy"] > 0.6  # chance: 0.33


def test_a_length_in_epochs_is_rounded_up_to_whole_steps(tmp_path):
  config = runs.tiny_config(num_steps=0, num_epochs=0.55)
  outcome = runs.train(tmp_path, config)  # 0.55 x 40 examples / 8 = 2.75
  assert outcome.step == 3
  assert outcome.results["epochs"] == 0.6


@pytest.mark.parametrize(
  ("steps", "epochs", "expected"),
  [(7, 0.0, 7), (0, 1.0, 5), (0, 1.01, 6), (0, 1e-9, 1), (0, 60.0, 300)],
)
def test_num_steps_follows_from_steps_or_epochs(steps, epochs, expected):
  config = runs.tiny_config(num_steps=steps, num_epochs=epochs)
  assert config_checks.num_steps(config, 40) == expected


@pytest.mark.parametrize(
  ("steps", "epochs"),
  [
    *((0, 0.0), (5, 1.0), (-1, 0.0), (0, -1.0), (-3, 2.0), (3, -2.0)),
    *((0, math.inf), (0, math.nan), (5, math.nan)),
  ],
)
def test_num_steps_rejects_invalid_lengths(steps, epochs):
  config = runs.tiny_config(num_steps=steps, num_epochs=epochs)
  with pytest.raises(UserError, match=r"config.num_steps is .* one of them"):
    config_checks.num_steps(config, 40)


@pytest.mark.parametrize(
  ("leaf", "value"),
  [
    ("seed", -1),
    ("seed", 2**63),
    ("num_steps", 10**400),
    ("eval_every_steps", -1),
    ("eval_every_epochs", -0.5),
    ("eval_every_epochs", math.inf),
    ("checkpoint.every_epochs", math.nan),
    ("max_seconds", -1.0),
    ("max_seconds", math.nan),
    ("log.every_steps", 0),
    ("checkpoint.every_steps", 0),
    ("checkpoint.keep_latest", 0),
    ("checkpoint.keep_best", -1),
    ("ema_decay", 1.0),
    ("ema_decay", -0.1),
    ("num_microbatches", 0),
    ("batch_size", 0),
    ("batch_size", -8),
    ("precision", "float16"),
    ("optimizer.name", "sgd"),
    ("optimizer.schedule", "linear"),
  ],
)
def test_an_invalid_value_is_reported_before_anything_is_written(
  tmp_path, leaf, value
):
  config = runs.tiny_config(**{leaf.replace(".", "__"): value})
  with pytest.raises(UserError, match=f"config.{leaf} is {value!r}"):
    runs.train(tmp_path / "run", config)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("leaf", "value"),
  [
    ("label_smoothing", -0.5),
    ("label_smoothing", 1.5),
    ("label_smoothing", math.nan),
    ("data.affine.degrees", math.nan),
    ("mixing.mixup_alpha", -1.0),
    ("mixing.cutmix_alpha", math.inf),
    ("data.rand_augment.magnitude", math.nan),
    ("model.adapter.num_bands", -1),
  ],
)
def test_numbers_of_images_out_of_range_are_refused(leaf, value):
  config = digits.get_config()
  config.update_from_flattened_dict({leaf: value})
  with pytest.raises(UserError, match=f"config.{leaf} is {value}; give"):
    config_checks.check_numbers(config)


@pytest.mark.parametrize(
  ("leaf", "value"),
  [("num_latents", (4, -1)), ("num_self_attends", (2**63, 2))],
)
def test_numbers_of_blocks_out_of_range_are_refused(leaf, value):
  config = hip.get_config("smoke")
  config.model.encoder[leaf] = value
  message = re.escape(f"config.model.encoder.{leaf} is {value}; give")
  with pytest.raises(UserError, match=message):
    config_checks.check_numbers(config)


def test_a_config_may_lack_only_leaves_with_defaults():
  run = base.run()
  for leaf in ("execution", "init_from", "optimizer.clip_norm"):
    config_checks.check_complete(_without(leaf), run)
  for leaf, missing in (
    ("seed", "seed"),
    ("checkpoint", "checkpoint.every_epochs"),
    ("log.every_steps", "log.every_steps"),
    ("optimizer.learning_rate", "optimizer.learning_rate"),
  ):
    with pytest.raises(UserError, match=f"no leaf '{missing}'; start from"):
      config_checks.check_complete(_without(leaf), run)


def _without(leaf):
  """Returns a config that lacks a leaf or a section."""
  config = section = runs.tiny_config()
  *sections, name = leaf.split(".")
  for part in sections:
    section = section[part]
  del section[name]
  return config


@pytest.mark.parametrize(
  ("num_devices", "leaves", "message"),
  [
    (3, {}, "8, which does not divide over 3 devices .* multiple of 3"),
    (2, {"num_microbatches": 3}, "2 devices x 3 microbatches.* multiple of 6"),
    (9, {}, "--num_devices is 9, but there are 8"),
  ],
)
def test_batch_must_divide_over_devices_and_microbatches(
  tmp_path, num_devices, leaves, message
):
  with pytest.raises(UserError, match=message):
    runs.train(
      tmp_path / "run", runs.tiny_config(**leaves), num_devices=num_devices
    )
  assert not (tmp_path / "run").exists()


class Unbuildable(runs.TinyTask):
  """A task whose model raises `error` when it is built."""

  def __init__(self, error):
    super().__init__()
    self._error = error

  def forward(self, batch, *, is_training, return_attention=False):
    raise self._error


@pytest.mark.parametrize("error", [ValueError("3 heads"), ZeroDivisionError()])
def test_a_model_that_cannot_be_built_is_an_error_of_the_config(
  tmp_path, error
):
  with pytest.raises(UserError, match=f"config.model .*{error}"):
    runs.train(tmp_path / "run", task=Unbuildable(error))
  assert not (tmp_path / "run").exists()


def test_programming_error_in_a_model_keeps_its_traceback(tmp_path):
  with pytest.raises(TypeError, match="of a programmer"):
    runs.train(tmp_path, task=Unbuildable(TypeError("of a programmer")))


def test_folder_of_another_config_is_refused(tmp_path):
  runs.train(tmp_path, runs.tiny_config(num_steps=1))
  before = runs.contents(tmp_path)
  with pytest.raises(UserError, match="num_steps is 1 there and 12 here"):
    runs.train(tmp_path)
  assert runs.contents(tmp_path) == before


def test_two_configs_started_together_do_not_share_a_folder(tmp_path):
  second = runs.tiny_config(num_steps=2)
  trainer = loop.Trainer(second, runs.TinyTask(), tmp_path, 1)
  runs.train(tmp_path, runs.tiny_config(num_steps=1))
  before = runs.contents(tmp_path)
  with pytest.raises(UserError, match="num_steps is 1 there and 2 here"):
    trainer.run()
  assert runs.contents(tmp_path) == before


def test_a_run_that_failed_before_its_first_step_may_be_corrected(
  tmp_path, monkeypatch
):
  def fail(*_):
    raise MemoryError

  with monkeypatch.context() as patch:
    patch.setattr(loop.Trainer, "_compile", fail)
    with pytest.raises(MemoryError):
      runs.train(tmp_path)
  outcome = runs.train(tmp_path, runs.tiny_config(num_steps=1, batch_size=4))
  assert (outcome.stopped, outcome.step) == ("", 1)
  assert read(tmp_path, "config.json")["batch_size"] == 4


def test_folder_of_other_classes_is_refused(tmp_path):
  config = runs.tiny_config(num_steps=1)
  runs.train(tmp_path, config)
  task = runs.TinyTask()
  task.metadata = lambda: {"class_names": ["a", "c", "b"]}
  before = runs.contents(tmp_path)
  with pytest.raises(UserError, match="number 1, 'c' instead of 'b'"):
    runs.train(tmp_path, config, task)
  assert runs.contents(tmp_path) == before


def test_values_that_change_no_result_may_change(tmp_path):
  runs.train(tmp_path, runs.tiny_config(num_steps=2))
  config = runs.tiny_config(num_steps=2, log__every_steps=1, max_seconds=9.0)
  assert runs.train(tmp_path, config).step == 2


def exploding(**leaves):
  """Returns a config whose learning rate is far too high from step 7 on."""
  return runs.tiny_config(
    optimizer__schedule="step",
    optimizer__boundaries=(0.5,),
    optimizer__decay_factor=1e38,
    optimizer__learning_rate=0.1,
    **leaves,
  )


@pytest.mark.parametrize(
  "leaves",
  [
    {"checkpoint__every_steps": 1},
    {"checkpoint__every_steps": 2, "log__every_steps": 100},
    {"checkpoint__every_steps": 6, "eval_every_steps": 1},
    {"checkpoint__every_steps": 6, "num_steps": 7, "eval_every_steps": 0,
     "optimizer__boundaries": (6 / 7,)},
  ],
)  # fmt: skip
def test_a_run_that_diverges_stops_and_saves_only_finite_values(
  tmp_path, leaves
):
  config = exploding(checkpoint__keep_latest=9)
  for name, value in leaves.items():
    config.update_from_flattened_dict({name.replace("__", "."): value})
  with pytest.raises(DivergedError, match=r"is (nan|inf) in the steps up to"):
    runs.train(tmp_path, config)
  assert runs.checkpoint_steps(tmp_path)[-1] == 6
  for record in runs.records(tmp_path):
    assert None not in record.values()
    assert record["step"] <= 6
  assert not (tmp_path / "results.json").exists()
  # Resumed from what it saved, it fails in the same way.
  with pytest.raises(DivergedError):
    runs.train(tmp_path, config)


def test_divergence_takes_precedence_over_a_request_to_stop(
  tmp_path, monkeypatch
):
  stops = runs.stop_at({7: interrupts.PREEMPTED})
  monkeypatch.setattr(interrupts, "Interrupts", stops)
  config = exploding(checkpoint__every_steps=6, log__every_steps=100)
  with pytest.raises(DivergedError):
    runs.train(tmp_path, config)
  assert runs.checkpoint_steps(tmp_path) == [6]


def test_run_stopped_by_the_time_limit_can_be_resumed(tmp_path, capsys):
  config = runs.tiny_config(max_seconds=1e-9)
  outcome = runs.train(tmp_path / "run", config)
  assert outcome == loop.Outcome(interrupts.OUT_OF_TIME, 1, {})
  assert "out of time at step 1, which is saved" in capsys.readouterr().out
  assert runs.checkpoint_steps(tmp_path / "run") == [1]
  assert not (tmp_path / "run" / "results.json").exists()
  assert runs.train(tmp_path / "run", config).step == 2
  capsys.readouterr()
  outcome = runs.train(tmp_path / "run")
  assert (outcome.stopped, outcome.step) == ("", 12)
  assert "resumed from step 2" in " ".join(capsys.readouterr().out.split())
  runs.train(tmp_path / "undisturbed")
  runs.assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_run_that_ends_within_the_time_limit_is_not_stopped(tmp_path):
  config = runs.tiny_config(num_steps=1, max_seconds=1e-9)
  assert runs.train(tmp_path, config).stopped == ""


def test_start_prints_a_summary_of_the_run(tmp_path, capsys):
  runs.train(tmp_path, runs.tiny_config(num_microbatches=2), num_devices=2)
  text = " ".join(capsys.readouterr().out.split())
  for part in (
    "2 x cpu (cpu), 1 process(es)",
    "8 = 2 device(s) x 2 microbatch(es) x 2",
    "12 = 2.4 epochs of 40 examples",
    "parameters 28",
    "step 4/12",
    "step 12: eval/accuracy",
  ):
    assert part in text, part


def test_failed_last_save_is_an_error(tmp_path, monkeypatch):
  def fail(self):
    raise UserError("no space left")

  monkeypatch.setattr(Checkpointer, "wait", fail)
  with pytest.raises(UserError, match="no space left"):
    runs.train(tmp_path)
  assert not (tmp_path / "results.json").exists()


def test_the_checkpoint_of_the_best_evaluation_is_kept(tmp_path):
  config = runs.tiny_config(
    num_steps=6,
    eval_every_steps=1,
    checkpoint__every_steps=1,
    checkpoint__keep_latest=1,
    optimizer__learning_rate=0.5,
  )
  outcome = runs.train(tmp_path, config)
  accuracies = {
    r["step"]: r["eval/accuracy"]
    for r in runs.records(tmp_path)
    if "eval/accuracy" in r
  }
  best = max(accuracies, key=lambda step: (accuracies[step], step))
  assert outcome.results["best_step"] == best
  assert runs.checkpoint_steps(tmp_path) == sorted({best, 6})


def test_disk_that_fills_up_between_checkpoints(tmp_path):
  config = runs.tiny_config(log__every_steps=1, checkpoint__every_steps=100)
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2500, limit[1]))
  try:
    with pytest.raises(UserError, match="can't be written to: file too large"):
      runs.train(tmp_path, config)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  assert 0 < (tmp_path / "metrics.jsonl").read_text().count("\n") < 12
  runs.train(tmp_path, config)
  assert len(runs.records(tmp_path)) == 15


def test_intervals_in_epochs_are_whole_steps_and_add_to_those_in_steps(
  tmp_path,
):
  # An epoch is 5 steps of 8 of the 40 examples.
  config = runs.tiny_config(
    eval_every_steps=6,
    eval_every_epochs=1.0,
    checkpoint__every_steps=0,
    checkpoint__every_epochs=0.8,
    checkpoint__keep_latest=9,
  )
  runs.train(tmp_path, config)
  evaluated = [r["step"] for r in runs.records(tmp_path) if "eval/loss" in r]
  assert evaluated == [5, 6, 10, 12]
  assert runs.checkpoint_steps(tmp_path) == [4, 8, 12]


def test_intervals_of_fractional_steps_do_not_drift(tmp_path):
  # 40 examples are 3.33 batches of 12; three epochs are ten steps.
  config = runs.tiny_config(
    batch_size=12,
    num_steps=0,
    num_epochs=3.0,
    eval_every_steps=0,
    eval_every_epochs=1.0,
  )
  runs.train(tmp_path, config)
  evaluated = [r["step"] for r in runs.records(tmp_path) if "eval/loss" in r]
  assert evaluated == [4, 7, 10]


def test_task_adds_metrics_to_every_evaluation(tmp_path):
  class Task(runs.TinyTask):
    def finalize_metrics(self, metrics):
      return {**metrics, "all": {"twice": 2 * metrics["eval"]["accuracy"]}}

  runs.train(tmp_path, task=Task())
  measured = [r for r in runs.records(tmp_path) if "eval/accuracy" in r]
  assert [r["step"] for r in measured] == [5, 10, 12]
  for record in measured:
    assert record["all/twice"] == 2 * record["eval/accuracy"]
  final = json.loads((tmp_path / "results.json").read_text())["metrics"]
  assert final["all/twice"] == 2 * final["eval/accuracy"]


def test_rates_that_a_task_names_are_logged_per_second(tmp_path):
  class Task(runs.TinyTask):
    rates: ClassVar = {"words": "words_per_second"}

    def loss(self, outputs, batch):
      five_each = 5.0 * jnp.ones(len(outputs))
      words = metrics.weighted(five_each, jnp.ones(len(outputs)))
      return {**super().loss(outputs, batch), "words": words}

  runs.train(tmp_path, task=Task())
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  trained = [r for r in map(json.loads, lines) if "train/loss" in r]
  assert [r["step"] for r in trained] == [4, 8, 12]
  for record in trained:
    assert record["train/words"] == 5
    examples = record["speed/examples_per_second"]
    assert record["speed/words_per_second"] == pytest.approx(5 * examples)


def test_tasks_log_no_rates_by_default(finished):
  lines = map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
  speeds = {name for line in lines for name in line if "speed/" in name}
  assert speeds == {
    "speed/examples_per_second",
    "speed/step_seconds",
    "speed/data_wait_percent",
    "speed/gflops_per_second",
  }


def test_every_process_has_a_heartbeat_and_a_log(finished):
  (heartbeat,) = process_log.read_heartbeats(finished)
  assert (heartbeat["step"], heartbeat["doing"]) == (4, "ended")
  assert heartbeat["step_seconds"] > 0
  lines = process_log.read_log(finished, 0)
  assert any(" 50% [##########----------] step 2/4 " in line for line in lines)
  trained = map(json.loads, (finished / "metrics.jsonl").open())
  assert next(trained)["memory/host_gb"] > 0.05


def test_steps_of_a_run_can_be_profiled(tmp_path, capsys):
  config = runs.tiny_config(log__profile_from_step=3, log__profile_steps=2)
  runs.train(tmp_path, config)
  folder = tmp_path / "profile" / "plugins" / "profile" / "step_3"
  assert f"wrote a profile from step 3 to {folder}" in capsys.readouterr().out
  assert [path for path in folder.glob("0-*.xplane.pb") if path.stat().st_size]
