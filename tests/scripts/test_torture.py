"""Tests of the script that disturbs runs."""

import itertools
import json
import random
import subprocess
import sys

import pytest
import tiny_runs

from scripts.torture import faults, runs


def _names(count, seed=0):
  return list(itertools.islice(faults.schedule(random.Random(seed)), count))


def test_half_of_the_disturbances_are_kills_and_none_is_left_out():
  names = _names(2 * len(faults.OTHERS))
  assert names[::4] == ["kill -9"] * 5
  assert names[2::4] == ["kill -9 while saving"] * 5
  assert sorted(names[1::2]) == sorted(faults.OTHERS)
  assert names == _names(len(names))
  assert names != _names(len(names), seed=1)


def _write(folder, steps, speed=1.0, weights=b"w"):
  folder.mkdir()
  lines = [json.dumps({"step": s, "loss": 1, "speed/x": speed}) for s in steps]
  (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
  (folder / "model.safetensors").write_bytes(weights)
  return folder


def test_runs_are_compared_without_their_speed(tmp_path):
  run = _write(tmp_path / "a", [1, 2])
  other = _write(tmp_path / "b", [1, 2], speed=2.0)
  assert runs.differences(run, other) == []
  other = _write(tmp_path / "c", [1, 3], weights=b"v")
  assert runs.differences(run, other) == ["parameters", "metrics"]


def test_the_state_of_a_run_is_read_from_its_folder(tmp_path):
  assert runs.last_step(tmp_path) == 0
  run = _write(tmp_path / "run", [1, 2])
  with (run / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "lo')  # Half a line is no record.
  assert runs.last_step(run) == 2
  for name in ("12", "4"):
    (run / "checkpoints" / name).mkdir(parents=True)
  assert [p.name for p in runs.checkpoints(run)] == ["4", "12"]
  assert not runs.is_saving(run)
  (run / "checkpoints" / "16.orbax-checkpoint-tmp").mkdir()
  assert runs.is_saving(run)


@pytest.mark.slow
def test_a_disturbed_run_ends_like_another(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "scripts.torture", "--disturbances=2"),
      f"--out={tmp_path / 'out'}",
    ],
    cwd=tiny_runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "2 disturbances of 75 steps" in done.stdout
  assert "bitwise equal" in done.stdout
