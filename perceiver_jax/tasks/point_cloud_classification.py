"""Classification of point clouds (ModelNet40; Perceiver v2, section 4.3).

Shapes: b examples, M points, P classes, N latents.
"""

import functools
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.data.points import preprocessing, sampling, sources
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import classification
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import point_clouds, sections

_SUMMARY_SAMPLES = 8


class PointCloudClassification(classification.ClassificationMetrics, base.Task):
  """Classification of point clouds and meshes with one label each.

  A cloud with fewer points than `config.data.num_points` is padded, and the
  model does not read the padding; of a larger one, or of a mesh, random points
  are taken, in training others each time.

  Args:
    config: config with the sections `model` (see `models.zoo.build`) and
      `data`, and `label_smoothing`.
    metadata: names of the classes; if None, they are read from the source.

  Raises:
    UserError: the number of classes differs from that of the data, or there is
      no point.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config)
    if config.data.num_points < 1:
      raise UserError(
        f"config.data.num_points is {config.data.num_points}; give at least 1"
      )
    self.class_names = classification.class_names(
      config, metadata, lambda: self.source("eval")
    )

  def metadata(self) -> dict[str, Any]:
    """Returns the names of the classes."""
    return {"class_names": self.class_names}

  def dummy_batch(self) -> Batch:
    """Returns one empty cloud."""
    count = self._config.data.num_points
    return {
      "points": np.zeros((1, count, 3), np.float32),
      "point_mask": np.zeros((1, count), bool),
      "label": np.zeros(1, np.int32),
      "unreadable": np.zeros(1, np.float32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the clouds and the logits."""
    return classification.describe_model(
      {
        "points": "x, y and z of each point, z up: less the mean of the"
        " cloud's points, then divided by the largest absolute coordinate;"
        " padding is 0",
        "point_mask": "True at points, False at padding",
      }
    )

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> Source:
    """Returns the objects of a split, "train" or "eval"."""
    data = self._config.data
    split = data.train_split if split == "train" else data.eval_split
    arguments = data.source_args.to_dict().get(data.source, {})
    return sources.make_source(data.source, split=split, **arguments)

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Samples points, augments them in training, normalizes and pads them.

    Args:
      example: points, or a mesh; see `data.points.sampling`. The cloud may be
        empty.
      rng: random generator of training; None in evaluation.

    Returns:
      "points" float32 [M, 3], "point_mask" [M], True at real points, and the
      label, if there is one.
    """
    count = self._config.data.num_points
    if "points" in example:
      count = min(count, len(example["points"]))
    points = np.zeros((0, 3), np.float32)
    if count:
      points = sampling.sample(example, count, rng)
      if rng is not None:
        augmentation = self._config.data.augmentation.to_dict()
        points = preprocessing.augment(points, rng, **augmentation)
      points = preprocessing.normalize(points)
    points, mask = preprocessing.pad(points, self._config.data.num_points)
    others = {
      name: value
      for name, value in example.items()
      if name not in ("points", "vertices", "faces")
    }
    return {
      "unreadable": np.float32(0),
      **others,
      "points": points,
      "point_mask": mask,
    }

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, P] and, if asked for, attention."""
    return self.build_model()(
      batch["points"],
      is_training=is_training,
      input_mask=batch["point_mask"],
      return_attention=return_attention,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy with smoothed labels, and accuracy."""
    logits, smoothing = outputs.logits, self._config.label_smoothing
    one_hot = jnp.eye(logits.shape[-1])[batch["label"]]
    targets = optax.smooth_labels(one_hot, smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    ones = jnp.ones_like(losses)
    return {
      **classification.mean_metrics(logits, batch, losses),
      "unreadable": metrics_lib.weighted(batch["unreadable"], ones),
    }

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws clouds in the colors of the attention to their points."""
    samples = self.samples(outputs, batch)[:_SUMMARY_SAMPLES]
    return {"predictions": point_clouds.contact_sheet(samples)}

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns clouds that can be turned, and the sections on metrics."""
    samples = self.samples(outputs, batch)
    return [
      *classification.sample_sections(
        samples, batch, metrics, point_clouds.cloud_samples
      ),
      *classification.report_sections(metrics, self.class_names),
    ]

  def samples(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> list[point_clouds.CloudSample]:
    """Returns the clouds of a batch with predictions and attention.

    Args:
      outputs: result of `forward(..., return_attention="logits")`, on the host.
      batch: the clouds, with or without labels.
    """
    kind = self._config.model.encoder.get("kind", "perceiver")
    logits = np.asarray(outputs.logits, np.float32)
    samples = []
    for i, (points, mask) in enumerate(
      zip(np.asarray(batch["points"]), batch["point_mask"], strict=True)
    ):
      predicted = int(logits[i].argmax())
      label = self.class_names[batch["label"][i]] if "label" in batch else ""
      shares = np.exp(logits[i] - logits[i].max())
      attention = [np.asarray(x[i]) for x in outputs.encoder_attention]
      samples.append(
        point_clouds.CloudSample(
          points[mask],
          point_clouds.maps_of_attention(attention, mask, kind),
          label,
          self.class_names[predicted],
          float(shares[predicted] / shares.sum()),
        )
      )
    return samples
