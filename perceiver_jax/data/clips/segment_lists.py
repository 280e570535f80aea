"""Reads CSV lists of segments of AudioSet, Kinetics or a custom data set.

The header identifies the format:

AudioSet: `# YTID, start_seconds, end_seconds, positive_labels`, where labels
are joined by commas in quotes, and other lines that start with # are comments.
Kinetics: `label,youtube_id,time_start,time_end,split`.
Custom: `file,label`, where several labels are joined by semicolons.
A clip may have no label. Lines before the header may be comments.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from perceiver_jax import files
from perceiver_jax.data.core import csv_rows
from perceiver_jax.errors import UserError

# Columns of AudioSet's list of classes: index,mid,display_name.
AUDIOSET_CLASSES = "class_labels_indices.csv"
_EXPECTED = (
  "expected the columns of AudioSet (# YTID, start_seconds, end_seconds,"
  " positive_labels), of Kinetics (label,youtube_id,time_start,time_end) or"
  " your own (file,label)"
)
# The other columns of each format, by the column that identifies it.
_COLUMNS = {
  "YTID": ("start_seconds", "end_seconds", "positive_labels"),
  "youtube_id": ("time_start", "time_end", "label"),
  "file": ("label",),
}


class NoColumnError(UserError):
  """A file lacks a column that a list of clips with labels has."""


class Row(NamedTuple):
  """A row of a list.

  Attributes:
    file: path of the clip relative to the data folder; "" if only `video` is
      known.
    video: name of the video that contains the clip; "" if `file` is given.
    start: start of the clip in the video, in seconds.
    stop: end of the clip in the video, in seconds.
    labels: names of the clip's classes.
  """

  file: str
  video: str
  start: float
  stop: float
  labels: tuple[str, ...]


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
  """Reads a list.

  Raises:
    NoColumnError: a column is missing, for example the labels.
    UserError: the list can't be read.
  """
  try:
    with files.open_regular(
      path, "r", newline="", encoding="utf-8-sig"
    ) as file:
      return list(_rows(file, path))
  except OSError as error:
    raise UserError(
      f"{str(path)!r} can't be read ({error.strerror}); {_EXPECTED}"
    ) from error
  except UserError:
    raise
  except ValueError as error:
    raise UserError(
      f"{str(path)!r} is not a CSV file ({error}); {_EXPECTED}"
    ) from error


def read_classes(path: str | os.PathLike[str]) -> dict[str, str]:
  """Returns the display names of classes, by their names in lists.

  Args:
    path: AudioSet's class_labels_indices.csv, or a file with one name per line.

  Raises:
    UserError: the file can't be read, names no class, or repeats a class.
  """
  try:
    lines = files.read_text(path, "utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"{str(path)!r} can't be read ({error}); give"
      f" AudioSet's {AUDIOSET_CLASSES} or a file with one class per line"
    ) from error
  lines = [line for line in lines if line.strip()]
  if lines and lines[0].replace(" ", "") == "index,mid,display_name":
    try:
      rows = [row for _, row in csv_rows.read(lines[1:])]
    except ValueError as error:
      raise UserError(
        f"{str(path)!r}, after its first line: {error}; get the file again"
      ) from error
    pairs = [(row[1], row[2]) for row in rows if len(row) == 3]
  else:
    rows = lines
    pairs = [(line.strip(), line.strip()) for line in lines]
  classes = dict(pairs)
  if not classes or len(classes) < len(rows):
    raise UserError(
      f"{str(path)!r} names {len(classes)} different classes in {len(rows)}"
      " lines; give each once"
    )
  return classes


def _rows(lines: Iterator[str], path: str | os.PathLike[str]) -> Iterator[Row]:
  header: list[str] = []
  for number, cells in csv_rows.read(lines):
    # AudioSet's header is a comment, and others precede it. In other lists, a
    # row may start with #, which file names may have.
    if cells[0].startswith("#") and (not header or "YTID" in header):
      names = [cell.lstrip("# ") for cell in cells]
      if _COLUMNS.keys() & set(names):
        header = names
        _check_columns(header, path)
      continue
    if not header:
      header = cells
      _check_columns(header, path)
      continue
    try:
      yield _row(csv_rows.by_column(header, cells))
    except (KeyError, ValueError) as error:
      raise UserError(
        f"line {number} of {str(path)!r} is invalid ({error!r}); {_EXPECTED}"
      ) from error


def _check_columns(header: Sequence[str], path: str | os.PathLike[str]) -> None:
  key = next((key for key in _COLUMNS if key in header), "file")
  for column in (key, *_COLUMNS[key]):
    if column not in header:
      raise NoColumnError(
        f"{str(path)!r} has no column {column!r}; {_EXPECTED}"
      )


def _row(cells: dict[str, str]) -> Row:
  if "YTID" in cells:
    return Row(
      "",
      cells["YTID"],
      *_times(cells["start_seconds"], cells["end_seconds"]),
      _labels(cells["positive_labels"].split(",")),
    )
  if "youtube_id" in cells:
    times = _times(cells["time_start"], cells["time_end"])
    return Row("", cells["youtube_id"], *times, _labels([cells["label"]]))
  return Row(cells["file"], "", 0.0, 0.0, _labels(cells["label"].split(";")))


def _times(start: str, stop: str) -> tuple[float, float]:
  times = float(start), float(stop)
  if not 0 <= times[0] < times[1] < math.inf:
    raise ValueError(f"it is from second {start} to {stop}")
  return times


def _labels(names: Iterable[str]) -> tuple[str, ...]:
  return tuple(name.strip() for name in names if name.strip())
