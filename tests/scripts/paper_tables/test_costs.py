"""Costs of rows are those of their configs' models, and are kept."""

import json

import pytest

from perceiver_jax.models.published import tables
from scripts import model_table
from scripts.paper_tables import costs


@pytest.fixture
def small(monkeypatch, tmp_path):
  """Two rows of one model, and a folder for what is kept."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  source = "Perceiver IO v3, Table 12"
  row = next(row for row in tables.rows() if row.source == source)
  rows = (row, row._replace(name="again"))
  monkeypatch.setattr(tables, "rows", lambda: rows)
  spec = costs.load_config("configs/masked_lm.py:bytes").model.to_dict()
  spec["encoder"].update(num_latents=8, num_self_attends_per_block=1)
  monkeypatch.setattr(costs, "_spec", lambda row: spec)
  return spec


def test_rows_share_the_costs_of_their_model(small):
  traced = []

  def progress(specs):
    traced.extend(specs)
    return specs

  by_row = costs.of_rows(progress)
  first, second = by_row.values()
  assert first == second
  assert len(traced) == 1
  assert json.loads(traced[0])["encoder"]["num_latents"] == 8
  raw = costs._example(small)
  params, flops = model_table.sizes(small, raw)
  assert first.flops == flops
  assert first.parameters == sum(
    leaf.size for module in params.values() for leaf in module.values()
  )
  assert (first.input_channels, first.query_channels) == (768, 768)


def test_costs_are_kept_until_the_code_of_models_changes(small, monkeypatch):
  before = costs.of_rows()

  def trace(*_):
    raise AssertionError("traced again")

  monkeypatch.setattr(model_table, "sizes", trace)
  assert costs.of_rows(lambda _: trace()) == before
  kept = costs._cache_file()
  monkeypatch.setattr(costs, "_cache_file", lambda: kept.with_name("other"))
  with pytest.raises(AssertionError, match="traced again"):
    costs.of_rows()


def test_costs_need_no_folder_to_keep_them_in(small, monkeypatch, tmp_path):
  file = tmp_path / "file"
  file.write_text("not a folder")
  monkeypatch.setenv("XDG_CACHE_HOME", str(file))
  assert all(costs.of_rows().values())


def test_an_adapter_of_no_published_model_is_an_error():
  with pytest.raises(ValueError, match="no published model has the adapter"):
    costs.of_spec({"adapter": {"kind": "points", "num_bands": 3}})


def test_a_published_model_is_counted_with_its_own_example():
  """The models of points have the same adapter, and other numbers of points."""
  spec = costs.zoo.get_spec("modelnet40_transformer")
  assert costs._example(spec).shape == (1, 1936, 3)
  assert costs._example(costs.zoo.get_spec("modelnet40")).shape == (1, 2048, 3)
