"""python -m scripts.paper_tables."""

import made_runs
import pytest

from scripts.paper_tables import costs, page


@pytest.fixture(autouse=True)
def no_costs(monkeypatch):
  """Leaves out what takes long: tracing every model of the papers."""
  monkeypatch.setattr(costs, "of_rows", lambda progress: {})


@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_it_writes_a_page_and_prints_the_coverage(script, tmp_path, suffix):
  made_runs.imagenet_run(tmp_path / "runs" / "first")
  out = tmp_path / "pages" / f"tables{suffix}"
  done = script("paper_tables", f"--runs={tmp_path / 'runs'}", f"--out={out}")
  assert (done.status, done.err) == (0, "")
  assert str(page.coverage()) in done.out
  assert "78.6 (−0.4)" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--out=tables.pdf", "is no page"),
    ("--out=/dev/null/tables.md", "give another --out"),
    ("--runs=nowhere", "has no finished"),
  ],
)
def test_mistakes_are_one_line(script, tmp_path, monkeypatch, flag, message):
  monkeypatch.chdir(tmp_path)
  done = script("paper_tables", flag)
  assert done.status == 2
  assert message in done.err
  assert not list(tmp_path.iterdir())
