"""AudioSet: classification of audio and video.

Reproduces Perceiver v2, Table 3, and Perceiver IO v3, Table 10.

Shapes: b examples, T frames, S samples, P classes; C clips of the held-out set,
each seen in several windows.
"""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax.data.core.source import Example, check_several_classes
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import multilabel_metrics
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import classification, clip_data
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import (
  attention_maps,
  attention_sections,
  clip_media,
  image_layout,
  sections,
)

MODALITIES = ("audio", "image")
_COLUMNS = 4
# Number of predicted classes in the caption of a clip.
_TOP_CLASSES = 3
# Number of latents whose attention the report shows.
_LATENTS = 3


class AudioSet(clip_data.ClipTask):
  """Classification of audio and video with any number of labels.

  The modalities of `config.model.adapter`, "audio", "image" or both, are the
  model's inputs.

  Args:
    config: config with the sections `model` (see `models.zoo.build`) and `data`
      of `configs/audioset.py`.
    metadata: names of the classes; if None, they are read from the source.

  Raises:
    UserError: the modalities or the number of classes do not match, or all
      clips have the same single class.
  """

  primary_metric = "eval/mAP"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    self._modalities = sorted(config.model.adapter.modalities)
    if not set(self._modalities) <= set(MODALITIES):
      raise UserError(
        "config.model.adapter.modalities has"
        f" {', '.join(self._modalities)}; choose among {', '.join(MODALITIES)}"
      )
    super().__init__(config, metadata, modalities=tuple(self._modalities))
    # Clips without a label can be told from those of a single class.
    if metadata is None and all(self._clips.held_out.labels):
      check_several_classes(self._class_names, "the labeled clips")
    if config.model.num_classes != len(self._class_names):
      raise UserError(
        f"config.model.num_classes is {config.model.num_classes} but the data"
        f" has {len(self._class_names)} classes; make them equal"
      )

  def dummy_batch(self) -> Batch:
    """Returns one silent, gray window."""
    window, example = self._window, {}
    if window.num_frames:
      shape = (window.num_frames, *window.size, 3)
      example["image"] = np.zeros(shape, np.uint8)
    if window.num_samples:
      example["audio"] = np.zeros((window.num_samples, 1), np.float32)
    example = self._preprocessing.evaluate(example)
    return {
      **{name: value[None] for name, value in example.items()},
      "label": np.zeros((1, len(self._class_names)), np.float32),
      "unreadable": np.zeros(1, np.float32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the clips and the logits."""
    return classification.describe_model(self.describe_inputs(), "sigmoid")

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, P]."""
    return self.build_model()(
      {name: batch[name] for name in self._modalities},
      is_training=is_training,
      return_attention=return_attention,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns binary cross-entropy and the share of unreadable clips."""
    ones = jnp.ones(batch["label"].shape[0], jnp.float32)
    return {
      "loss": metrics_lib.weighted(_losses(outputs, batch), ones),
      "unreadable": metrics_lib.weighted(batch["unreadable"], ones),
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the mean loss, and sums over the windows of each clip.

    `finalize_metrics` computes mAP, AUC and d' from the class probabilities,
    [C, P], summed over the windows that can be read.
    """
    mask = batch["mask"]
    count = self.num_eval_examples()
    clip = batch["index"] % count  # See `windows.EvenWindows`.
    probabilities = jax.nn.sigmoid(outputs.logits.astype(jnp.float32))
    return {
      "loss": metrics_lib.weighted(_losses(outputs, batch), mask),
      **multilabel_metrics.sum_rows(
        {"probabilities": probabilities}, clip, count, mask
      ),
    }

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, dict[str, Any]]:
    """Computes mAP, AUC and d' of each clip's mean probabilities."""
    labels = self._label_matrix()
    finalized = {}
    for name, means in metrics.items():
      is_read, averages = multilabel_metrics.row_means(
        means, ["probabilities"], "clip"
      )
      finalized[name] = {
        "loss": means["loss"],
        **multilabel_metrics.summary(
          labels[is_read], averages["probabilities"]
        ),
        "unreadable": 1 - is_read.mean(),
      }
    return finalized

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws the middle frame of each clip, if the model takes video."""
    if "image" not in batch:
      return {}
    middle = self._preprocessing.pixels(
      batch["image"][:, batch["image"].shape[1] // 2]
    )
    predictions = np.asarray(outputs.logits).argmax(-1)
    titles = [self._class_names[i] for i in predictions]
    return {
      "predictions": image_layout.contact_sheet(list(middle), titles, _COLUMNS)
    }

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns playable held-out clips, and the metrics of each class."""
    samples = []
    for index, (labels, predictions) in zip(
      batch["index"], self._captions(outputs, batch), strict=True
    ):
      window = self._clips.held_out_windows[int(index)]
      captions = {"labels": labels, "predictions": predictions}
      samples.append(sections.ClipSample(self._media(window), captions))
    attention = [np.asarray(x[0]) for x in outputs.encoder_attention]
    figure = self.attention_figure(
      {name: batch[name][0] for name in self._modalities},
      attention,
      attention_maps.choose_latents(attention[0].shape[1], _LATENTS),
    )
    return [
      sections.clip_samples(samples),
      attention_sections.latent_attention(figure),
      sections.class_metrics(self._class_names, metrics),
    ]

  def _media(self, window: Example) -> list[sections.Media]:
    return clip_media.encode(
      "",
      window.get("image"),
      window.get("audio"),
      self._window.fps,
      self._window.sample_rate,
    )

  def _captions(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> list[tuple[str, str]]:
    """Returns the labels of each example, and the most probable classes."""
    captions = []
    logits = np.asarray(outputs.logits, np.float32)
    for row, probabilities in zip(
      batch["label"], np.asarray(jax.nn.sigmoid(logits)), strict=True
    ):
      labels = [self._class_names[i] for i in np.flatnonzero(row)]
      predictions = [
        f"{self._class_names[i]} {probabilities[i]:.0%}"
        for i in np.argsort(-probabilities)[:_TOP_CLASSES]
      ]
      captions.append(("; ".join(labels) or "none", "; ".join(predictions)))
    return captions

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Reads a random window in training, and preprocesses the window."""
    return self._preprocess_window(example, rng)

  def _label_matrix(self) -> np.ndarray:
    """Returns the multi-hot labels [C, P] of the held-out clips."""
    labels = self._clips.held_out.labels
    matrix = np.zeros((len(labels), len(self._class_names)), np.int32)
    for row, classes in zip(matrix, labels, strict=True):
      row[list(classes)] = 1
    return matrix


def _losses(outputs: perceiver.Outputs, batch: Batch) -> jax.Array:
  """Returns binary cross-entropy [b] of each example, averaged over classes."""
  logits = outputs.logits.astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(logits, batch["label"]).mean(-1)
