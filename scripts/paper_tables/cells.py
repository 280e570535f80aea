"""Compares published values with ours."""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib import parse

from perceiver_jax import files
from perceiver_jax.models.published import tables
from scripts.paper_tables import costs, runs

# Distances from the published value that count as near and as middling, in
# points for metrics in percent, and in percent for all others.
_NEAR, _MIDDLING = 0.5, 2.0
# Costs that are measured, not computed.
_TIMED = ("steps_per_second", "gpu_frames", "tpu_frames")
_BENCHMARKED = (*_TIMED, "train_flops")

# Where a browser opens objects that its user may read.
_CLOUD_STORAGE = "https://storage.cloud.google.com/"


class Entry(NamedTuple):
  """One of our values.

  Attributes:
    text: The value, with its difference from the published one.
    closeness: "near", "middling", "far", or "" if nothing is compared.
    value: The number to sort by; None if it is a text.
    title: Origin of the value.
    link: Path or URL of the run's report; "" for none.
  """

  text: str
  closeness: str = ""
  value: float | None = None
  title: str = ""
  link: str = ""


class Cell(NamedTuple):
  """A metric of a row.

  Attributes:
    published: The printed value.
    value: The number to sort by; None if it is a text.
    ours: Our entries.
    is_run: Whether a run or a benchmark measures it.
  """

  published: str
  value: float | None
  ours: tuple[Entry, ...]
  is_run: bool


class _Published(NamedTuple):
  """A published metric, with its value if it is a number, and its digits."""

  name: str
  metric: tables.Metric
  value: float | None
  digits: int


def make(
  row: tables.Row,
  name: str,
  matching: Sequence[runs.Result],
  sizes: costs.Costs | None,
  folder: Path,
) -> Cell:
  """Returns a metric of a row beside our values.

  Args:
    row: A published row.
    name: One of its metrics.
    matching: The runs and evaluations that reproduce it.
    sizes: Costs of its model; None without a model.
    folder: Folder of the page, from which links lead to the runs.
  """
  metric, printed = tables.metrics()[name], row.values[name]
  value = None if isinstance(printed, str) else float(printed)
  published = _Published(name, metric, value, _digits(row.source, name))
  if metric.kind == "evaluation" or name in _BENCHMARKED:
    ours = _measured(published, matching, folder)
  elif metric.kind == "config" and row.config:
    ours = _config_leaf(metric, printed, row.config)
  else:
    ours = _computed(published, sizes)
  text = printed
  if value is not None:
    evaluated = metric.kind == "evaluation"
    text = _number(published, value) if evaluated else f"{printed:,}"
  is_run = metric.kind == "evaluation" or name in _BENCHMARKED
  return Cell(text, value, ours, is_run)


def _digits(source: str, name: str) -> int:
  """Returns the decimal places of a table's column."""
  column = [row.values[name] for row in tables.rows() if row.source == source]
  numbers = [str(value) for value in column if not isinstance(value, str)]
  return max((len(n.partition(".")[2]) for n in numbers), default=0)


def _measured(
  published: _Published, matching: Sequence[runs.Result], folder: Path
) -> tuple[Entry, ...]:
  """Returns the mean of each variant's runs, and all other results."""
  scale = 100 if published.metric.percent else 1
  measured = [
    (result, scale * value)
    for result in matching
    if (value := result.metric(published.name)) is not None
  ]
  runs_alone = [
    (result, value)
    for result, value in measured
    if not (result.weights or result.device)
  ]
  entries = []
  # Readings of the paper (`Row.also`) are different models.
  for origin in dict.fromkeys(result.origin for result, _ in runs_alone):
    trained = [pair for pair in runs_alone if pair[0].origin == origin]
    first, mean = trained[0][0], statistics.fmean(v for _, v in trained)
    names = ", ".join(result.name for result, _ in trained)
    title = f"mean of {len(trained)} runs: {names}" if trained[1:] else names
    title += f" ({origin.partition(':')[2] or origin})"
    entries.append(_entry(published, mean, title, link(first, folder)))
  for result, value in measured:
    if result.weights or result.device:
      title = f"weights {result.weights}" if result.weights else result.device
      entries.append(_entry(published, value, title, link(result, folder)))
  return tuple(entries)


def _config_leaf(
  metric: tables.Metric, published: float | str, config: str
) -> tuple[Entry, ...]:
  config_dict = costs.load_config(config).to_dict()
  leaves = {leaf: _get(config_dict, leaf) for leaf in metric.leaves}
  known = [leaf for leaf, value in leaves.items() if value is not None]
  if not known:
    return ()
  value = leaves[known[0]]
  same = value == published
  compared = not isinstance(published, str)
  closeness = ("near" if same else "far") if compared else ""
  return (Entry(f"{value:,}", closeness, float(value), known[0]),)


def _get(tree: Any, leaf: str) -> Any:
  for part in leaf.split("."):
    tree = tree.get(part) if isinstance(tree, Mapping) else None
  return tree


def _computed(
  published: _Published, sizes: costs.Costs | None
) -> tuple[Entry, ...]:
  if sizes is None:
    return ()
  value = {
    "parameters": sizes.parameters / 1e6,
    "flops": sizes.flops / 1e9,
    "input_channels": float(sizes.input_channels),
    "query_channels": float(sizes.query_channels),
  }.get(published.name)
  return (_entry(published, value, "computed", ""),) if value else ()


def _entry(
  published: _Published, value: float, title: str, target: str
) -> Entry:
  text, metric = _number(published, value), published.metric
  # Other devices have other speeds, which are not compared.
  if published.value is None or published.name in _TIMED:
    return Entry(text, "", value, title, target)
  difference = value - published.value
  distance = abs(difference)
  if not metric.percent:
    distance *= 100 / published.value
  worse = difference > 0 if metric.lower_is_better else difference < 0
  closeness = "far" if distance > _MIDDLING else "middling"
  if distance <= _NEAR or (metric.kind == "evaluation" and not worse):
    closeness = "near"
  if metric.kind == "evaluation":
    sign = "+" if difference >= 0 else "−"
    text = f"{text} ({sign}{_number(published, abs(difference))})"
  return Entry(text, closeness, value, title, target)


def _number(published: _Published, value: float) -> str:
  """Formats a value with the decimal places that the paper prints."""
  if published.metric.kind == "evaluation":
    return f"{value:,.{published.digits}f}"
  if value == int(value):
    return f"{int(value):,}"
  return f"{value:,.4g}" if abs(value) < 100 else f"{value:,.1f}"


def link(result: runs.Result, folder: Path) -> str:
  """Returns a link to a result's report from a page in a folder.

  It is "" if there is no report, or if the page is in a bucket that does not
  have it.
  """
  path = result.path
  if not path.exists():
    return ""
  if files.is_remote(path):
    scheme, _, name = str(path).partition("://")
    return _CLOUD_STORAGE + parse.quote(name) if scheme == "gs" else ""
  if files.is_remote(folder):
    return ""
  return os.path.relpath(path.resolve(), folder.resolve())
