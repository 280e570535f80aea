"""Handwritten digits that ship with scikit-learn."""

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.in_memory import InMemoryArrays

# Every fifth digit of each class is held out: 360 of 1,797.
_TEST_STRIDE = 5


def digits(split: str) -> InMemoryArrays:
  """Returns the handwritten digits of scikit-learn: 1,797 images of 8 x 8.

  The held-out part is fixed: every fifth image of each class.

  Args:
    split: "train" (1,437 examples) or "test" (360).

  Returns:
    A source of image float32 [8, 8, 1] in [-1, 1], bright ink on a dark
    background, and label int32.

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
  held_out[by_class[::_TEST_STRIDE]] = True
  chosen = held_out if split == "test" else ~held_out
  pixels = data.images[chosen].astype(np.float32) / np.float32(8)
  arrays = {
    "image": pixels[..., None] - np.float32(1),
    "label": data.target[chosen].astype(np.int32),
  }
  return InMemoryArrays(arrays, [str(name) for name in data.target_names])
