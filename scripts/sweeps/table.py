"""Writes the results of a sweep as tables."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perceiver_jax import files
from scripts.sweeps import points, runs


class Row(NamedTuple):
  """A run of a sweep.

  Attributes:
    name: Name of the run.
    point: Leaves and values of the point.
    status: Exit status; None if the run was not started.
    folder: Workdir of the run.
  """

  name: str
  point: Mapping[str, Any]
  status: int | None
  folder: Path


def write(out: Path, rows: Sequence[Row]) -> str:
  """Writes `sweep.csv` and `sweep.md`: leaves, status and final metrics.

  Args:
    out: Folder of the sweep.
    rows: Its runs.

  Returns:
    The Markdown table.
  """
  out.mkdir(parents=True, exist_ok=True)
  cells = records(rows)
  names = columns(cells)
  with (
    files.replacing(out / "sweep.csv") as partial,
    partial.open("w", newline="", encoding="utf-8") as file,
  ):
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(cells)
  numeric = [
    all(not isinstance(r.get(name), str) for r in cells) for name in names
  ]
  lines = [
    _line(names),
    _line("---:" if number else "---" for number in numeric),
    *(_line(_cell(r.get(name)) for name in names) for r in cells),
  ]
  text = "\n".join(lines)
  files.write_text(out / "sweep.md", text + "\n")
  return text


def columns(cells: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the names of the columns that any row has."""
  return list(dict.fromkeys(name for row in cells for name in row))


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns the cells of each row by column."""
  labels = points.leaf_labels([row.point for row in rows])
  result = []
  for row in rows:
    record = {"run": row.name}
    for leaf, label in labels.items():
      if leaf in row.point:
        value = row.point[leaf]
        is_tuple = isinstance(value, tuple)
        record[label] = points.format_value(value) if is_tuple else value
    record["status"] = status(row)
    if row.status == 0:
      results = runs.results(row.folder)
      record |= {"parameters": results.get("parameters")}
      record |= results["metrics"]
    result.append(record)
  return result


def status(row: Row) -> str:
  """Returns how a run ended, or that it did not."""
  if row.status is None:
    return "not started"
  if row.status in runs.STOPPED:
    return "stopped"
  return f"failed ({row.status})" if row.status else "done"


def _line(cells: Any) -> str:
  return f"| {' | '.join(map(str, cells))} |"


def _cell(value: Any) -> str:
  if value is None:
    return "–"
  return f"{value:.4g}" if isinstance(value, float) else str(value)
