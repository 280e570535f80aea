"""Sources whose examples are held in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError


class InMemory:
  """Examples of a sequence.

  Args:
    examples: any objects, such as strings.
    class_names: name of each label; empty if examples have none.
  """

  in_memory = True

  def __init__(self, examples: Sequence[Any], class_names: Sequence[str] = ()):
    self._examples = examples
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> Any:
    return self._examples[index]


class InMemoryArrays:
  """Examples that are stored in arrays, along their first axis.

  Args:
    arrays: arrays [N, ...] by name, all of the same length N.
    class_names: name of each label.

  Raises:
    UserError: there is no example.
    ValueError: the arrays differ in length.
  """

  in_memory = True

  def __init__(
    self, arrays: Mapping[str, np.ndarray], class_names: Sequence[str]
  ):
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
      raise ValueError(f"arrays differ in length: {lengths}")
    if not any(lengths.values()):
      raise UserError("empty dataset: the arrays hold no example")
    self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
    self._length = next(iter(lengths.values()))
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  def __len__(self) -> int:
    return self._length

  @property
  def labels(self) -> np.ndarray | None:
    """Returns the labels of all examples, or None if there are none."""
    return self._arrays.get("label")

  def __getitem__(self, index: int) -> Example:
    # Copies, so that transforms that work in place do not change the data.
    return {name: np.array(a[index]) for name, a in self._arrays.items()}
