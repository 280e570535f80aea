"""Reads the rows of lists in CSV files."""

import csv
from collections.abc import Iterable, Iterator, Sequence


def read(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
  """Yields line number and fields, without spaces around, of nonempty rows.

  Args:
    lines: lines of a file that was opened as "utf-8-sig", since spreadsheets
      write a byte order mark, and with `newline=""`.

  Raises:
    ValueError: a line is not CSV.
  """
  # Otherwise a quote without its second would swallow the rest of the file.
  reader = csv.reader(lines, skipinitialspace=True, strict=True)
  try:
    for fields in reader:
      fields = [field.strip() for field in fields]
      if any(fields):
        yield reader.line_num, fields
  except csv.Error as error:
    raise ValueError(f"line {reader.line_num} is not CSV: {error}") from error


def by_column(columns: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
  """Returns the fields of a row by the names of their columns.

  Raises:
    ValueError: there are more fields than columns.
  """
  if any(fields[len(columns) :]):
    raise ValueError(
      f"{len(fields)} fields for {len(columns)} columns; put a field with"
      " commas in quotes"
    )
  return dict(zip(columns, fields, strict=False))
