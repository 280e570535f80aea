"""The page of a sweep: its best run, plots and table in one file."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from perceiver_jax import files
from perceiver_jax.training.logs import metric_writers
from perceiver_jax.viz import html
from perceiver_jax.viz import plots as viz_plots
from scripts.sweeps import plots, points, runs, table

_TEMPLATES = Path(__file__).parent / "templates"
_CURVES = 6  # As many lines as have colors of their own.


class Best(NamedTuple):
  """The best run.

  Attributes:
    name: Its name.
    value: Its metric.
    command: The command that trains it.
    report: Link to its report; "" if it has none.
  """

  name: str
  value: float
  command: str
  report: str


def write(
  out: Path,
  rows: Sequence[table.Row],
  flags: Sequence[Sequence[str]],
  metric: str,
  mode: str,
) -> None:
  """Writes `sweep.html`.

  Args:
    out: Folder of the sweep.
    rows: Its runs.
    flags: Flags of `experiments.train` of each run, without --workdir.
    metric: Name of the metric that selects the best run.
    mode: "max" or "min".
  """
  records = table.records(rows)
  best = _ranking(records, metric, mode)
  labels = list(points.leaf_labels([row.point for row in rows]).values())
  finished = [records[index] for index in best]
  figures = []
  if finished and labels:
    figures.append(plots.parallel_coordinates(finished, labels, metric))
  first = None
  if best:
    first = _best(rows[best[0]], flags[best[0]], records, metric)
  text = _environment().get_template("page.html.j2").render(
    title=out.name,
    metric=metric,
    mode=mode,
    best=first,
    counts=_counts(rows),
    coordinates=figures,
    curves=_curves([rows[index] for index in best[:_CURVES]], metric),
    results=_table(records, best),
  )  # fmt: skip
  files.write_text(out / "sweep.html", text)


def _ranking(
  records: Sequence[Mapping[str, Any]], metric: str, mode: str
) -> list[int]:
  """Returns the indices of the runs that have the metric, the best first."""
  values = {
    index: float(record[metric])
    for index, record in enumerate(records)
    if isinstance(record.get(metric), int | float)
    and math.isfinite(record[metric])
  }
  return sorted(values, key=values.__getitem__, reverse=mode == "max")


def _best(
  row: table.Row,
  flags: Sequence[str],
  records: Sequence[Mapping[str, Any]],
  metric: str,
) -> Best:
  value = next(r[metric] for r in records if r["run"] == row.name)
  words = runs.command(row.folder, flags)[1:]
  has_report = (row.folder / "report.html").is_file()
  report = f"{row.name}/report.html" if has_report else ""
  return Best(row.name, value, f"python {shlex.join(words)}", report)


def _counts(rows: Sequence[table.Row]) -> list[tuple[str, int]]:
  """Returns how many runs have which status."""
  statuses = [table.status(row) for row in rows]
  return [(name, statuses.count(name)) for name in dict.fromkeys(statuses)]


def _curves(rows: Sequence[table.Row], metric: str) -> list[bytes]:
  """Plots the metric and the loss of runs, named by rank, against the step."""
  histories = {
    str(rank): metric_writers.read_metrics(row.folder / "metrics.jsonl")
    for rank, row in enumerate(rows, 1)
    if (row.folder / "metrics.jsonl").is_file()
  }
  result = []
  for name in dict.fromkeys((metric, "train/loss")):
    records = [
      {"step": record["step"], run: record[name]}
      for run, history in histories.items()
      for record in history
      if name in record
    ]
    if records:
      result.append(viz_plots.curves(records, list(histories), name))
  return result


def _table(
  records: Sequence[Mapping[str, Any]], best: Sequence[int]
) -> html.Table:
  """Returns the table of all runs, the best first."""
  order = [*best, *(i for i in range(len(records)) if i not in set(best))]
  ranked = [
    {"rank": rank if index in best else None} | dict(records[index])
    for rank, index in enumerate(order, 1)
  ]
  names = table.columns(ranked)
  numbers = [
    index
    for index, name in enumerate(names)
    if not any(isinstance(record.get(name), str) for record in ranked)
  ]
  rows = [
    ["–" if record.get(name) is None else record[name] for name in names]
    for record in ranked
  ]
  return html.Table(names, rows, numbers=numbers)


def _environment() -> jinja2.Environment:
  folders = [_TEMPLATES, Path(html.__file__).parent / "templates"]
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(folders),
    autoescape=True,
    finalize=html.format_value,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["svg"] = lambda x: html.data_url(x, "image/svg+xml")
  environment.globals["tables"] = html.tables
  return environment
