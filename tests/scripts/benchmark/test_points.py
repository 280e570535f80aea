"""Tests of the benchmark of reading objects."""

import json

import pytest


@pytest.mark.slow
def test_the_table_has_meshes_text_and_prepared_points(script, tmp_path):
  figures = tmp_path / "x.json"
  done = script(
    "benchmark.points", "--num_objects=2", "--num_triangles=100",
    f"--json={figures}",
  )  # fmt: skip
  assert done.status == 0, done.err
  rows = json.loads(figures.read_text())
  assert [row["objects"] for row in rows] == ["OFF", "text", "prepared"]
  assert all(row["ms/object"] > 0 and row["kB/object"] > 0 for row in rows)
  assert "ms/object" in done.out
