"""Sources by name, and those held in memory.

What a source is: `source_base`. Images on a disk: `image_sources`; crops of a
few photos: `photos`.
"""

from collections.abc import (
  Callable,
  Mapping,
  Sequence,
)
from typing import Any

import numpy as np

from perceiver_jax.data.core.source import (
  Example,
  Source,
  check_choice,
  make_named,
)
from perceiver_jax.data.images import image_sources, photos
from perceiver_jax.errors import UserError

# Every fifth digit of each class is held out: 360 of 1,797.
_DIGITS_TEST_STRIDE = 5


class InMemory:
  """Examples held as arrays whose first axis counts examples."""

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

  def __getitem__(self, index: int) -> Example:
    # Copies, so that a transform working in place leaves the data as it is.
    return {name: np.array(a[index]) for name, a in self._arrays.items()}


def in_memory(
  arrays: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> InMemory:
  """Makes a source of arrays already in memory.

  Args:
    arrays: name to array [N, ...], all of the same length N.
    class_names: name of each label.

  Raises:
    UserError: there is no example.
    ValueError: the arrays differ in length.
  """
  return InMemory(arrays, class_names)


def digits(split: str) -> InMemory:
  """Handwritten digits that ship with scikit-learn: 1,797 images of 8 x 8.

  The held-out part is fixed: every fifth image of each class.

  Args:
    split: "train" (1,437 examples) or "test" (360).

  Returns:
    A source of image float32 [8, 8, 1] in [-1, 1], light ink on a dark
    ground, and label int32.

  Raises:
    UserError: there is no such split.
  """
  check_choice(split, ("train", "test"), "split", "digits")
  # Imported here: scikit-learn takes a second that other sources need not pay.
  from sklearn import datasets

  data = datasets.load_digits()
  # Sorted by class first, so that the stride takes a fifth of every class.
  by_class = np.argsort(data.target, kind="stable")
  held_out = np.zeros(len(by_class), bool)
  held_out[by_class[::_DIGITS_TEST_STRIDE]] = True
  chosen = held_out if split == "test" else ~held_out
  pixels = data.images[chosen].astype(np.float32) / np.float32(8)
  arrays = {
    "image": pixels[..., None] - np.float32(1),
    "label": data.target[chosen].astype(np.int32),
  }
  return InMemory(arrays, [str(name) for name in data.target_names])


# Named as in a config; `in_memory` takes arrays, which no config can hold.
SOURCES: dict[str, Callable[..., Source]] = {
  "digits": digits,
  "image_folder": image_sources.image_folder,
  "tfds": image_sources.tfds,
  "photos": photos.photos,
}


def make_source(name: str, /, **kwargs: Any) -> Source:
  """Makes the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: its arguments, one of which may be called `name` too.

  Raises:
    UserError: the name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "the data", kwargs)
