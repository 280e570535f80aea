"""Tests of predictions of commands in StarCraft II."""

import re

import numpy as np
import pytest
import task_helpers
import tiny_runs as runs

from configs import starcraft
from perceiver_jax.data.core import records
from perceiver_jax.data.starcraft import battles, features

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the folder of a run with random parameters."""
  folder = tmp_path_factory.mktemp("runs") / "battles"
  runs.write_random(folder, task_helpers.make_config(starcraft, "small,smoke"))
  return folder


def _write(path, **changes):
  battle = battles.battles("test", min_entities=12, max_entities=20)[0]
  arrays = {name: np.asarray(value) for name, value in battle.items()}
  del arrays["group"]  # Of generated battles only.
  arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
  path.write_bytes(records.encode(arrays))
  return path


def _printed(done):
  """Returns the lines of each part of the command."""
  parts = {}
  for line in done.out.splitlines()[1:]:
    if line.endswith(":"):
      name = line.strip(" :")
    else:
      parts.setdefault(name, []).append(line.strip())
  return parts


def test_each_part_has_names_and_probabilities(run, call, tmp_path):
  path = _write(tmp_path / "battle.npz")
  flags = ["predict", "command", f"--workdir={run}", "--top=3"]
  done = call(*flags, path)
  assert done.status == 0, done.err
  parts = _printed(done)
  assert list(parts) == list(features.TARGETS)
  action = {re.split("  +", line)[0] for line in parts["action"]}
  assert action == set(battles.ACTIONS)
  shares = [float(re.search(r"([\d.]+)%", x)[1]) for x in parts["action"]]
  assert sum(shares) == pytest.approx(100, abs=0.3)
  battle = battles.battles("test", min_entities=12, max_entities=20)[0]
  for line in parts["selected"] + parts["target"]:
    number, name = re.match(r"(\d+): (\w+) \(", line).groups()
    assert name == battles.UNIT_TYPES[battle["unit_type"][int(number)]]
  # Targets do not matter.
  for changes in (dict.fromkeys(features.TARGETS), {"action": np.array(1000)}):
    again = call(*flags, _write(tmp_path / "other.npz", **changes))
    assert again.out.splitlines()[1:] == done.out.splitlines()[1:]


@pytest.mark.parametrize(
  ("changes", "parts"),
  [
    ({"x": None}, ["bad.npz", "lacks 'x'"]),
    ({"x": np.full(3, "far")}, ["bad.npz", "'x' is <U3; give numbers"]),
    ({"x": np.full(3, 1e300)}, ["'x' has an infinite or too large value"]),
    ({"unit_type": np.full(3, np.nan)}, ["'unit_type' has a NaN"]),
    ({"unit_type": np.array(1.0)}, ["'unit_type' has shape ()"]),
    ({"helth": np.zeros(3)}, ["unknown array 'helth'; there are:", "health"]),
    ({"health": np.zeros(2)}, ["'health' has shape (2,)"]),
    (
      dict.fromkeys(battles.battles("test")[0], None)
      | {n: np.zeros(0) for n in features.REQUIRED},
      ["bad.npz", "no entity"],
    ),
    (
      dict.fromkeys(battles.battles("test")[0], None)
      | {n: np.zeros(1000) for n in features.REQUIRED},
      ["bad.npz", "1000 entities", "config.data.num_entities"],
    ),
  ],
)
def test_bad_observations_are_refused(run, refuses, tmp_path, changes, parts):
  path = _write(tmp_path / "bad.npz", **changes)
  refuses("predict", "command", f"--workdir={run}", path, parts=parts)


def test_files_that_are_no_observation_are_refused(run, refuses, tmp_path):
  path = tmp_path / "text.npz"
  path.write_text("no zip file")
  flags = ["predict", "command", f"--workdir={run}"]
  refuses(*flags, path, parts=["text.npz", "damaged"])
  refuses(*flags, "absent.npz", parts=["absent.npz", "can't be read"])
  refuses(*flags, parts=["no observation is given"])


def test_a_run_is_needed(refuses, tmp_path):
  path = _write(tmp_path / "battle.npz")
  refuses("predict", "command", path, parts=["give --workdir"])
