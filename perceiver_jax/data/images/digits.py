"""Handwritten digits that ship with scikit-learn."""

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.in_memory import InMemoryArrays
from perceiver_jax.data.core.source import multi_hot

_SPLITS = ("train", "test")
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
  check_choice(split, _SPLITS, "split", "digits")
  # Imported here, since importing scikit-learn takes a second.
  from sklearn import datasets

  data = datasets.load_digits()
  # Sorting by class makes the stride take a fifth of every class.
  by_class = np.argsort(data.target, kind="stable")
  held_out = np.zeros(len(by_class), bool)
  held_out[by_class[::_TEST_STRIDE]] = True
  in_split = held_out if split == "test" else ~held_out
  pixels = data.images[in_split].astype(np.float32) / np.float32(8)
  arrays = {
    "image": pixels[..., None] - np.float32(1),
    "label": data.target[in_split].astype(np.int32),
  }
  return InMemoryArrays(arrays, [str(name) for name in data.target_names])


def digit_pairs(
  split: str, num_train: int = 4096, num_test: int = 512
) -> InMemoryArrays:
  """Returns pairs of handwritten digits side by side, with both as labels.

  The pairs are drawn at random, always the same ones, from the digits of the
  split; two equal digits have a single label.

  Args:
    split: "train" or "test".
    num_train: number of training examples.
    num_test: number of held-out examples.

  Returns:
    A source of image uint8 [8, 16, 1], bright ink on a dark background, and
    label float32 multi-hot [10].

  Raises:
    UserError: there is no such split, or no example.
  """
  check_choice(split, _SPLITS, "split", "digit_pairs")
  single = digits(split)
  rng = np.random.default_rng(_SPLITS.index(split))
  count = {"train": num_train, "test": num_test}[split]
  images, labels = [], []
  for pair in rng.integers(len(single), size=(count, 2)):
    examples = [single[i] for i in pair]
    images.append(np.concatenate([x["image"] for x in examples], axis=1))
    labels.append(multi_hot([x["label"] for x in examples], single.num_classes))
  # Back from [-1, 1].
  pixels = np.round((np.array(images) + 1) * 127.5).astype(np.uint8)
  arrays = {"image": pixels, "label": np.array(labels)}
  return InMemoryArrays(arrays, single.class_names)
