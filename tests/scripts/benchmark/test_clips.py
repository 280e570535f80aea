"""Tests of the benchmark of reading clips."""

import json

import pytest


@pytest.mark.slow
def test_the_table_has_files_and_prepared_clips(script, tmp_path):
  figures = tmp_path / "x.json"
  done = script(
    "benchmark.clips", "--num_clips=1", "--num_windows=2", "--num_frames=4",
    f"--json={figures}",
  )  # fmt: skip
  assert done.status == 0, done.err
  rows = json.loads(figures.read_text())
  assert [row["clips"] for row in rows] == ["files", "prepared"]
  assert all(row["windows/s"] > 0 and row["MB"] > 0 for row in rows)
  assert "windows/s" in done.out
