"""Base class shared by the tasks on images.

Shapes: b examples, H x W x C pixels, P classes.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.data.images import codec, preprocessing, sources, transforms
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.own_data import image_config
from perceiver_jax.tasks.shared import classification
from perceiver_jax.training import mixing


class ImageTask(base.Task):
  """The base class of tasks on images: their data, mixing and predictions.

  Args:
    config: config with the sections `model` (see `models.zoo.build`), `data`
      and `mixing` of `configs.base`.
    metadata: names of the classes; if None, they are read from the source.

  Raises:
    UserError: the number of classes differs from that of the data.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config)
    self._mixes = any(config.mixing.values())
    # Whether positions are those in the whole image, not in the crop.
    self._uses_boxes = config.model.adapter.get("coordinates") == "image"
    if self._uses_boxes and (self._mixes or any(config.data.affine.values())):
      raise UserError(
        "config.model.adapter.coordinates is 'image', but pixels of images that"
        " are mixed or transformed have no position of their own; set the"
        " leaves of config.mixing and config.data.affine to 0, or coordinates"
        " to 'crop'"
      )
    self._shape = _checked_shape(config.data.image_shape)
    self._preprocessing = preprocessing.Preprocessing(
      self._shape, config.data.to_dict()
    )
    self._class_names: tuple[str, ...] = ()
    if "num_classes" in config.model:
      self._class_names = classification.class_names(
        config, metadata, lambda: self.source("eval")
      )

  @classmethod
  def complete_config(
    cls, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Returns the config with classes, sizes and splits of its images."""
    return image_config.complete(config)

  def dummy_batch(self) -> Batch:
    """Returns one black image, with its partner if images are mixed."""
    example = {
      "image": np.zeros((1, *self._shape), np.float32),
      "label": np.zeros(1, np.int32),
      "unreadable": np.zeros(1, np.float32),
    }
    if self._uses_boxes:
      example["crop_box"] = np.array([[[-1, -1], [1, 1]]], np.float32)
    batch = {
      **example,
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }
    if self._mixes:
      batch |= {f"partner_{name}": value for name, value in example.items()}
      batch["batch_position"] = np.zeros(1, np.int32)
    return batch

  def dummy_eval_batch(self) -> Batch:
    """Returns a batch without partners, since images are not mixed."""
    is_for_mixing = lambda k: k.startswith("partner_") or k == "batch_position"
    batch = self.dummy_batch()
    return {k: x for k, x in batch.items() if not is_for_mixing(k)}

  def describe_inputs(self) -> dict[str, str]:
    """Describes the images that the model takes."""
    height, width, channels = self._shape
    data, kind = self._config.data, "RGB" if channels == 3 else "gray"
    normalized = transforms.describe_normalization(data.normalization)
    fraction = data.crop_fraction
    part = f", {fraction:g} of its sides" if fraction < 1 else ""
    inputs = {
      "image": f"{kind} images [height, width, channel]: the largest central"
      f" crop with the aspect ratio of {width} x {height} pixels{part}, resized"
      f" to them ({data.resize}); values are {normalized}"
    }
    if self._uses_boxes:
      inputs["crop_box"] = (
        "the (y, x) of the first and of the last pixel of the crop, in the"
        " whole image, which spans -1 to 1"
      )
    return inputs

  def train_dataset(
    self, *, global_batch: int, **options: Any
  ) -> grain.IterDataset:
    """Returns endless batches, with partners if images are mixed."""
    return super().train_dataset(
      global_batch=global_batch, with_partners=self._mixes, **options
    )

  def metadata(self) -> dict[str, Any]:
    """Returns the names of the classes."""
    return {"class_names": self._class_names}

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Augments in training, crops the center in evaluation, and normalizes."""
    image = example["image"]
    if rng is None:
      view = self._preprocessing.evaluate(image)
      box = self._preprocessing.evaluation_box(image)
    else:
      view, box = self._preprocessing.train_with_box(image, rng)
    example = {"unreadable": np.float32(0), **example, "image": view}
    return {**example, "crop_box": box} if self._uses_boxes else example

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> Source:
    """Returns the images of a split, "train" or "eval"."""
    data = self._config.data
    split = data.train_split if split == "train" else data.eval_split
    arguments = data.source_args.to_dict().get(data.source, {})
    source = sources.make_source(data.source, split=split, **arguments)
    example = source[0]
    self._check_label(example["label"])
    shape = self._preprocessing.evaluate(example["image"]).shape
    if shape != self._shape:
      raise UserError(
        f"config.data.image_shape is {self._shape}, but the images of source"
        f" {data.source!r} are {shape}; make them equal"
      )
    return source

  def _check_label(self, label: np.ndarray) -> None:
    if np.ndim(label):
      raise UserError(
        f"the images of source {self._config.data.source!r} have any number of"
        " labels; set config.task=multilabel_image_classification, which trains"
        " on all of them"
      )

  def mix(self, batch: Batch) -> tuple[mixing.Mixed, jax.Array]:
    """Returns mixed images, and the labels of the partners."""
    if not self._mixes:
      ones = jnp.ones(len(batch["label"]), jnp.float32)
      return mixing.Mixed(batch["image"], ones), batch["label"]
    mixed = mixing.mix(
      batch["image"],
      batch["partner_image"],
      batch["rng"],
      batch["batch_position"],
      **self._config.mixing.to_dict(),
    )
    return mixed, batch["partner_label"]

  def unreadable(self, batch: Batch) -> jax.Array:
    """Returns the share of each example's images that were replaced [b]."""
    zeros = jnp.zeros(len(batch["image"]), jnp.float32)
    unreadable = batch.get("unreadable", zeros)
    if "partner_unreadable" in batch:
      unreadable = (unreadable + batch["partner_unreadable"]) / 2
    return unreadable

  def raw(self, batch: Batch) -> Any:
    """Returns the raw data of the model: the images, with boxes if needed."""
    if not self._uses_boxes:
      return batch["image"]
    return {name: batch[name] for name in ("image", "crop_box")}

  def read(self, path: Path) -> Example:
    """Reads an image file and preprocesses it as in evaluation.

    Args:
      path: an image file.

    Returns:
      "image", float32 [H, W, C], normalized as in evaluation; and "crop_box" if
      the model's positions are those in the whole image.

    Raises:
      UserError: the file is not a readable image.
    """
    image = codec.read_image(path, self._shape[-1])
    invert = self._config.data.invert_bright and transforms.has_bright_border(
      image
    )
    example = {"image": self._preprocessing.evaluate(image, invert=invert)}
    if self._uses_boxes:
      example["crop_box"] = self._preprocessing.evaluation_box(image)
    return example

  def batch_of(self, examples: list[Example]) -> Batch:
    """Makes a batch, without labels, from examples returned by `read`."""
    return {
      **{name: np.stack([x[name] for x in examples]) for name in examples[0]},
      "index": np.arange(len(examples), dtype=np.int32),
    }

  def pixels(self, images: np.ndarray) -> np.ndarray:
    """Converts the model's inputs [..., H, W, C] back to pixels.

    Returns:
      uint8 of the same shape.
    """
    return self._preprocessing.pixels(images)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns the names of the classes, by label; none for an autoencoder."""
    return self._class_names


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
  sizes = [n for n in shape if isinstance(n, int) and n > 0]
  if len(sizes) != 3 or len(shape) != 3 or shape[-1] not in (1, 3):
    raise UserError(
      f"config.data.image_shape is {tuple(shape)}; give height, width and"
      " channels, which are 1 or 3"
    )
  return tuple(shape)
