"""The protocol of a source: examples that can be fetched in any order.

A source has a length and returns example i as a dict of NumPy arrays; for
images `image` [H, W, C] and `label`: int32, an index of `class_names`, or
float32 multi-hot [P] if an image has any number of labels.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from absl import logging

from perceiver_jax import files
from perceiver_jax.checks import check_choice, check_leaf
from perceiver_jax.errors import UserError

Example = dict[str, np.ndarray]
Batch = Mapping[str, Any]
_MAX_NAMED = 5  # Classes named in a warning.


class Source(Protocol):
  """Protocol of the data sets that a pipeline reads.

  Attributes:
    class_names: name of each label.
    num_classes: number of class names.
    in_memory: whether examples are fetched without reading or decoding files.
  """

  class_names: tuple[str, ...]
  num_classes: int
  in_memory: bool

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


def multi_hot(labels: Sequence[int], num_classes: int) -> np.ndarray:
  """Returns float32 [num_classes], 1 at the labels and 0 elsewhere."""
  row = np.zeros(num_classes, np.float32)
  row[np.asarray(labels, np.int64)] = 1
  return row


def read_class_names(path: Path) -> list[str]:
  """Reads a file with the name of a class in each line.

  Raises:
    UserError: the file can't be read, or has a name twice.
  """
  try:
    lines = files.read_text(path, "utf-8-sig").splitlines()
  except (OSError, ValueError) as error:
    raise UserError(f"{path} can't be read: {error}") from error
  names = [line.strip() for line in lines if line.strip()]
  if len(set(names)) < len(names):
    raise UserError(f"{path} has a class twice; remove one")
  return names


def check_class_names(
  expected: Sequence[str], names: Sequence[str], owner: str
) -> None:
  """Checks that data has the classes that a run was trained on.

  Args:
    expected: names of the classes of the run.
    names: names of the classes of the data.
    owner: name of the data in the error, such as "split 'test'".

  Raises:
    UserError: they differ; the error names the first difference.
  """
  pairs = itertools.zip_longest(names, expected)
  for number, (new, old) in enumerate(pairs):
    if old != new:
      new, old = ("none" if x is None else repr(x) for x in (new, old))
      raise UserError(
        f"{owner} has {len(names)} classes and the run {len(expected)}; the"
        f" first that differs is number {number}, {new} instead of {old};"
        " give the same classes in the same order"
      )


def check_several_classes(names: Sequence[str], examples: str) -> None:
  """Checks that there are two classes or more to tell apart.

  Args:
    names: names of the classes.
    examples: the examples in the error, such as "the texts in 'a.tsv'".

  Raises:
    UserError: there are fewer.
  """
  if len(names) < 2:
    found = f"only the label {names[0]!r}" if names else "no labels"
    raise UserError(
      f"{examples} have {found}; give examples of two or more classes"
    )


def warn_of_rare_classes(
  labels: Sequence[int] | np.ndarray, names: Sequence[str], what: str
) -> None:
  """Warns of classes with fewer than two training examples.

  Args:
    labels: labels of all training examples.
    names: name of each class.
    what: name of the examples in the warning, such as "images".
  """
  counts = np.bincount(np.asarray(labels, int), minlength=len(names))
  rare = [name for name, n in zip(names, counts, strict=True) if n < 2]
  if rare:
    logging.warning(
      "%d of %d classes have fewer than two training %s: %s%s; add %s, or"
      " remove these classes",
      len(rare),
      len(names),
      what,
      ", ".join(rare[:_MAX_NAMED]),
      ", ..." if len(rare) > _MAX_NAMED else "",
      what,
    )


def make_named(
  makers: Mapping[str, Callable[..., Any]],
  name: str,
  owner: str,
  arguments: Mapping[str, Any],
) -> Any:
  """Makes a source by name.

  Args:
    makers: functions that make sources, by name.
    name: a key of `makers`.
    owner: name of the sources in errors, such as "the data".
    arguments: keyword arguments of the function.

  Raises:
    UserError: the name or an argument is unknown, or there is no example.
  """
  check_choice(name, tuple(makers), "source", owner)
  # Where examples are generated.
  leaf = f"num_{arguments.get('split')}"
  count = arguments.get(leaf, 0)
  check_leaf(f"data.source_args.{name}.{leaf}", count, count >= 0, "1 or more")
  signature = inspect.signature(makers[name])
  try:
    signature.bind(**arguments)
  except TypeError as error:
    takes = ", ".join(signature.parameters)
    raise UserError(
      f"source {name!r} got wrong arguments ({error}); it takes: {takes}"
    ) from error
  source = makers[name](**arguments)
  if not len(source):
    raise UserError(
      f"empty dataset: source {name!r} with {dict(arguments)} is empty"
    )
  return source
