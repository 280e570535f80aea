"""Every number that the papers print has an origin here, or a reason."""

import importlib
import pathlib

import pytest

from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIGS = sorted(
  {c for row in tables.rows() for c in (row.config, row.after, *row.also)}
)


@pytest.mark.parametrize("row", tables.rows(), ids=lambda row: row.key)
def test_a_row_has_a_config_or_script_or_else_a_reason(row):
  reproduced = bool(row.config or row.script)
  assert [reproduced, bool(row.cited), bool(row.reason)].count(True) == 1
  assert not row.also or row.config
  assert len(row.also_after) == (len(row.also) if row.after else 0)
  assert set(row.models) <= set(zoo.MODELS)


@pytest.mark.parametrize("config", [c for c in _CONFIGS if c])
def test_the_config_of_a_row_loads(config):
  path, _, variant = config.partition(":")
  assert (_ROOT / path).is_file()
  module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
  assert module.get_config(variant).task


def test_rows_are_told_apart():
  names = [row.key for row in tables.rows()]
  assert len(names) == len(set(names)) > 170


def test_a_value_is_a_number_or_says_that_there_is_none():
  texts = {
    value
    for row in tables.rows()
    for name, value in row.values.items()
    if tables.metrics()[name].kind == "evaluation" and isinstance(value, str)
  }
  assert texts <= {"-", "out of memory"}


def test_the_published_row_of_a_variant():
  assert tables.published("configs/imagenet.py:conv") == {
    "accuracy": pytest.approx(0.821),
    "source": "Perceiver IO v3, Table 7",
  }
  # Table 14 says more of it than Table 2.
  row = tables.published("configs/glue.py:multitask_query")
  assert row["source"] == "Perceiver IO v3, Table 14"
  assert (row["average"], len(row)) == (pytest.approx(0.8179), 11)
  # Tables 1, 2, 6 and 7 have the same number, and the first one counts.
  row = tables.published("configs/imagenet.py:icml")
  assert row == {"accuracy": 0.78, "source": "Perceiver v2, Table 1"}
  assert tables.published("configs/imagenet.py:icml_cross_only_12") == {}
  assert tables.published("configs/digits.py:smoke") == {}
