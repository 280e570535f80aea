"""Named sweeps of a config, with runs that cost nothing."""

import csv
import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

from perceiver_jax.errors import UserError
from scripts.sweeps import points, schedule

CONFIG = """
from configs import digits

def get_config(variant=""):
  return digits.get_config(variant)

def sweep_latents():
  for count in (4, 8, 16):
    yield {"model.encoder.num_latents": count, "optimizer.weight_decay": 0.0}

def sweep_seeds():
  for seed in (1, 2):
    yield {"seed": seed}

def sweep_mistyped():
  yield {"model.encoder.num_latent": 4}

def sweep_nothing():
  yield from ()
"""


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "sweeps_of_digits.py"
  path.write_text(CONFIG)
  return path


@pytest.fixture
def trains(monkeypatch):
  """Runs end at once, with the status that `statuses` has for their name."""
  commands, statuses = [], {}

  class Process:
    def __init__(self, command, **_):
      flags = dict(f.lstrip("-").split("=", 1) for f in command if "=" in f)
      commands.append(flags)
      folder = Path(flags["workdir"])
      self._status = statuses.get(folder.name, 0)
      if not self._status:
        folder.mkdir(parents=True)
        latents = int(flags["config.model.encoder.num_latents"])
        results = {
          "metrics": {"eval/accuracy": latents / 100},
          "parameters": 10 * latents,
        }
        (folder / "results.json").write_text(json.dumps(results))

    def poll(self):
      return self._status

  monkeypatch.setattr(subprocess, "Popen", Process)
  monkeypatch.setattr(schedule, "_POLL", 0.0)
  return commands, statuses


@pytest.fixture
def arguments(config, tmp_path):
  return (
    f"--config={config}:smoke",
    "--sweep=latents",
    f"--out={tmp_path / 'out'}",
  )


def table(folder):
  with (folder / "sweep.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_a_sweep_trains_its_points_once(script, trains, arguments, tmp_path):
  commands, _ = trains
  done = script("sweep", *arguments, "--", "--config.seed=3")
  assert (done.status, done.err) == (0, "")
  names = [f"num_latents={n}" for n in (4, 8, 16)]
  assert [Path(c["workdir"]).name for c in commands] == names
  for command, count in zip(commands, (4, 8, 16), strict=True):
    assert command["config"] == arguments[0].split("=", 1)[1]
    assert command["config.model.encoder.num_latents"] == str(count)
    assert command["config.optimizer.weight_decay"] == "0.0"
    assert command["config.seed"] == "3"
  rows = table(tmp_path / "out")
  assert [row["run"] for row in rows] == names
  assert [row["num_latents"] for row in rows] == ["4", "8", "16"]
  assert [row["eval/accuracy"] for row in rows] == ["0.04", "0.08", "0.16"]
  assert [row["parameters"] for row in rows] == ["40", "80", "160"]
  # What is the same everywhere tells nothing apart.
  assert "weight_decay" not in rows[0]
  text = (tmp_path / "out" / "sweep.md").read_text()
  lines = text.splitlines()
  assert lines[2] == "| num_latents=4 | 4 | done | 40 | 0.04 |"
  assert text in done.out
  for number, name in enumerate(names, 1):
    assert f"[{number}/3] {name}" in done.out
  again = script("sweep", *arguments, "--", "--config.seed=3")
  assert again.status == 0
  assert again.out.count("finished before") == 3
  assert len(commands) == 3


def test_a_run_that_fails_is_named_and_does_not_stop_the_rest(
  script, trains, arguments, tmp_path
):
  commands, statuses = trains
  statuses["num_latents=8"] = 1
  done = script("sweep", *arguments)
  assert done.status == 1
  assert "failed: num_latents=8" in done.out.splitlines()[-1]
  assert len(commands) == 3
  rows = table(tmp_path / "out")
  assert [row["status"] for row in rows] == ["done", "failed (1)", "done"]
  assert rows[1]["eval/accuracy"] == ""
  statuses.clear()
  assert script("sweep", *arguments).status == 0
  assert len(commands) == 4
  assert table(tmp_path / "out")[1]["eval/accuracy"] == "0.08"


@pytest.mark.parametrize("status", [75, 130])
def test_a_stopped_run_stops_the_sweep_which_goes_on_later(
  script, trains, arguments, tmp_path, status
):
  commands, statuses = trains
  statuses["num_latents=8"] = status
  assert script("sweep", *arguments).status == status
  rows = table(tmp_path / "out")
  assert [row["status"] for row in rows] == ["done", "stopped", "not started"]
  statuses.clear()
  assert script("sweep", *arguments).status == 0
  assert len(commands) == 2 + 2


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    ("--sweep=", ["--sweep is missing", "--help"]),
    ("--config=", ["--config is missing"]),
    ("--out=", ["--out is missing"]),
    ("--sweep=latent", ["did you mean 'latents'?", "mistyped, nothing, seeds"]),
    ("--sweep=nothing", ["sweep_nothing()", "no point"]),
    ("--sweep=latents,latents", ["two sweeps set model.encoder.num_latents"]),
    ("--sweep=mistyped", ["num_latent'", "did you mean 'num_latents'?"]),
    ("--sweeep=latents", ["sweeep", "--help"]),
    ("--config=configs/no.py", ["no file 'configs/no.py'", "imagenet.py"]),
    ("--config=configs/digits.py", ["configs/digits.py defines no sweep"]),
  ],
)
def test_mistakes_are_told_before_all_work(
  refused, trains, arguments, change, parts, monkeypatch
):
  monkeypatch.chdir(tiny_runs.ROOT)
  refused("sweep", *arguments, change, parts=parts)
  assert not trains[0]


@pytest.mark.parametrize(
  ("flag", "part"),
  [
    ("--config.sed=3", "did you mean 'seed'?"),
    ("--config.seed=x", "seed"),
    ("--num_device=1", "num_device"),
    ("config.seed=3", "unexpected argument 'config.seed=3'; flags start"),
  ],
)
def test_mistakes_in_the_flags_of_the_runs_too(
  refused, trains, arguments, flag, part
):
  refused("sweep", *arguments, "--", flag, parts=[part])
  assert not trains[0]


def test_an_unknown_variant_is_refused(refused, trains, arguments):
  flags = (arguments[0] + "s", *arguments[1:])
  refused("sweep", *flags, parts=["unknown variant 'smokes'"])
  assert not trains[0]


def test_the_runs_of_other_flags_are_not_taken(
  script, refused, trains, arguments
):
  assert script("sweep", *arguments).status == 0
  refused("sweep", *arguments, "--", "--config.seed=3", parts=["another sweep"])
  assert len(trains[0]) == 3


def test_a_damaged_file_of_a_sweep_is_named(
  script, refused, trains, arguments, tmp_path
):
  out = tmp_path / "out"
  assert script("sweep", *arguments).status == 0
  for name in ("num_latents=4.json", "runs.json"):
    (out / name).write_text('{"ru')
    refused("sweep", *arguments, parts=[name, "is damaged", "delete it"])


@pytest.mark.parametrize("search", [(), ("--search=random",)])
def test_an_out_that_is_no_folder_is_refused(
  refused, trains, arguments, config, tmp_path, search
):
  config.write_text(CONFIG + "\ndef search_latents(trial):\n  return {}\n")
  (tmp_path / "out").write_text("mine")
  parts = ["can't be written", "another --out"]
  refused("sweep", *arguments, *search, parts=parts)
  assert (tmp_path / "out").read_text() == "mine"


def test_sweeps_are_multiplied(script, trains, arguments, tmp_path):
  commands, _ = trains
  arguments = (arguments[0], "--sweep=seeds,latents", arguments[2])
  assert script("sweep", *arguments).status == 0
  values = [
    (c["config.seed"], c["config.model.encoder.num_latents"]) for c in commands
  ]
  assert values == [(s, n) for s in "12" for n in ("4", "8", "16")]
  rows = table(tmp_path / "out")
  assert rows[0]["run"] == "seed=1,num_latents=4"
  assert [row["seed"] for row in rows] == ["1"] * 3 + ["2"] * 3


def test_a_changed_sweep_is_refused_in_the_same_folder(
  script, refused, trains, arguments, config
):
  assert script("sweep", *arguments).status == 0
  config.write_text(CONFIG.replace("(4, 8, 16)", "(4, 8, 32)"))
  refused(
    "sweep", *arguments,
    parts=["+ num_latents=32; - num_latents=16", "another --out"],
  )  # fmt: skip
  assert len(trains[0]) == 3


def test_the_page_shows_the_best_run_and_its_command(
  script, trains, arguments, tmp_path
):
  _, statuses = trains
  statuses["num_latents=16"] = 1
  script("sweep", *arguments, "--", "--config.init_from=a b <c>")
  text = (tmp_path / "out" / "sweep.html").read_text()
  assert '<p class="headline">0.08</p>' in text
  (command,) = re.findall(r"<pre>(.*?)</pre>", text, re.S)
  words = shlex.split(html.unescape(command))
  assert words[:3] == ["python", "-m", "experiments.train"]
  assert words[3] == f"--workdir={tmp_path / 'out' / 'num_latents=8'}"
  assert words[-1] == "--config.init_from=a b <c>"
  assert "<dt>failed (1)</dt><dd>1</dd>" in text
  assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
  # The best comes first in its table.
  assert text.index(">num_latents=8<") < text.index(">num_latents=4<")


def test_help_lists_the_flags():
  done = subprocess.run(
    [sys.executable, "-m", "scripts.sweep", "--help"],
    cwd=tiny_runs.ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0
  assert "--sweep" in done.stdout
  assert not done.stderr


def test_names_are_the_leaves_that_differ():
  same = {"seed": 1}
  name = lambda *given: list(points.by_name([same | point for point in given]))
  assert name({"a.b": 1}, {"a.b": 2}) == ["b=1", "b=2"]
  assert name({"a.b": 1, "c.b": 1}, {"a.b": 2, "c.b": 2}) == [
    "a.b=1,c.b=1",
    "a.b=2,c.b=2",
  ]
  assert name({"a.b": (2, 3)}, {"a.b": (2, 4)}) == ["b=2x3", "b=2x4"]
  assert name({"a.b": "x/y z"}, {}) == ["b=x-yz", "default"]
  assert name({"a.rate": 1e-5}, {"a.rate": 1.5e-5}) == [
    "rate=1e-05",
    "rate=1.5e-05",
  ]
  assert name({}) == ["seed=1"]
  with pytest.raises(UserError, match="twice"):
    name({"a.b": 1}, {"a.b": 1})


@pytest.mark.slow  # Two trainings, the shortest there are.
def test_a_sweep_of_real_runs(config, tmp_path):
  text = CONFIG.replace("(4, 8, 16)", "(4, 8)")
  config.write_text(text)
  subprocess.run(
    [
      *(sys.executable, "-m", "scripts.sweep", f"--config={config}:smoke"),
      *("--sweep=latents", f"--out={tmp_path / 'out'}"),
      *("--", "--config.num_steps=2"),
    ],
    cwd=tiny_runs.ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
    capture_output=True,
    check=True,
  )
  rows = table(tmp_path / "out")
  assert [row["status"] for row in rows] == ["done", "done"]
  parameters = [int(row["parameters"]) for row in rows]
  assert parameters[1] - parameters[0] == 4 * 16


def test_a_point_may_name_another_variant():
  point = {"variant": "pairs", "seed": 1}
  assert points.flags("a.py:b,smoke", point) == [
    "--config=a.py:pairs,smoke", "--config.seed=1",
  ]  # fmt: skip
  assert points.flags("a.py", point)[0] == "--config=a.py:pairs"
  assert points.flags("a.py:b", {"seed": 1})[0] == "--config=a.py:b"
