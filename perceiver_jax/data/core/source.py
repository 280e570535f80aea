"""What a source is: labelled examples that can be fetched in any order.

A source has a length and returns example i as a dict of numpy arrays, here
`image` [H, W, C] and `label` (int32 scalar, a position in `class_names`).
"""

import inspect
import itertools
from collections.abc import (
  Callable,
  Mapping,
  Sequence,
)
from typing import (
  Any,
  Protocol,
)

import numpy as np

from perceiver_jax.errors import UserError

Example = dict[str, np.ndarray]


class Source(Protocol):
  """What a pipeline needs of a data set.

  Attributes:
    class_names: name of each label.
    num_classes: their number.
    in_memory: whether fetching an example costs no reading or decoding.
  """

  class_names: tuple[str, ...]
  num_classes: int
  in_memory: bool

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


def check_choice(
  given: str, allowed: tuple[str, ...], what: str, owner: str
) -> None:
  """Refuses what is not one of the choices.

  Args:
    given: what was asked for.
    allowed: the choices.
    what: what they are, "split" for example.
    owner: what has them, "digits" for example.

  Raises:
    UserError: `given` is none of them.
  """
  if given not in allowed:
    raise UserError(
      f"unknown {what} {given!r} for {owner}; choose one of: "
      + ", ".join(allowed)
    )


def check_class_names(
  known: Sequence[str], found: Sequence[str], owner: str
) -> None:
  """Refuses data whose labels mean something else than a run has learned.

  Args:
    known: names of the classes of the run.
    found: those of the data.
    owner: what has them, "split 'test'" for example.

  Raises:
    UserError: they differ; it names the first that does.
  """
  pairs = itertools.zip_longest(known, found)
  for number, (old, new) in enumerate(pairs):
    if old != new:
      shown = ["none" if x is None else repr(x) for x in (new, old)]
      raise UserError(
        f"{owner} has {len(found)} classes, and the run {len(known)}: the first"
        f" that differs is number {number}, {shown[0]} instead of {shown[1]};"
        " give the same classes in the same order"
      )


def make_named(
  makers: Mapping[str, Callable[..., Any]],
  name: str,
  owner: str,
  arguments: Mapping[str, Any],
) -> Any:
  """Calls one of several makers of sources.

  Args:
    makers: by name.
    name: which one.
    owner: what has them, "the data" for example.
    arguments: for it.

  Raises:
    UserError: the name or an argument is unknown, or there is no example.
  """
  check_choice(name, tuple(makers), "source", owner)
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
