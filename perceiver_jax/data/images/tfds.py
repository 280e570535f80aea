"""Image classification data sets prepared by TensorFlow Datasets (TFDS)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perceiver_jax.data.core import tfds as tfds_sources
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example, multi_hot
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError


class TfdsImages:
  """Images and labels of a TensorFlow Datasets random-access source.

  Args:
    data_source: a TFDS data source with undecoded images.
    class_names: name of each label.
    label_feature: the feature with the label or, multi-hot, with the labels;
      empty if there is none, which makes all labels 0.
  """

  in_memory = False

  def __init__(
    self,
    data_source: Any,
    class_names: Sequence[str],
    label_feature: str = "label",
  ):
    self._data_source = data_source
    self._label_feature = label_feature
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
    label = example[self._label_feature] if self._label_feature else 0
    several = np.ndim(label) > 0
    return {
      "image": codec.decode_image(example["image"], name=name),
      "label": multi_hot(label, self.num_classes)
      if several
      else np.int32(label),
    }


def tfds_images(
  name: str, split: str, data_dir: str = "", label_feature: str = "label"
) -> SkipUnreadable:
  """Returns images of a data set prepared by TensorFlow Datasets.

  Nothing is downloaded, and TensorFlow is not imported.

  Args:
    name: a TFDS name, such as "imagenet2012"; may include config and version.
    split: a TFDS split, which may be a slice such as "train[10000:]".
    data_dir: folder of the prepared data set; empty for the default of TFDS.
    label_feature: a class label, or a sequence of class labels, such as
      "labels" of "voc/2007"; empty for images without labels.

  Returns:
    A source of image uint8 [H, W, 3], label int32 (of a sequence float32
    multi-hot [P]) and `unreadable` of `SkipUnreadable`.

  Raises:
    UserError: the data set is unknown, not prepared in the array_record format,
      lacks the split, or has no image and label.
  """
  import tensorflow_datasets

  # The decoder of TFDS does not name a damaged image.
  decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
  data_source = tfds_sources.open_prepared(name, split, data_dir, decoders)
  return SkipUnreadable(_checked(data_source, name, split, label_feature))


def tfds_splits(
  name: str, data_dir: str = "", label_feature: str = "label"
) -> list[str]:
  """Returns the splits of a data set prepared by TFDS; see `tfds_images`."""
  del label_feature
  data_source = tfds_sources.open_prepared(name, "train", data_dir)
  return list(data_source.dataset_info.splits)


def class_names(feature: Any) -> Sequence[str] | None:
  """Returns the names of a feature of class labels; None if it is another."""
  return getattr(getattr(feature, "feature", feature), "names", None)


def _checked(
  data_source: Any, name: str, split: str, label_feature: str
) -> TfdsImages:
  """Checks that a TFDS source has images and class labels."""
  # A FeaturesDict is not a Mapping: it has `items` but no `get`.
  features = dict(data_source.dataset_info.features.items())
  names = class_names(features.get(label_feature)) if label_feature else ()
  if "image" not in features or names is None:
    raise UserError(
      f"{name!r} has features {', '.join(sorted(features))}; image and"
      f" {label_feature}, a class label, are needed: choose a TFDS image"
      " classification data set, or set"
      " config.data.source_args.tfds.label_feature"
    )
  if not len(data_source):
    raise UserError(f"empty dataset: {name!r} split {split!r} has no example")
  return TfdsImages(data_source, names, label_feature)
