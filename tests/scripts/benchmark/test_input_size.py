"""Tests of the benchmark of Hierarchical Perceivers."""

import json

import pytest


@pytest.mark.slow
def test_the_flat_model_grows_faster(script, tmp_path):
  path = tmp_path / "x.json"
  done = script(
    "benchmark.input_size",
    *("--side=32", "--side=64", "--norun", f"--json={path}"),
  )
  assert done.status == 0, done.err
  few, many = json.loads(path.read_text())["rows"]
  assert "hip_16 ms" not in few
  ratio = "hip_16 GFLOP ratio"
  assert many["hip_io_50m GFLOP"] > many["hip_16 GFLOP"]
  assert many[ratio] < 0.8 * few[ratio]
