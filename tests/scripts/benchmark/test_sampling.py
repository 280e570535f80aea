"""Tests of the benchmark of sampling."""

import json

import pytest


@pytest.mark.slow
def test_cached_keys_and_values_save_time(script, tmp_path):
  path = tmp_path / "x.json"
  done = script(
    "benchmark.sampling",
    *("--context=256", "--num_latents=64", "--num_channels=32"),
    *("--num_uncached_tokens=4", f"--json={path}"),
  )
  assert done.status == 0, done.err
  (row,) = json.loads(path.read_text())["rows"]
  assert row["ratio"] == pytest.approx(row["uncached ms"] / row["cached ms"])
  assert row["ratio"] > 1
