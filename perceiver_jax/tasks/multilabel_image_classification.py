"""Image classification with any number of labels per image (IO, app. A.2).

Shapes: b examples, H x W x C pixels, P classes; S images of the held-out set.
"""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax.data.core.source import Example, Source, multi_hot
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import multilabel_metrics
from perceiver_jax.models import perceiver
from perceiver_jax.tasks import image_classification
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections

# A label is predicted if its probability is at least this.
THRESHOLD = 0.5
# Limits the probabilities of an evaluation, S x P, to 0.5 GiB of float32.
_MAX_RANKED = 2**27


class MultilabelImageClassification(image_classification.ImageClassification):
  """Classification of images with any number of labels each.

  Each class is a decision of its own: the loss is the binary cross-entropy,
  summed over classes. Sources with one label per image work as well.

  Args:
    config: config as for `ImageClassification`, without label smoothing.
    metadata: names of the classes; if None, they are read from the source.

  Raises:
    UserError: the config has label smoothing, or the number of classes differs
      from that of the data.
  """

  activation = "sigmoid"
  primary_metric = "eval/mAP"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    if config.label_smoothing:
      raise UserError(
        f"config.label_smoothing is {config.label_smoothing}; give 0, since"
        " labels with separate probabilities are not smoothed"
      )
    super().__init__(config, metadata)

  def dummy_batch(self) -> Batch:
    """Returns one black image without labels, with its partner if mixed."""
    batch = super().dummy_batch()
    labels = np.zeros((1, len(self.class_names)), np.float32)
    names = [name for name in batch if name.endswith("label")]
    return {**batch, **dict.fromkeys(names, labels)}

  def prepare_batch(self, batch: Batch) -> Batch:
    """Mixes images and their labels with those of their partners."""
    mixed, partner_label = self.mix(batch)
    weights = mixed.weights[:, None]
    targets = weights * batch["label"] + (1 - weights) * partner_label
    return {**batch, "image": mixed.images, "targets": targets}

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns binary cross-entropy, precision at 1 and unreadable images."""
    ones = jnp.ones(outputs.logits.shape[0], jnp.float32)
    return {
      **self._means(outputs, batch["targets"], ones),
      "unreadable": metrics_lib.weighted(self.unreadable(batch), ones),
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns means, and the probabilities and labels of each image.

    The latter are sums [S, P] in which each image has its own row;
    `finalize_metrics` ranks them.
    """
    probabilities = self.probabilities(outputs.logits.astype(jnp.float32))
    return {
      **self._means(outputs, batch["label"], batch["mask"]),
      **multilabel_metrics.sum_rows(
        {"probabilities": probabilities, "labels": batch["label"]},
        batch["index"],
        self.num_eval_examples(),
        batch["mask"],
      ),
    }

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, dict[str, Any]]:
    """Computes mAP, AUC and d' from the ranking of the images."""
    finalized = {}
    for name, means in metrics.items():
      _, rows = multilabel_metrics.row_means(
        means, ["probabilities", "labels"], "image"
      )
      finalized[name] = {
        "loss": means["loss"],
        "precision_at_1": means["precision_at_1"],
        **multilabel_metrics.summary(
          np.round(rows["labels"]).astype(np.int32), rows["probabilities"]
        ),
      }
    return finalized

  def sample_indices(self, metrics: Mapping[str, np.ndarray]) -> list[int]:
    """Returns none, for the first images of the evaluation set."""
    del metrics
    return []

  def _sample_sections(
    self,
    samples: list[sections.ImageSample],
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    del batch, metrics
    return [sections.image_samples(samples)]

  def _metric_sections(
    self, metrics: Mapping[str, np.ndarray]
  ) -> list[sections.Section]:
    """Returns the metrics of each class."""
    return [sections.class_metrics(self.class_names, metrics)]

  def probabilities(self, logits: jax.Array) -> jax.Array:
    """Returns the probability of each class [..., P]."""
    return jax.nn.sigmoid(logits)

  def label_text(self, label: np.ndarray) -> str:
    """Returns the names of the labels of an example."""
    names = [self.class_names[i] for i in np.flatnonzero(label)]
    return "; ".join(names) or "none"

  def prediction_text(self, probabilities: np.ndarray) -> tuple[str, float]:
    """Returns the predicted labels, and the probability of exactly these."""
    predicted = probabilities >= THRESHOLD
    joint = np.where(predicted, probabilities, 1 - probabilities).prod()
    return self.label_text(predicted), float(joint)

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Preprocesses the image; a single label becomes multi-hot."""
    example = super().preprocess(example, rng)
    if np.ndim(example["label"]):
      return example
    label = multi_hot(example["label"], self._config.model.num_classes)
    return {**example, "label": label}

  def source(self, split: str) -> Source:
    """Returns the images of a split, "train" or "eval".

    Raises:
      UserError: the evaluation split has too many images to rank.
    """
    source = super().source(split)
    size = len(source) * source.num_classes
    if split == "eval" and size > _MAX_RANKED:
      fitting = _MAX_RANKED // source.num_classes
      raise UserError(
        f"config.data.eval_split={self._config.data.eval_split} has"
        f" {len(source):,} images, which mAP ranks for each of"
        f" {source.num_classes:,} classes; give a split of at most"
        f" {fitting:,} images"
      )
    return source

  def _check_label(self, label: np.ndarray) -> None:
    """Accepts any label: `preprocess` returns multi-hot labels."""

  def _means(
    self, outputs: perceiver.Outputs, targets: jax.Array, weights: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns the loss, and the precision of the most likely class."""
    logits = outputs.logits.astype(jnp.float32)
    losses = optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
    first = jnp.take_along_axis(targets, logits.argmax(-1)[:, None], 1)[:, 0]
    return {
      "loss": metrics_lib.weighted(losses, weights),
      "precision_at_1": metrics_lib.weighted(first > 0, weights),
    }
