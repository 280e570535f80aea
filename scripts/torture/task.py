"""A task whose data hangs or is not a number while a file of this name exists.

The environment variable TORTURE_FAULTS names the folder of these files.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.tasks.image_classification import ImageClassification

HANG, NAN = "hang", "nan"
VARIABLE = "TORTURE_FAULTS"


def _has(fault: str) -> bool:
  return Path(os.environ[VARIABLE], fault).exists()


class _FaultySource:
  """The examples of a source, whose reading may hang."""

  def __init__(self, source: Source):
    self._source = source
    self.class_names = source.class_names
    self.num_classes = source.num_classes
    self.in_memory = source.in_memory

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    example = self._source[index]
    while _has(HANG):
      time.sleep(0.1)
    return example


class FaultyImages(ImageClassification):
  """Image classification with data that may hang or be not a number."""

  def source(self, split: str) -> Any:
    """Returns the source of a split."""
    return _FaultySource(super().source(split))

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Returns the example as the model's input."""
    example = super().preprocess(example, rng)
    if rng is not None and _has(NAN):
      example = {**example, "image": example["image"] * np.float32(np.nan)}
    return example
