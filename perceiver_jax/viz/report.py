"""The run report: one HTML file with a run's results and settings.

The file is self-contained: images are embedded, it needs no network, no
JavaScript except to turn point clouds, and it follows the reader's light or
dark color scheme.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceiver_jax import files
from perceiver_jax.viz import html, plots
from perceiver_jax.viz.sections import Section

# A loss is drawn on a log scale if its largest value is this many times the
# smallest.
_LOG_SCALE_RATIO = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Contents of a report; empty parts are left out.

  Attributes:
    title: name of the run.
    summary: results by name, the headline first; numbers or text.
    published: the paper's metrics under the same names, with an optional
      "source" (text); None if there are none.
    records: the lines of `metrics.jsonl`.
    sections: the task's sections, in the order in which they are shown.
    config: the run's settings, nested.
    versions: versions of packages, devices and the commit, by name.
    parameters: (name, shape, size) of each parameter array.
  """

  title: str
  summary: Mapping[str, Any]
  published: Mapping[str, Any] | None = None
  records: Sequence[Mapping[str, float]] = ()
  sections: Sequence[Section] = ()
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  parameters: Sequence[tuple[str, tuple[int, ...], int]] = ()


def write_report(path: str | os.PathLike, report: Report) -> None:
  """Writes a report atomically: readers see either the old or the new file.

  Args:
    path: the HTML file to write or replace.
    report: its contents.
  """
  files.write_text(path, _page(report))


def _page(report: Report) -> str:
  sections = [
    *_published(report.summary, report.published),
    *_curves(report.records),
    *report.sections,
    *_parameters(report.parameters),
    *_config(report.config),
    *_versions(report.versions),
  ]
  summary = [(_spaced(name), x) for name, x in report.summary.items()]
  return html.render(
    "report", title=report.title, summary=summary, sections=sections
  )


def _published(
  summary: Mapping[str, Any], published: Mapping[str, Any] | None
) -> list[Section]:
  """Compares the run with the paper's row."""
  published = dict(published or {})
  source = str(published.pop("source", ""))
  if not published:
    return []
  rows = [
    (
      _spaced(name),
      summary.get(name, "–"),
      value,
      _difference(summary.get(name), value),
    )
    for name, value in published.items()
  ]
  head = ("", "this run", "published", "difference")
  table = html.Table(head, rows, caption=source, numbers=(1, 2, 3))
  return [Section("Comparison with the published results", html.tables(table))]


def _curves(records: Sequence[Mapping[str, float]]) -> list[Section]:
  """Shows the learning curves; those of speed and schedules are folded."""
  main, other = [], []
  for title, names in plots.by_metric(records).items():
    is_main = title == "loss" or any(n.startswith("eval") for n in names)
    (main if is_main else other).append(_curve(records, names, title))
  sections = []
  if main:
    sections.append(Section("Curves", html.render("plots", plots=main)))
  if other:
    body = html.render("plots", plots=other)
    sections.append(Section("Other curves", body, str(len(other)), folded=True))
  return sections


def _curve(
  records: Sequence[Mapping[str, float]], names: Sequence[str], title: str
) -> tuple[bytes, str]:
  """Returns a plot and its alternative text."""
  values = {name: plots.series(records, name)[1] for name in names}
  low = min(line.min() for line in values.values())
  high = max(line.max() for line in values.values())
  log = "loss" in title and low > 0 and high / low > _LOG_SCALE_RATIO
  ends = ", ".join(f"{name} {line[-1]:.4g}" for name, line in values.items())
  alt = f"{title} against step; last values: {ends}"
  return plots.curves(records, names, title, log), alt


def _parameters(
  parameters: Sequence[tuple[str, tuple, int]],
) -> list[Section]:
  if not parameters:
    return []
  total = sum(size for _, _, size in parameters)
  rows = [
    (name, " × ".join(map(str, shape)) or "–", size)
    for name, shape, size in parameters
  ]
  table = html.Table(
    ("array", "shape", "size"),
    rows,
    numbers=(2,),
    foot=("total", "", total),
    code=True,
  )
  description = f"{total:,} in {len(rows)} arrays"
  body = html.tables(table)
  return [Section("Parameters", body, description, folded=True)]


def _config(config: Mapping[str, Any]) -> list[Section]:
  rows = [(name, repr(value)) for name, value in _leaves(config)]
  if not rows:
    return []
  body = html.tables(html.Table(("--config.…", "value"), rows, code=True))
  return [Section("Configuration", body, f"{len(rows)} leaves", folded=True)]


def _leaves(config: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
  """Returns (name, value) of each leaf, named as on the command line."""
  leaves = []
  for name, value in config.items():
    if hasattr(value, "items") and len(value):
      leaves += _leaves(value, f"{path}{name}.")
    else:
      leaves.append((f"{path}{name}", value))
  return leaves


def _versions(versions: Mapping[str, Any]) -> list[Section]:
  if not versions:
    return []
  rows = [(name, str(version)) for name, version in versions.items()]
  table = html.Table(("name", "version"), rows, code=True)
  return [Section("Versions", html.tables(table))]


def _spaced(name: str) -> str:
  return str(name).replace("_", " ")


def _difference(ours: Any, published: Any) -> str:
  numbers = (int, float, np.integer, np.floating)
  if not isinstance(ours, numbers) or not isinstance(published, numbers):
    return "–"
  difference = ours - published
  is_int = isinstance(difference, int | np.integer)
  text = f"{difference:+,}" if is_int else f"{difference:+.3g}"
  return text.replace("-", "−")
