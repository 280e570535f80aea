"""Image classification data sets prepared by TensorFlow Datasets (TFDS)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perceiver_jax.data.core import tfds as tfds_sources
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError


class TfdsImages:
  """Images and labels of a TensorFlow Datasets random-access source.

  Args:
    data_source: of TensorFlow Datasets, with undecoded images.
    class_names: name of each label.
  """

  in_memory = False

  def __init__(self, data_source: Any, class_names: Sequence[str]):
    self._data_source = data_source
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)

  @property
  def info(self) -> Any:
    """Returns the `DatasetInfo` of all splits."""
    return self._data_source.dataset_info

  def __len__(self) -> int:
    return len(self._data_source)

  def __getitem__(self, index: int) -> Example:
    name = f"example {index} of {self.info.name}"
    example = tfds_sources.fetch(self._data_source, index)
    if "file_name" in example:
      name = f"{example['file_name'].decode(errors='replace')!r} ({name})"
    return {
      "image": codec.decode_image(example["image"], name=name),
      "label": np.int32(example["label"]),
    }


def tfds_images(name: str, split: str, data_dir: str = "") -> SkipUnreadable:
  """Returns images of a data set prepared by TensorFlow Datasets.

  Nothing is downloaded, and TensorFlow is not imported.

  Args:
    name: a TFDS name, with config and version if wanted: "imagenet2012".
    split: a TFDS split, slices allowed: "train[10000:]".
    data_dir: where it was prepared; empty for TFDS's own default.

  Returns:
    A source of image uint8 [H, W, 3], label int32 and `unreadable` of
    `SkipUnreadable`.

  Raises:
    UserError: the data set is unknown, not prepared in the array_record format,
      lacks the split, or has no image and label.
  """
  import tensorflow_datasets

  # The decoder of TFDS does not name a damaged image.
  decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
  data_source = tfds_sources.open_prepared(name, split, data_dir, decoders)
  return SkipUnreadable(_checked(data_source, name, split))


def _checked(data_source: Any, name: str, split: str) -> TfdsImages:
  """Checks that a TFDS source has images and class labels."""
  # A FeaturesDict is no Mapping: it has `items` but no `get`.
  features = dict(data_source.dataset_info.features.items())
  names = getattr(features.get("label"), "names", None)
  if "image" not in features or names is None:
    raise UserError(
      f"{name!r} has features {', '.join(sorted(features))}; image and label "
      "are needed: choose a TFDS image classification data set"
    )
  if not len(data_source):
    raise UserError(f"empty dataset: {name!r} split {split!r} has no example")
  return TfdsImages(data_source, names)
