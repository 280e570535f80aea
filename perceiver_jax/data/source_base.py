"""What a source is: labelled examples that can be fetched in any order.

A source has a length and returns example i as a dict of numpy arrays, here
`image` [H, W, C] and `label` (int32 scalar, a position in `class_names`).
"""

from typing import Protocol

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
