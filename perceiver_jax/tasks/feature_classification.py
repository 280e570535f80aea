"""Classification of clips from the features of a frozen encoder.

Shapes: b examples, T frames, S features of a frame, C channels, P classes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
import optax

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.clips import events
from perceiver_jax.data.core.source import Example, Source, make_named
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import classification
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections

SOURCES = {"events": events.Events}


class FeatureClassification(classification.ClassificationMetrics, base.Task):
  """Classification of clips with one label each.

  Clips with fewer than `config.data.num_frames` frames are padded, and the
  model does not read the padding.

  Args:
    config: config with the sections `model` (see `models.zoo.build`) and
      `data` of `configs/resampler.py`.
    metadata: names of the classes; if None, they are read from the source.

  Raises:
    UserError: the number of classes differs from that of the data, or there is
      no frame.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config)
    frames = config.data.num_frames
    check_leaf("data.num_frames", frames, frames >= 1, "1 or more")
    self.class_names = classification.class_names(
      config, metadata, lambda: self.source("eval")
    )

  def metadata(self) -> dict[str, Any]:
    """Returns the names of the classes."""
    return {"class_names": self.class_names}

  def dummy_batch(self) -> Batch:
    """Returns one clip of padding."""
    features = self.source("eval")[0]["features"]
    frames, (_, count, channels) = self._config.data.num_frames, features.shape
    return {
      "features": np.zeros((1, frames, count, channels), np.float32),
      "frame_mask": np.zeros((1, frames), bool),
      "label": np.zeros(1, np.int32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the features and the logits."""
    return classification.describe_model(
      {
        "features": "features of each frame, from the frozen encoder; padding"
        " is 0",
        "frame_mask": "True at frames, False at padding",
      }
    )

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> Source:
    """Returns the clips of a split, "train" or "eval"."""
    data = self._config.data
    split = data.train_split if split == "train" else data.eval_split
    arguments = data.source_args.to_dict().get(data.source, {})
    return make_named(
      SOURCES, data.source, "features", {**arguments, "split": split}
    )

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Pads the frames of a clip.

    Raises:
      UserError: it has more frames than `config.data.num_frames`.
    """
    del rng
    features, most = example["features"], self._config.data.num_frames
    count = len(features)
    if count > most:
      raise UserError(
        f"a clip has {count} frames, and config.data.num_frames is {most}: set"
        " it, and config.model.adapter.num_frames, to the most of any clip"
      )
    padding = [(0, most - count), (0, 0), (0, 0)]
    return {
      "features": np.pad(features, padding),
      "frame_mask": np.arange(most) < count,
      "label": example["label"],
    }

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, P]."""
    count = batch["features"].shape[2]
    return self.build_model()(
      batch["features"],
      is_training=is_training,
      input_mask=batch["frame_mask"].repeat(count, axis=1),
      return_attention=return_attention,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy and accuracies."""
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs.logits, batch["label"]
    )
    return classification.mean_metrics(outputs.logits, batch, losses)

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns the sections on metrics."""
    del outputs, batch
    return classification.report_sections(metrics, self.class_names)
