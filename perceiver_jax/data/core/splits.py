"""Splits and slices of them, such as "train[:10%]" of the training examples.

A slice holds out a part of the training examples where there is no other
held-out split, or where the test split must not be used. The notation is that
of TensorFlow Datasets.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perceiver_jax.errors import UserError

# Held-out splits, the preferred first: a test split is better kept for the end.
_HELD_OUT = ("validation", "val", "valid", "test")
# Folders of these names are splits and not classes.
NAMES = {"train", *_HELD_OUT}
# Where there is none, a tenth of the only split is held out.
_TRAIN_SLICE, _EVAL_SLICE = "[10%:]", "[:10%]"
_BOUND = r"(-?\d+%?)?"
_SPLIT = re.compile(rf"(?P<name>[^\[\]]+)(?:\[{_BOUND}:{_BOUND}\])?")


class Split(NamedTuple):
  """A split, or a slice of one.

  Attributes:
    name: name of the whole split.
    start: first example, a number or a percentage, both possibly counted from
      the end; "" for the beginning.
    stop: example after the last; "" for the end.
  """

  name: str
  start: str
  stop: str

  @property
  def is_slice(self) -> bool:
    """Returns whether this is not the whole split."""
    return bool(self.start or self.stop)

  def order(self, names: Sequence[str]) -> list[int]:
    """Returns the examples of the slice, ordered by a hash of their names.

    A slice thus has examples of all classes, and they are the same whatever
    files hold them.

    Args:
      names: unique name of each example of the whole split.

    Returns:
      Positions in `names`.

    Raises:
      UserError: the slice is empty.
    """
    digest = lambda i: hashlib.sha256(
      names[i].encode(errors="surrogatepass")
    ).digest()
    ordered = sorted(range(len(names)), key=digest)
    selected = ordered[
      _bound(self.start, len(names)) : _bound(self.stop, len(names))
    ]
    if names and not selected:
      raise UserError(
        f"{self.name}[{self.start}:{self.stop}] has none of the {len(names):,}"
        f" examples of {self.name!r}; give more examples, or other splits in"
        " --config.data.train_split and --config.data.eval_split"
      )
    return selected


def parse(split: str) -> Split:
  """Parses a split such as "train", "train[1000:]" or "train[:10%]".

  Raises:
    UserError: it has another form.
  """
  match = _SPLIT.fullmatch(split)
  if not match:
    raise UserError(
      f"the split is {split!r}; give a name such as 'train', or a slice such as"
      " 'train[:10%]' or 'train[1000:]'"
    )
  return Split(match["name"], match[2] or "", match[3] or "")


def choose(names: Sequence[str]) -> tuple[str, str]:
  """Returns a training and a held-out split among those of some data.

  Raises:
    UserError: there are several, of which none is called "train".
  """
  if len(names) == 1:
    return names[0] + _TRAIN_SLICE, names[0] + _EVAL_SLICE
  if "train" not in names:
    raise UserError(
      f"the data has the splits {', '.join(names)}; name one"
      " 'train', or give --config.data.train_split and --config.data.eval_split"
    )
  for name in _HELD_OUT:
    if name in names:
      return "train", name
  return "train" + _TRAIN_SLICE, "train" + _EVAL_SLICE


def part(
  held_out: np.ndarray, split: str, kind: str, remedy: str
) -> np.ndarray:
  """Returns which examples "train" or "test" has, as a mask.

  Args:
    held_out: mask bool [n] of the examples of "test".
    split: "train" or "test".
    kind: the kind of example, for the error.
    remedy: what to do if there are too few examples, for the error.

  Raises:
    UserError: the only example is held out, and the split is "train".
  """
  if split == "test":
    return held_out
  if len(held_out) == 1 and held_out.all():
    raise UserError(
      f"there is 1 {kind}, and it is held out for evaluation; {remedy}"
    )
  return ~held_out


def _bound(bound: str, length: int) -> int | None:
  """Returns a bound as an index of a list, which may be negative."""
  if bound.endswith("%"):
    percentage = int(bound[:-1])
    return round((percentage + 100 * (percentage < 0)) * length / 100)
  return int(bound) if bound else None
