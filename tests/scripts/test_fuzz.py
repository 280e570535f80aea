"""Tests of the reading of damaged files."""

import json
import random
import subprocess
import sys

import pytest
import tiny_runs as runs

from perceiver_jax.errors import UserError
from scripts.fuzz import mutations, readers, worker


def _raise(error):
  def read(_):
    raise error

  return read


@pytest.mark.parametrize(
  ("read", "outcome", "detail"),
  [
    (lambda _: None, "read", ""),
    (_raise(UserError("no")), "refused", "no"),
    (_raise(KeyError("x")), "failed", "KeyError: 'x'"),
    (_raise(MemoryError()), "failed", "MemoryError"),
    (_raise(RecursionError()), "failed", "RecursionError"),
  ],
)
def test_outcomes_are_told_apart(monkeypatch, read, outcome, detail):
  monkeypatch.setitem(readers.READERS, "some", read)
  answer = worker._read("some", "path")
  assert answer["outcome"] == outcome
  assert detail in answer["detail"]
  assert answer["seconds"] < 1


def test_a_seed_gives_the_same_damage(tmp_path):
  path, seen = tmp_path / "x.json", set()
  content = json.dumps({"a": {"b": [1, 2, 3]}, "c": "text"})
  for seed in range(50):
    results = []
    for _ in range(2):
      path.write_text(content)
      mutations.mutate(path, random.Random(seed))
      results.append(path.read_bytes())
    assert results[0] == results[1]
    seen.add(results[0])
  assert len(seen) > 40


def test_unknown_kinds_are_refused():
  done = subprocess.run(
    [sys.executable, "-m", "scripts.fuzz", "--only=x", "--minutes=0"],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert "--only: unknown kinds x; known are weights, " in done.stderr


@pytest.mark.slow
def test_no_damaged_file_breaks_a_reader(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "scripts.fuzz", "--minutes=0.3"),
      *("--seed=7", f"--keep={tmp_path}"),
    ],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  last = done.stdout.splitlines()[-1]
  assert last.endswith("0 of which broke a reader")
  assert int(last.split(" ")[0].replace(",", "")) > 50
