import pathlib

import pytest
import tiny_weights

from perceiver_jax.models import zoo
from scripts import model_table

_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "models.md"


def rows(text):
  """Returns the cells of each row by the name of its model."""
  lines = [line for line in text.splitlines() if line.startswith("| `")]
  cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
  return {row[0].split("`")[1]: row for row in cells}


def test_the_page_has_the_stated_figures_of_every_model():
  table = rows(_PAGE.read_text(encoding="utf-8"))
  assert list(table) == list(zoo.MODELS)
  for name, row in table.items():
    entry = zoo.MODELS[name]
    assert row[1] == f"{entry.num_parameters:,}"
    assert row[4] == (entry.published_flops or "–")
    assert row[5] == entry.source
    assert ("(" in row[0]) == bool(entry.note)


def test_notes_are_numbered_and_shared_by_models(monkeypatch, capsys):
  spec = tiny_weights.classifier().spec
  size = tiny_weights.IMAGE_SIZE
  entry = zoo.MODELS["imagenet_fourier"]._replace(
    spec=spec, raw=tiny_weights.array(size, size, 3)
  )
  entries = {
    "a": entry._replace(note=""),
    "b": entry._replace(note="they say so " * 10 + "twice"),
    "c": entry._replace(note="other", published_flops=""),
    "d": entry._replace(note="they say so " * 10 + "twice"),
  }
  monkeypatch.setattr(zoo, "MODELS", entries)
  model_table.main([])
  page = capsys.readouterr().out
  assert [row[0] for row in rows(page).values()] == [
    "`a`", "`b` (1)", "`c` (2)", "`d` (1)"
  ]  # fmt: skip
  assert rows(page)["c"][4] == "–"
  millions = f"{model_table.sizes(spec, entry.example())[1] / 1e9:,.1f}"
  assert rows(page)["a"][3] == millions
  notes = page.split("Differences:\n\n")[1].splitlines()
  assert notes[0].startswith("1. `b`, `d`: they say so")
  assert notes[1].startswith("   ")
  assert notes[-1] == "2. `c`: other."
  assert max(map(len, notes)) <= 80


@pytest.mark.slow  # It traces every model of the papers.
def test_the_page_is_up_to_date(capsys):
  model_table.main([])
  page = capsys.readouterr().out
  assert page == _PAGE.read_text(encoding="utf-8")
