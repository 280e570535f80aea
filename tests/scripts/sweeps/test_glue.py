"""The sweep over GLUE's tasks, with runs that cost nothing."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.sweeps import schedule

_PRETRAINED = "--init_from=runs/mlm"
_COLA = ("--tasks=cola", _PRETRAINED)


@pytest.fixture
def trains(monkeypatch):
  """Runs end at once; `average` is what each reaches at its second epoch."""
  commands = []

  class Process:
    def __init__(self, command, **_):
      flags = dict(f.lstrip("-").split("=", 1) for f in command if "=" in f)
      commands.append(flags)
      rate = float(flags["config.optimizer.learning_rate"])
      average = 0.5 + rate * int(flags["config.batch_size"])
      folder = Path(flags["workdir"])
      folder.mkdir(parents=True)
      records = [
        {"step": 5, "glue/average": 0.1, "cola/matthews": 0.1},
        {"step": 10, "glue/average": average, "cola/matthews": average},
        {"step": 15, "glue/average": 0.2, "cola/matthews": 0.2},
        {"step": 15, "train/loss": 0.5},
      ]
      lines = "\n".join(map(json.dumps, records))
      (folder / "metrics.jsonl").write_text(lines + "\n")
      (folder / "results.json").write_text("{}")

    def poll(self):
      return self.status

    status = 0

  monkeypatch.setattr(subprocess, "Popen", Process)
  monkeypatch.setattr(schedule, "_POLL", 0.0)
  return Process, commands


def test_the_sweep_takes_the_best_of_the_papers_grid(script, trains, tmp_path):
  _, commands = trains
  arguments = ("--tasks=cola,rte", f"--out={tmp_path}", "--init_from=runs/mlm")
  done = script("sweeps.glue", *arguments, "--", "--config.seed=3")
  assert done.status == 0, done.err
  assert len(commands) == 2 * 3 * 4
  grid = {
    (c["config.batch_size"], c["config.optimizer.learning_rate"])
    for c in commands
  }
  rates = ("1e-4", "5e-5", "2e-5", "1e-5")
  assert grid == {(b, r) for b in ("16", "32", "64") for r in rates}
  assert all(c["config.init_from"] == "runs/mlm" for c in commands)
  assert all(c["config.seed"] == "3" for c in commands)
  sweep = json.loads((tmp_path / "sweep.json").read_text())
  best = sweep["best"]["cola"]
  assert best["average"] == pytest.approx(0.5 + 64e-4)
  assert (best["step"], best["metrics"]) == (
    10, {"cola/matthews": best["average"]},
  )  # fmt: skip
  assert best["folder"].endswith("cola/batch64-rate1e-4")
  assert sweep["average"] == pytest.approx(best["average"])
  assert "50.64%     50.19%" in done.out


def test_the_sweep_does_no_run_twice_and_names_those_that_fail(
  script, trains, refused, tmp_path
):
  process, commands = trains
  arguments = (*_COLA, f"--out={tmp_path}", "--batch_sizes=16")
  process.status = 2
  script("sweeps.glue", *arguments)
  for results in tmp_path.glob("cola/*/results.json"):
    shutil.rmtree(results.parent)
  refused("sweeps.glue", *arguments, parts=["rate1e-4 (status 2)", "again"])
  assert len(commands) == 2 * 4
  for results in tmp_path.glob("cola/*/results.json"):
    shutil.rmtree(results.parent)
  process.status = 75
  assert script("sweeps.glue", *arguments).status == 75
  assert len(commands) == 2 * 4 + 1
  process.status = 0
  assert script("sweeps.glue", *arguments).status == 0
  assert len(commands) == 2 * 4 + 1 + 3


@pytest.mark.parametrize(
  "change", [("--init_from=other",), ("--", "--config.seed=3")]
)
def test_the_runs_of_another_sweep_are_not_taken(
  script, trains, refused, tmp_path, change
):
  _, commands = trains
  arguments = (*_COLA, f"--out={tmp_path}", "--batch_sizes=16")
  assert script("sweeps.glue", *arguments).status == 0
  refused(
    "sweeps.glue", *arguments, *change, parts=["to another sweep", "--out"]
  )
  assert len(commands) == 4


def test_rates_that_differ_little_are_runs_of_their_own(
  script, trains, tmp_path
):
  _, commands = trains
  rates = "--learning_rates=1.5e-5,2e-5"
  arguments = (*_COLA, f"--out={tmp_path}", "--batch_sizes=16", rates)
  assert script("sweeps.glue", *arguments).status == 0
  assert len(commands) == 2


@pytest.mark.parametrize(
  ("flags", "part"),
  [
    (("--batch_sizes=a",), "--batch_sizes"),
    (("--batch_sizes=16,0",), "--batch_sizes=16,0"),
    (("--batch_sizes=",), "--batch_sizes is missing"),
    (("--learning_rates=1e-4,x",), "--learning_rates"),
    (("--learning_rates=nan",), "--learning_rates=nan"),
    (("--learning_rates=inf",), "--learning_rates=inf"),
    (("--tasks=",), "--tasks is missing"),
    (("--init_from=",), "--init_from is missing"),
    (("--", "--config.sed=3"), "did you mean 'seed'?"),
    (("--", "config.seed=3"), "unexpected argument"),
  ],
)
def test_mistakes_are_told_before_all_work(
  trains, refused, tmp_path, flags, part
):
  out = tmp_path / "out"
  refused("sweeps.glue", *_COLA, f"--out={out}", *flags, parts=[part])
  assert not trains[1]
  assert not out.exists()


def test_published_averages_are_the_papers(script, trains, tmp_path):
  grid = (_PRETRAINED, "--batch_sizes=16", "--learning_rates=1e-4")
  done = script("sweeps.glue", f"--out={tmp_path / 'a'}", *grid)
  assert done.status == 0, done.err
  # Perceiver IO v3, Table 14.
  assert re.search(r"^mnli .* 83.5\d% ", done.out, re.MULTILINE)
  assert re.search(r"^average .* 80.9\d%$", done.out, re.MULTILINE)
  done = script(
    "sweeps.glue", f"--out={tmp_path / 'b'}", "--tasks=multitask_query", *grid
  )
  assert re.search(r"^multitask_query .* 81.79% ", done.out, re.MULTILINE)


@pytest.mark.parametrize(
  ("model", "average"), [("bytes_128", "75.84"), ("bytes_512", "80.92")]
)
def test_models_of_table_15_have_a_published_average_alone(
  script, trains, tmp_path, model, average
):
  grid = (_PRETRAINED, "--batch_sizes=16", "--learning_rates=1e-4")
  grid += (f"--model={model}",)
  done = script("sweeps.glue", f"--out={tmp_path}", *grid)
  assert done.status == 0, done.err
  assert re.search(r"^cola .* –  ", done.out, re.MULTILINE)
  assert re.search(rf"^average .* {average}%$", done.out, re.MULTILINE)


def test_a_mistyped_task_is_told_before_all_work(trains, refused, tmp_path):
  _, commands = trains
  flags = (*_COLA, "--tasks=cola,rt", f"--out={tmp_path}")
  refused("sweeps.glue", *flags, parts=["'rt'"])
  assert not commands
