"""Examples of GLUE tasks: from TFDS, from TSV files, or the tiny ones.

An example has `texts`, one or two strings; `label`, a class index or a score,
or UNKNOWN if the benchmark does not publish it; and `number`, which identifies
predictions on the leaderboard. Splits are called train, validation and test,
plus one of the suffixes `glue_tasks.Task.parts`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from perceiver_jax import files as files_lib
from perceiver_jax.checks import check_choice
from perceiver_jax.data.core import splits
from perceiver_jax.data.core import tfds as tfds_sources
from perceiver_jax.data.core.in_memory import InMemory
from perceiver_jax.data.core.source import Example, Source, make_named
from perceiver_jax.data.text import tiny_glue, utf8
from perceiver_jax.data.text.glue_tasks import TASKS, TINY, Task
from perceiver_jax.errors import UserError
from perceiver_jax.files import open_regular

UNKNOWN = -1.0
# A task from the user's own files: train.tsv and dev.tsv, or a single file,
# with the columns label and sentence, or sentence1 and sentence2.
OWN = "own"
# Largest share of damaged lines in a file; QQP's has a few.
_MAX_DAMAGED = 0.01
# Only the test file of CoLA has a header.
_COLA_COLUMNS = ("source", "label", "judgement", "sentence")
_NUMBER_COLUMNS = ("index", "id")
_AX_FILES = ("diagnostic/diagnostic.tsv", "AX.tsv", "AX/AX.tsv")


class Row(NamedTuple):
  """An example; see the module's docstring."""

  texts: tuple[str, ...]
  label: float
  number: int


class TfdsExamples:
  """Examples of a TFDS random-access source."""

  in_memory = False

  def __init__(self, data_source: Any, task: Task):
    self._data_source = data_source
    self._texts = task.texts
    self.class_names = task.classes
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self._data_source)

  def __getitem__(self, index: int) -> Example:
    fields = tfds_sources.fetch(self._data_source, index)
    texts = (fields[name] for name in self._texts)
    row = Row(tuple(map(_decoded, texts)), fields["label"], fields["idx"])
    return {**row._asdict(), "label": float(row.label)}


class WithTaskId:
  """A source that adds the index of its task, `task`, to every example."""

  def __init__(self, source: Source, number: int):
    self._source, self._number = source, number
    self.in_memory = source.in_memory
    self.class_names, self.num_classes = source.class_names, source.num_classes

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    return {**self._source[index], "task": self._number}


def tfds(task: str, split: str, data_dir: str = "") -> TfdsExamples:
  """Reads a task prepared by TensorFlow Datasets (`glue/*`).

  Args:
    task: a key of `glue_tasks.TASKS`, not one of the tiny ones.
    split: see the module's docstring.
    data_dir: folder of the prepared data set; empty for the default of TFDS.

  Raises:
    UserError: the task is not one of GLUE's, or not prepared.
  """
  known = tuple(name for name in TASKS if name not in TINY)
  check_choice(task, known, "task", "TensorFlow Datasets")
  data_source = tfds_sources.open_prepared(f"glue/{task}", split, data_dir)
  return TfdsExamples(data_source, TASKS[task])


def files(task: str, split: str, data_dir: str = "") -> InMemory:
  """Reads a task from tab-separated files in the layout of GLUE's downloads.

  In training and validation files, lines with too few fields are skipped with a
  warning, and more than 1% are an error; in test files, any is an error. Labels
  of a test file are read if there are any.

  Args:
    task: a key of `glue_tasks.TASKS`, or `OWN`.
    split: see the module's docstring; for `OWN`, also a slice of one, see
      `data.core.splits`.
    data_dir: folder with CoLA/train.tsv, CoLA/dev.tsv, MNLI/dev_matched.tsv and
      so on; for `OWN`, with train.tsv, dev.tsv and test.tsv, or a file of the
      split "train" alone.

  Raises:
    UserError: a folder, file or column is missing, or a label is unknown.
  """
  check_choice(task, (*TASKS, OWN), "task", "TSV files")
  root = files_lib.local_folder(data_dir)
  if task == OWN:
    return _own(root, split)
  kind = TASKS[task]
  if task == "ax":
    paths = [root / name for name in _AX_FILES if (root / name).exists()]
    path = paths[0] if paths else root / _AX_FILES[0]
  else:
    path = root / kind.folder / f"{split.replace('validation', 'dev')}.tsv"
  rows = list(_rows(path, kind, is_test=split.startswith("test")))
  return InMemory([row._asdict() for row in rows], kind.classes)


def _own(root: Path, split: str) -> InMemory:
  """Reads the user's own examples."""
  kind, selected = task_from_files(str(root)), splits.parse(split)
  is_test = selected.name == "test"
  rows = list(_rows(_own_file(root, selected.name), kind, is_test=is_test))
  if selected.is_slice:
    names = [f"{row.number} {' '.join(row.texts)}" for row in rows]
    order = selected.order(names)
    rows = [rows[i] for i in order]
  return InMemory([row._asdict() for row in rows], kind.classes)


def _own_file(root: Path, split: str) -> Path:
  """Returns the file of a split, which is `root` itself if that is a file."""
  if root.is_file():
    return root
  return root / f"{split.replace('validation', 'dev')}.tsv"


def own_splits(data_dir: str) -> list[str]:
  """Returns the splits of the user's own files that a run uses."""
  root = files_lib.local_folder(data_dir)
  has_dev = root.is_dir() and _own_file(root, "validation").is_file()
  return ["train", "validation"] if has_dev else ["train"]


def task_from_files(data_dir: str) -> Task:
  """Describes the user's own task by the columns and labels of train.tsv.

  Args:
    data_dir: see `files`.

  Raises:
    UserError: the file is missing or has other columns, a label is empty, or
      no file is given.
  """
  if not data_dir:
    raise UserError(
      "no texts are given; set config.data.source_args.files.data_dir to a"
      " folder with train.tsv, or to a .tsv file"
    )
  path = _own_file(files_lib.local_folder(data_dir), "train")
  lines = _lines(path, is_own=True)
  header = _header(lines)
  pair = "sentence1" in header
  texts = ("sentence1", "sentence2") if pair else ("sentence",)
  columns = _column_indices(path, header, (*texts, "label"))
  labels = set()
  for line, fields in lines:
    if len(fields) > max(columns):
      labels.add(fields[columns[-1]].strip())
      if "" in labels:
        raise UserError(f"{path} line {line} has no label; give one")
  return Task("", texts, (*texts, "label"), tuple(sorted(labels)))


def tiny(task: str, split: str) -> InMemory:
  """Makes a tiny task from Python's documentation, in the form of GLUE's.

  Args:
    task: "word_order" or "next_sentence".
    split: "train", "validation" or "test", which has labels too.

  Raises:
    UserError: there is no such task or split.
  """
  check_choice(task, tuple(TINY), "task", "the tiny tasks")
  check_choice(split, tiny_glue.SPLITS, "split", "the tiny tasks")
  made = tiny_glue.examples(task, split)
  rows = [Row(texts, float(label), i) for i, (texts, label) in enumerate(made)]
  return InMemory([row._asdict() for row in rows], TASKS[task].classes)


SOURCES: dict[str, Callable[..., Source]] = {
  "tiny": tiny,
  "files": files,
  "tfds": tfds,
}


def make_examples(name: str, /, **kwargs: Any) -> Source:
  """Makes the examples of the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: arguments of the source.

  Raises:
    UserError: the name or an argument is unknown, or there is no example.
  """
  return make_named(SOURCES, name, "GLUE", kwargs)


def _decoded(text: Any) -> str:
  return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _lines(path: Path, is_own: bool) -> Iterator[tuple[int, list[str]]]:
  """Yields the line number and fields of each line that is not empty."""
  position = 0
  try:
    # The csv module would interpret quotes, and rejects NULs and very long
    # fields, which these files contain.
    with open_regular(path) as file:
      for number, data in enumerate(file, 1):
        # A published file is read as it is, since the leaderboard takes an
        # answer to each of its examples.
        line = (
          utf8.decode(data, str(path), position)
          if is_own
          else data.decode("utf-8", "replace")
        )
        position += len(data)
        line = line.removeprefix("\ufeff") if number == 1 else line
        if line.strip("\r\n"):
          yield number, line.rstrip("\r\n").split("\t")
  except OSError as error:
    where = path.parent if path.parent.is_dir() else path.parent.parent
    there = sorted(os.listdir(where))[:12] if where.is_dir() else []
    raise UserError(
      f"{path} can't be read ({error.strerror}); {where} has:"
      f" {', '.join(there) or 'nothing'}. Give the folder of GLUE's files in"
      " config.data.source_args.files.data_dir"
    ) from error


def _header(lines: Iterator[tuple[int, list[str]]]) -> list[str]:
  """Returns the names of the columns, which are the fields of the next line."""
  return [name.strip() for name in next(lines, (1, []))[1]]


def _column_indices(
  path: Path, header: Sequence[str], names: Sequence[str]
) -> list[int]:
  """Returns the indices of named columns."""
  missing = [name for name in names if name not in header]
  if missing:
    raise UserError(
      f"{path} has no column {missing[0]!r}; its first line names:"
      f" {', '.join(map(repr, header[:12])) or 'nothing'}"
    )
  return [list(header).index(name) for name in names]


def _rows(path: Path, task: Task, is_test: bool) -> Iterator[Row]:
  is_own = not task.folder
  lines = _lines(path, is_own)
  if task.folder == "CoLA" and not is_test:
    header: Sequence[str] = _COLA_COLUMNS
  else:
    header = _header(lines)
  *texts, label_column = task.columns
  has_labels = not is_test or label_column in header
  columns = _column_indices(path, header, task.columns if has_labels else texts)
  numbers = [i for i, name in enumerate(header) if name in _NUMBER_COLUMNS]
  damaged, count = [], 0
  for line, fields in lines:
    if len(fields) <= max(columns):
      damaged.append(line)
      continue
    if is_own and any(fields[len(header) :]):
      raise UserError(
        f"{path} line {line} has {len(fields)} fields and its first line"
        f" {len(header)}; replace tabs within texts by spaces"
      )
    values = [fields[column] for column in columns]
    label = _label(values.pop(), task, path, line) if has_labels else UNKNOWN
    number = count
    if numbers and is_test:
      number = _example_number(fields[numbers[0]], path, line)
    yield Row(tuple(values), label, number)
    count += 1
  if damaged:
    _report_damage(path, damaged, 0.0 if is_test else _MAX_DAMAGED, count)


def _label(text: str, task: Task, path: Path, line: int) -> float:
  if task.classes:
    text = text.strip()
    if text in task.labels:
      return float(task.labels.index(text))
    known = ", ".join(task.labels)
    raise UserError(f"{path} line {line}: label {text!r} is none of {known}")
  try:
    return float(text)
  except ValueError as error:
    raise UserError(f"{path} line {line}: {text!r} is not a score") from error


def _example_number(text: str, path: Path, line: int) -> int:
  if not text.isdecimal():
    raise UserError(
      f"{path} line {line}: {text!r} is not the number of an example"
    )
  return int(text)


def _report_damage(
  path: Path, damaged: Sequence[int], max_share: float, num_valid: int
) -> None:
  share = len(damaged) / (len(damaged) + num_valid)
  problem = (
    f"{path}: {len(damaged)} lines have too few fields, as line {damaged[0]}"
  )
  if share > max_share:
    raise UserError(f"{problem}; fix them, or download the file again")
  logging.warning("%s; they are skipped", problem)
