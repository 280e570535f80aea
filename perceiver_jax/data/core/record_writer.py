"""Prepares a split: writes its examples to ArrayRecord files in processes.

A split has files SPLIT-00000-of-00064.array_record and so on, each with a note
of its contents, and SPLIT.json, which the caller writes. A file is written
completely or not at all, so the same call resumes one that was stopped.
"""

import functools
import glob
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import process
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from perceiver_jax.data.core import records
from perceiver_jax.errors import UserError


class Examples(NamedTuple):
  """The examples of a split.

  Attributes:
    items: an item for each example; all can be pickled.
    encode: returns the record of an item; raises UserError if it can't be read.
    fingerprint: returns a hash of items and their order.
    kind: the kind of example in messages, in the plural.
    settings: settings that the records depend on, as in JSON.
  """

  items: Sequence[Any]
  encode: Callable[[Any], bytes]
  fingerprint: Callable[[Iterable[Any]], str]
  kind: str
  settings: Mapping[str, Any]


class Written(NamedTuple):
  """The written files of a split.

  Attributes:
    files: number of records by name of file.
    kept: positions of the items in the order of the records.
    bad: errors of the items that can't be read.
  """

  files: dict[str, int]
  kept: list[int]
  bad: list[str]


class _Job(NamedTuple):
  """A file to be written.

  Attributes:
    path: path without suffix.
    items: items with their positions in the split.
    made_of: identifies the contents.
  """

  path: Path
  items: Sequence[tuple[int, Any]]
  made_of: Mapping[str, Any]


def write_split(
  index: Path, examples: Examples, num_files: int, num_workers: int
) -> Written:
  """Writes the files of a split that do not exist yet.

  Args:
    index: path of SPLIT.json.
    examples: the examples.
    num_files: number of files, each with every `num_files`-th example.
    num_workers: number of processes.

  Raises:
    UserError: no example can be read, existing files were made with other
      settings or from other examples, or a process was killed.
  """
  index.parent.mkdir(parents=True, exist_ok=True)
  _check_same(index, examples)
  _remove_partial(index)
  jobs = _jobs(index, examples, min(num_files, len(examples.items)))
  notes = _write_files(jobs, examples, num_workers)
  written = Written(
    {
      f"{job.path.name}.array_record": len(note["kept"])
      for job, note in zip(jobs, notes, strict=True)
      if note["kept"]
    },
    [position for note in notes for position in note["kept"]],
    [reason for note in notes for reason in note["bad"]],
  )
  if not written.kept:
    raise UserError(
      f"none of the {len(examples.items):,} {examples.kind} can be read; the"
      f" first: {written.bad[0]}"
    )
  return written


def _jobs(index: Path, examples: Examples, num_files: int) -> list[_Job]:
  """Divides the examples among files."""
  numbered, jobs = list(enumerate(examples.items)), []
  for number in range(num_files):
    items = numbered[number::num_files]
    mark = examples.fingerprint(item for _, item in items)
    name = f"{index.stem}-{number:05d}-of-{num_files:05d}"
    made_of = {**examples.settings, "list": mark}
    jobs.append(_Job(index.with_name(name), items, made_of))
  return jobs


def _write_files(
  jobs: Sequence[_Job], examples: Examples, num_workers: int
) -> list[dict[str, Any]]:
  """Writes files in processes; returns the note of each."""
  write = functools.partial(_write_file, examples.encode)
  # A fork would lose the threads of the decoding libraries.
  context = multiprocessing.get_context("spawn")
  try:
    with futures.ProcessPoolExecutor(num_workers, context) as pool:
      done = pool.map(write, jobs)
      return list(tqdm(done, "files", len(jobs), leave=False, disable=None))
  except process.BrokenProcessPool as error:
    raise UserError(
      f"a process that prepares {examples.kind} was killed (by the system, if"
      " memory ran out); run the same command to resume, with a smaller"
      f" --num_workers than {num_workers} if it happens again"
    ) from error


def _write_file(encode: Callable[[Any], bytes], job: _Job) -> dict[str, Any]:
  """Writes a file with its note, unless both exist already.

  Returns:
    The note: `kept`, the positions of the items in the file; `bad`, the errors
    of those that can't be read; and `made_of` and `checksum`, which identify
    the file.
  """
  target = job.path.with_name(f"{job.path.name}.array_record")
  # Written last, so that its existence implies a complete file.
  note_path = job.path.with_name(f"{job.path.name}.note.json")
  note = _read_note(note_path, target)
  if note.get("made_of") == job.made_of:
    return note
  kept: list[int] = []
  bad: list[str] = []
  records.write_records(target, _encoded(encode, job, kept, bad))
  note = {
    "made_of": job.made_of,
    "kept": kept,
    "bad": bad,
    "checksum": records.checksum(target),
  }
  records.write_json(note_path, note)
  return note


def _encoded(
  encode: Callable[[Any], bytes], job: _Job, kept: list[int], bad: list[str]
) -> Iterator[bytes]:
  """Yields the records of readable items; fills `kept` and `bad`."""
  for position, item in job.items:
    try:
      record = encode(item)
    except UserError as error:
      bad.append(str(error))
      continue
    yield record
    kept.append(position)


def _read_note(note_path: Path, target: Path) -> dict[str, Any]:
  """Reads the note of a file; {} if the file was changed since."""
  try:
    note = json.loads(note_path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return note if note.get("checksum") == records.checksum(target) else {}


def _remove_partial(index: Path) -> None:
  """Removes partial files of a split left by killed processes."""
  name = glob.escape(index.stem)
  for pattern in ("-[0-9]*-of-[0-9]*", ".*json*"):
    for path in index.parent.glob(f".{name}{pattern}.tmp"):
      path.unlink()


def _check_same(index: Path, examples: Examples) -> None:
  """Checks that existing files have the same examples and settings.

  Raises:
    UserError: they differ.
  """
  path = index.with_name(f"{index.stem}.settings.json")
  expected = {
    **examples.settings,
    examples.kind: len(examples.items),
    # Records are identified by the positions of the items.
    "list": examples.fingerprint(examples.items),
  }
  if not path.is_file():
    records.write_json(path, expected)
  elif records.read_json(path) != expected:
    raise UserError(
      f"{str(index.parent)!r} has files made with other settings, or from other"
      f" {examples.kind} or in another order (see {path.name}); give another"
      f" --output, or remove {index.stem}-*-of-* and {path.name} there"
    )
