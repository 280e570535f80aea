"""Tests of the benchmark of entity encoders."""

import json

import pytest


@pytest.mark.slow
def test_the_transformer_grows_faster(script, tmp_path):
  path = tmp_path / "x.json"
  done = script(
    "benchmark.entities",
    *("--num_entities=16", "--num_entities=64"),
    *("--repeats=1", "--batch_size=1", f"--json={path}"),
  )
  assert done.status == 0, done.err
  few, many = json.loads(path.read_text())["rows"]
  growth = {
    name: many[f"{name} GFLOP"] / few[f"{name} GFLOP"]
    for name in ("io", "transformer")
  }
  assert growth["io"] < 1.1
  assert growth["transformer"] > 4
  assert few["io gradient ms"] > 0
