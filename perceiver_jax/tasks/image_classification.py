"""Image classification, one label per image (Perceiver, 4.1; IO, app. A).

Shapes: b examples, H x W x C pixels, P classes, M inputs, N latents.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax.models import perceiver
from perceiver_jax.models.modalities import image as image_adapter
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import classification, image_data
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
    overlay: attention over the image, uint8 [h, w, 3].
  """

  probabilities: np.ndarray
  overlay: np.ndarray


class ImageClassification(
  classification.ClassificationMetrics, image_data.ImageTask
):
  """Classification of images with one label each.

  The config also has `label_smoothing`; see `ImageTask` for its sections.

  Attributes:
    activation: The function from logits to probabilities.
  """

  activation = "softmax"

  def describe_model(self) -> base.ModelDescription:
    """Describes the images and the logits."""
    return classification.describe_model(
      self.describe_inputs(), self.activation
    )

  def prepare_batch(self, batch: Batch) -> Batch:
    """Mixes images with their partners, and computes soft labels."""
    label = batch["label"]
    mixed, partner_label = self.mix(batch)
    targets = mixing.targets(
      label,
      partner_label,
      mixed.weights,
      len(self.class_names),
      self._config.label_smoothing,
    )
    larger = jnp.where(mixed.weights < 0.5, partner_label, label)
    return {
      **batch,
      "image": mixed.images,
      "label": larger,
      "targets": targets,
    }

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, P] and, if asked for, attention."""
    spec = self._config.model.to_dict()
    normalizes = spec["adapter"].get("kind", "image") == "image"
    if normalizes and self._config.get("sync_batch_norm", True):
      spec["adapter"].setdefault("cross_replica_axis", step.AXIS)
    outputs = self.build_model(spec)(
      self.raw(batch),
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

    The label of a mixed image is that of its larger part, for accuracy.
    """
    losses = optax.softmax_cross_entropy(outputs.logits, batch["targets"])
    ones = jnp.ones_like(losses)
    return {
      **classification.mean_metrics(outputs.logits, batch, losses),
      "unreadable": metrics_lib.weighted(self.unreadable(batch), ones),
    }

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws images with predictions and with the attention over them."""
    tiles, titles = [], []
    samples = self._samples(outputs, batch)
    for sample in samples[: classification.NUM_SAMPLES]:
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
    """Returns samples, attention, and the sections on metrics."""
    attention = []
    if outputs.encoder_attention:
      figure = self._attention_figure(outputs, batch)
      attention.append(attention_sections.latent_attention(figure))
    return [
      *self._sample_sections(self._samples(outputs, batch), batch, metrics),
      *attention,
      *self._metric_sections(metrics),
    ]

  def _sample_sections(
    self,
    samples: list[sections.ImageSample],
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns samples of all classes and, if there are any, mistakes."""
    return classification.sample_sections(
      samples, batch, metrics, sections.image_samples
    )

  def _metric_sections(
    self, metrics: Mapping[str, np.ndarray]
  ) -> list[sections.Section]:
    """Returns confusion matrix, accuracy per class and calibration."""
    return classification.report_sections(metrics, self.class_names)

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
    return self.class_names[label]

  def prediction_text(self, probabilities: np.ndarray) -> tuple[str, float]:
    """Returns the prediction in words, and its probability."""
    predicted = int(probabilities.argmax())
    return self.class_names[predicted], float(probabilities[predicted])

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
