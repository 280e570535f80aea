"""Image classification, one label per image (Perceiver, 4.1; IO, app. A).

Shapes: b examples, H x W x C pixels, P classes, M inputs, N latents.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.data.images import codec, preprocessing, sources, transforms
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver
from perceiver_jax.models.modalities import image as image_adapter
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training import mixing, step
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import (
  attention_figures,
  attention_sections,
  image_layout,
  sections,
)

_COLUMNS = 4


class Prediction(NamedTuple):
  """The prediction for one image.

  Attributes:
    probabilities: [P].
    overlay: attention over the picture, uint8 [h, w, 3].
  """

  probabilities: np.ndarray
  overlay: np.ndarray


class ImageClassification(base.Task):
  """Classification of images with one label each.

  Args:
    config: config with `label_smoothing` and the sections `model` (see
      `models.zoo.build`), `data` and `mixing` of `configs.base`.
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
    # Whether positions are those in the image that a crop is from.
    self._uses_boxes = config.model.adapter.get("coordinates") == "image"
    self._shape = _checked_shape(config.data.image_shape)
    self._preprocessing = preprocessing.Preprocessing(
      self._shape, config.data.to_dict()
    )
    if metadata and "class_names" in metadata:
      self._class_names = tuple(metadata["class_names"])
    else:
      self._class_names = self.source("eval").class_names
    if config.model.num_classes != len(self._class_names):
      raise UserError(
        f"config.model.num_classes is {config.model.num_classes} but the data"
        f" has {len(self._class_names)} classes; make them equal"
      )

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

  def prepare_batch(self, batch: Batch) -> Batch:
    """Mixes images with their partners, and computes soft labels."""
    label = batch["label"]
    mixed, partner_label = self._mix(batch)
    targets = mixing.targets(
      label,
      partner_label,
      mixed.weights,
      len(self._class_names),
      self._config.label_smoothing,
    )
    larger = jnp.where(mixed.weights < 0.5, partner_label, label)
    return {
      **batch,
      "image": mixed.images,
      "label": larger,
      "targets": targets,
    }

  def _mix(self, batch: Batch) -> tuple[mixing.Mixed, jax.Array]:
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

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, P] and, if asked for, attention."""
    spec = self._config.model.to_dict()
    if self._config.sync_batch_norm:
      spec["adapter"].setdefault("cross_replica_axis", step.AXIS)
    raw = batch["image"]
    if self._uses_boxes:
      raw = {name: batch[name] for name in ("image", "crop_box")}
    outputs = self.build_model(spec)(
      raw,
      is_training=is_training,
      return_attention=return_attention,
    )
    seed = self._config.model.adapter.get("permutation_seed", 0)
    attention = tuple(
      image_adapter.unpermute(each, seed) for each in outputs.encoder_attention
    )
    return outputs._replace(encoder_attention=attention)

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy with mixed and smoothed labels, and accuracy.

    A mixed image counts as right if its larger part is recognized.
    """
    losses = optax.softmax_cross_entropy(outputs.logits, batch["targets"])
    ones = jnp.ones_like(losses)
    return {
      **self._classification_metrics(outputs.logits, batch, losses),
      "unreadable": metrics_lib.weighted(self._unreadable(batch), ones),
    }

  def _unreadable(self, batch: Batch) -> jax.Array:
    """Returns the share of each example's images that were replaced."""
    zeros = jnp.zeros(len(batch["image"]), jnp.float32)
    unreadable = batch.get("unreadable", zeros)
    if "partner_unreadable" in batch:
      unreadable = (unreadable + batch["partner_unreadable"]) / 2
    return unreadable

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy, accuracies, confusion counts and calibration."""
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs.logits, batch["label"]
    )
    found = self._classification_metrics(outputs.logits, batch, losses)
    count = found["loss"][1]
    guesses = outputs.logits.argmax(-1)
    found["confusion"] = (
      metrics_lib.confusion(
        batch["label"], guesses, batch["mask"], len(self._class_names)
      ),
      count,
    )
    found["calibration"] = (
      metrics_lib.calibration(outputs.logits, batch["label"], batch["mask"]),
      count,
    )
    return found

  def _classification_metrics(
    self, logits: jax.Array, batch: Batch, losses: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    weights = batch.get("mask", np.ones(logits.shape[0], np.float32))
    right = lambda k: metrics_lib.in_top_k(logits, batch["label"], k)
    found = {
      "loss": metrics_lib.weighted(losses, weights),
      "accuracy": metrics_lib.weighted(right(1), weights),
    }
    if len(self._class_names) > 5:
      found["top_5_accuracy"] = metrics_lib.weighted(right(5), weights)
    return found

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, dict[str, np.ndarray]]:
    """Adds the expected calibration error."""
    error = metrics_lib.expected_calibration_error
    return {
      name: {**means, "calibration_error": error(means["calibration"])}
      for name, means in metrics.items()
    }

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws images with predictions and with the attention over them."""
    tiles, titles = [], []
    for sample in self._samples(outputs, batch):
      tiles += [sample.image, sample.attention]
      titles += [
        f"label: {sample.label}",
        f"{sample.prediction} {sample.probability:.0%}",
      ]
    sheet = image_layout.contact_sheet(tiles, titles, 2 * _COLUMNS)
    images = {"predictions": sheet}
    if outputs.encoder_attention:
      images["cross_attention"] = self._attention_figure(outputs, batch)
    return images

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns samples, confusion matrix, accuracy per class and calibration."""
    confusion, names = metrics["confusion"], self._class_names
    attention = []
    if outputs.encoder_attention:
      figure = self._attention_figure(outputs, batch)
      attention.append(attention_sections.latent_attention(figure))
    return [
      sections.image_samples(self._samples(outputs, batch)),
      *attention,
      sections.confusion_matrix(confusion, names),
      sections.class_accuracy(
        metrics_lib.per_class_accuracy(confusion), confusion, names
      ),
      sections.calibration(
        metrics["calibration"], float(metrics["calibration_error"])
      ),
    ]

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

  def predictions(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> list[Prediction]:
    """Returns the prediction for each image of a batch.

    Args:
      outputs: result of `forward(..., return_attention="logits")`, on the host.
      batch: the images.
    """
    probabilities = np.asarray(self.probabilities(outputs.logits))
    overlays = attention_figures.output_overlays(
      self.pixels(batch["image"]),
      outputs.encoder_attention,
      outputs.decoder_attention,
    )
    return list(map(Prediction, probabilities, overlays))

  def probabilities(self, logits: jax.Array) -> jax.Array:
    """Returns the probabilities of the classes [..., P]."""
    return jax.nn.softmax(logits)

  def label_text(self, label: np.ndarray) -> str:
    """Returns the label of an example in words."""
    return self._class_names[label]

  def prediction_text(self, probabilities: np.ndarray) -> tuple[str, float]:
    """Returns the prediction in words, and its probability."""
    predicted = int(probabilities.argmax())
    return self._class_names[predicted], float(probabilities[predicted])

  def pixels(self, pictures: np.ndarray) -> np.ndarray:
    """Converts the model's inputs [..., H, W, C] back to pixels.

    Returns:
      uint8 of the same shape.
    """
    return self._preprocessing.pixels(pictures)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns the names of the classes, by label."""
    return self._class_names

  def _attention_figure(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> np.ndarray:
    """Draws the attention of some latents over the first image."""
    return attention_figures.image_figure(
      self.pixels(batch["image"])[0],
      [attention[0] for attention in outputs.encoder_attention],
    )

  def _samples(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> list[sections.ImageSample]:
    samples = []
    predictions = self.predictions(outputs, batch)
    for image, label, (probabilities, overlay) in zip(
      self.pixels(batch["image"]), batch["label"], predictions, strict=True
    ):
      prediction, probability = self.prediction_text(probabilities)
      samples.append(
        sections.ImageSample(
          image, overlay, self.label_text(label), prediction, probability
        )
      )
    return samples

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


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
  sizes = [n for n in shape if isinstance(n, int) and n > 0]
  if len(sizes) != 3 or len(shape) != 3 or shape[-1] not in (1, 3):
    raise UserError(
      f"config.data.image_shape is {tuple(shape)}; give height, width and"
      " channels, which are 1 or 3"
    )
  return tuple(shape)
