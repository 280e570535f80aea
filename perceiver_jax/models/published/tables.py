"""The numbers that both papers print, read from `tables.toml`.

Everything that shows or compares a published number takes it from here: the
configs, the sizes in `published.MODELS`, and the results page of
`scripts.paper_tables`.
"""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_FILE = Path(__file__).with_name("tables.toml")


class Metric(NamedTuple):
  """A column of a table.

  Attributes:
    title: Its name with the unit.
    kind: "evaluation", "config", "cost" or "fact".
    percent: Whether the papers print in percent what is a share here.
    lower_is_better: Whether less is better.
    leaves: The config leaf that a "config" metric is, by kind of model.
  """

  title: str
  kind: str = "evaluation"
  percent: bool = False
  lower_is_better: bool = False
  leaves: tuple[str, ...] = ()


class Row(NamedTuple):
  """A row of a table or figure.

  Attributes:
    source: Paper, version and table, as in "Perceiver IO v3, Table 7".
    title: Subject of the table.
    name: Name of the row.
    values: Printed values by metric: numbers, or text such as "-".
    config: Config variant that reproduces it, as `configs/FILE.py:VARIANT`.
    also: Config variants for other readings of the paper.
    also_after: Config variants of the pretraining of each of `also`.
    after: Config variant of the pretraining that comes before.
    script: Program that reproduces it, with its arguments; after the run of
      `config`, if there is one. A script of a row with `after` trains `config`
      itself.
    cited: Origin of a number of another model.
    reason: Why nothing here reproduces it.
    note: Explanation of a difference from our figures.
    models: Names in `MODELS` whose sizes and costs the row gives.
  """

  source: str
  title: str
  name: str
  values: Mapping[str, float | str]
  config: str = ""
  also: tuple[str, ...] = ()
  also_after: tuple[str, ...] = ()
  after: str = ""
  script: str = ""
  cited: str = ""
  reason: str = ""
  note: str = ""
  models: tuple[str, ...] = ()

  @property
  def key(self) -> str:
    """Returns a text that no other row has."""
    return f"{self.source}: {self.name}"


@functools.cache
def _data() -> dict[str, Any]:
  return tomllib.loads(_FILE.read_text(encoding="utf-8"))


@functools.cache
def metrics() -> dict[str, Metric]:
  """Returns the columns of all tables by name."""
  return {
    name: Metric(**{key: _frozen(column[key]) for key in column})
    for name, column in _data()["metrics"].items()
  }


@functools.cache
def rows() -> tuple[Row, ...]:
  """Returns the rows of all tables, in the order of the papers."""
  return tuple(
    Row(
      source=f"{table['paper']}, {table['number']}",
      title=table["title"],
      values=dict(zip(table["metrics"], row["values"], strict=True)),
      **{key: _frozen(row[key]) for key in row if key != "values"},
    )
    for table in _data()["tables"]
    for row in table["rows"]
  )


def _frozen(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def published(origin: str) -> dict[str, Any]:
  """Returns the published evaluation of a config variant or script.

  Args:
    origin: A row's `config` or `script`, or one of its `also`.

  Returns:
    Metrics by name, those printed in percent as shares, and their "source".
    If several tables have the row, the one with the most metrics counts, or
    the first of these. Empty if none has.
  """
  choices = [
    {**metrics_of(row), "source": row.source}
    for row in rows()
    if origin in (row.config, *row.also, row.script)
  ]
  best = max(choices, key=len, default={})
  return best if len(best) > 1 else {}


def metrics_of(row: Row) -> dict[str, float]:
  """Returns a row's evaluation metrics, those in percent as shares."""
  return {
    name: value / 100 if metrics()[name].percent else value
    for name, value in row.values.items()
    if metrics()[name].kind == "evaluation" and not isinstance(value, str)
  }


def costs(model: str) -> dict[str, str]:
  """Returns the printed costs of a model of `MODELS`, as fields of `Entry`."""
  for row in rows():
    if model in row.models:
      return {
        "published_parameters": str(row.values.get("parameters", "")),
        "published_flops": str(row.values.get("flops", "")),
        "source": row.source,
      }
  return {}
