"""Autoencoding of video, audio and label together (Perceiver IO, app. I).

Training decodes a few points of each example. Evaluation decodes everything, in
parts, with the label masked, so that the decoded label is a classification.
Shapes: b examples, T frames, H x W pixels, S samples, P classes, O points.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from absl import logging
from jax import numpy as jnp

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.clips import windows
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import decoding
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import clip_data
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import clip_media, image_layout, plots, sections

_COLUMNS = 6
# Modalities of which a subset of points is decoded in training.
_GRIDS = ("audio", "image")
# Number of training clips that are averaged to the mean frame, a baseline.
_NUM_AVERAGED = 64


class Kinetics(clip_data.ClipTask):
  """Autoencoding of video, audio and label together.

  Args:
    config: config with `loss_weights`, `num_queries` and the sections `model`
      (see `models.zoo.build`) and `data` of `configs/kinetics.py`.
    metadata: names of the classes; if None, they are read from the source.

  Raises:
    UserError: the model and the data are incompatible.
  """

  primary_metric = "eval/video_psnr"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config, metadata, modalities=_GRIDS, one_class=True)
    self._check_model()

  def dummy_batch(self) -> Batch:
    """Returns one silent, black window with a few points to decode."""
    window = self._window
    shape = (1, window.num_frames, *window.size, 3)
    return {
      "image": np.zeros(shape, np.float32),
      "audio": np.zeros((1, window.num_samples, 1), np.float32),
      "label": np.zeros((1, len(self._class_names)), np.float32),
      "label_masked": np.ones(1, bool),
      **{
        f"{name}_queries": np.zeros((1, self._num_queries(name)), np.int32)
        for name in _GRIDS
      },
      "unreadable": np.zeros(1, np.float32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def dummy_eval_batch(self) -> Batch:
    """Returns a batch without points to decode, since all are decoded."""
    batch = self.dummy_batch()
    return {k: x for k, x in batch.items() if not k.endswith("_queries")}

  def describe_model(self) -> base.ModelDescription:
    """Describes clips, labels and their reconstructions."""
    inputs = {
      **self.describe_inputs(),
      "label": "one-hot labels; any values where they are masked",
      "label_masked": "True where the label is not given, so that the decoded"
      " one is a classification",
    }
    outputs = {
      "image": "the reconstructed frames, as the input is scaled",
      "audio": "the reconstructed samples, from -1 to 1",
      "label": "logits of the classes; their softmax is the probabilities",
    }
    return base.ModelDescription(inputs, outputs)

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Decodes the points given in the batch, or everything if there are none.

    Returns:
      Outputs whose `logits` are `image` [b, O, 3] or [b, T, H, W, 3], `audio`
      [b, O, samples of a patch] or [b, S, 1] and `label` [b, P].
    """
    del return_attention  # It would not fit into memory.
    model = functools.partial(
      self.build_model(),
      {
        **{name: batch[name] for name in (*_GRIDS, "label")},
        "masked": {"label": batch["label_masked"]},
      },
      is_training=is_training,
    )
    if "image_queries" in batch:
      return model(queries={name: batch[f"{name}_queries"] for name in _GRIDS})
    shapes = {name: self._grid(name) for name in _GRIDS}
    outputs = decoding.decode_all(model, shapes, self._config.num_parts)
    audio = outputs.logits["audio"].reshape(batch["audio"].shape)
    return outputs._replace(logits=outputs.logits | {"audio": audio})

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the weighted sum of the losses at the points, and each loss."""
    targets = {
      "image": batch["image"].reshape(batch["image"].shape[0], -1, 3),
      "audio": self._patches(batch["audio"]),
    }
    points = {
      name: jnp.take_along_axis(x, batch[f"{name}_queries"][..., None], axis=1)
      for name, x in targets.items()
    }
    ones = jnp.ones(batch["label"].shape[0], jnp.float32)
    losses = self._losses(outputs.logits, {**batch, **points}, ones)
    correct = self._is_correct(outputs, batch, 1)
    return {
      **losses,
      "accuracy": metrics_lib.weighted(correct, batch["label_masked"]),
      "unreadable": metrics_lib.weighted(batch["unreadable"], ones),
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns losses, accuracy, and PSNR of video and audio in decibels.

    Also returns the PSNR of trivial baselines: the mean frame of training clips
    (if there are any), each clip's own mean frame, and silence.
    """
    mask, decoded = batch["mask"], outputs.logits
    image, audio = batch["image"], batch["audio"]
    own_mean = jnp.broadcast_to(image.mean(axis=1, keepdims=True), image.shape)
    ratios = {
      "video_psnr": metrics_lib.psnr(decoded["image"].clip(0, 1), image),
      "audio_psnr": metrics_lib.psnr(decoded["audio"].clip(-1, 1), audio),
      "video_psnr_of_own_mean": metrics_lib.psnr(own_mean, image),
      "audio_psnr_of_silence": metrics_lib.psnr(jnp.zeros_like(audio), audio),
      "accuracy": self._is_correct(outputs, batch, 1),
    }
    if self._mean_frame is not None:
      ratios["video_psnr_of_mean_frame"] = metrics_lib.psnr(
        jnp.broadcast_to(self._mean_frame, image.shape), image
      )
    if len(self._class_names) > 5:
      ratios["top_5_accuracy"] = self._is_correct(outputs, batch, 5)
    return {
      **self._losses(decoded, batch, mask),
      **{name: metrics_lib.weighted(x, mask) for name, x in ratios.items()},
    }

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws the middle frame of each clip next to its reconstruction."""
    middle = self._window.num_frames // 2
    tiles, titles = [], []
    for image, decoded, (label, prediction) in zip(
      batch["image"],
      outputs.logits["image"],
      self._captions(outputs, batch),
      strict=True,
    ):
      tiles += [self._pixels(image[middle]), self._pixels(decoded[middle])]
      titles += [label, prediction]
    return {
      "reconstructions": image_layout.contact_sheet(tiles, titles, _COLUMNS)
    }

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns playable held-out clips next to their reconstructions."""
    del metrics
    decoded = jax.tree.map(np.asarray, outputs.logits)
    video = metrics_lib.psnr(decoded["image"].clip(0, 1), batch["image"])
    audio = metrics_lib.psnr(decoded["audio"].clip(-1, 1), batch["audio"])
    rates = self._window.fps, self._window.sample_rate
    samples = []
    for i, (label, prediction) in enumerate(self._captions(outputs, batch)):
      captions = {
        "label": label,
        "prediction": prediction,
        "PSNR": f"video {video[i]:.1f} dB, audio {audio[i]:.1f} dB",
      }
      both = image_layout.side_by_side(
        {
          name: clip_media.enlarge(self._pixels(clips["image"][i]))
          for name, clips in (("original", batch), ("decoded", decoded))
        }
      )
      media = clip_media.encode(
        "with the decoded audio", both, decoded["audio"][i], *rates
      )
      media += clip_media.encode(
        "the original audio", None, batch["audio"][i], *rates
      )
      sounds = {"original": batch["audio"][i], "decoded": decoded["audio"][i]}
      plot = plots.audio_comparison(
        {name: sound[:, 0] for name, sound in sounds.items()}, rates[1]
      )
      alt = "waveforms and spectrograms of the original and the decoded audio"
      samples.append(sections.ClipSample(media, captions, [(plot, alt)]))
    return [sections.clip_samples(samples)]

  def _check_model(self) -> None:
    """Raises UserError if the sizes of the model and the data differ."""
    outputs, window = self._config.model.decoder.outputs, self._window
    expected = {
      "image.shape": (window.num_frames, *window.size),
      "audio.shape": (window.num_samples // outputs.audio.num_outputs,),
      "label.num_outputs": len(self._class_names),
    }
    for leaf, value in expected.items():
      name, field = leaf.split(".")
      given = outputs[name][field]
      if (tuple(given) if isinstance(value, tuple) else given) != value:
        raise UserError(
          f"config.model.decoder.outputs.{leaf} is {given}, but config.data"
          f" gives {value}; make them equal"
        )
    for name in _GRIDS:
      count, maximum = self._num_queries(name), math.prod(self._grid(name))
      is_valid = 1 <= count <= maximum
      check_leaf(f"num_queries.{name}", count, is_valid, f"1 to {maximum}")
    num_parts = self._config.num_parts
    check_leaf("num_parts", num_parts, num_parts >= 1, "1 or more")

  def _num_queries(self, name: str) -> int:
    return self._config.num_queries[name]

  def _grid(self, name: str) -> tuple[int, ...]:
    return tuple(self._config.model.decoder.outputs[name].shape)

  def _patches(self, audio: jax.Array) -> jax.Array:
    """Splits audio [b, S, 1] into the patches that are decoded."""
    return audio.reshape(audio.shape[0], *self._grid("audio"), -1)

  def _losses(
    self, decoded: Mapping[str, jax.Array], batch: Batch, weights: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns the paper's three losses, averaged per example, and their sum."""
    distance = lambda name: jnp.abs(
      decoded[name].astype(jnp.float32) - batch[name]
    ).mean(tuple(range(1, batch[name].ndim)))
    each = {
      "image": distance("image"),
      "audio": distance("audio"),
      "label": optax.softmax_cross_entropy(decoded["label"], batch["label"]),
    }
    total = sum(self._config.loss_weights[name] * x for name, x in each.items())
    metrics = {"loss": metrics_lib.weighted(total, weights)}
    for name, losses in each.items():
      metrics[f"{name}_loss"] = metrics_lib.weighted(losses, weights)
    return metrics

  def _is_correct(
    self, outputs: perceiver.Outputs, batch: Batch, k: int
  ) -> jax.Array:
    labels = batch["label"].argmax(-1)
    return metrics_lib.in_top_k(outputs.logits["label"], labels, k)

  def _captions(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> list[tuple[str, str]]:
    """Returns the class of each example, and the predicted class."""
    probabilities = np.asarray(jax.nn.softmax(outputs.logits["label"]))
    names = self._class_names
    return [
      (names[label.argmax()], f"{names[p.argmax()]} {p.max():.0%}")
      for label, p in zip(batch["label"], probabilities, strict=True)
    ]

  def _pixels(self, images: np.ndarray) -> np.ndarray:
    return self._preprocessing.pixels(np.asarray(images))

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Makes a window; in training, also draws the points to decode."""
    prepared = self._preprocess_window(example, rng)
    if rng is None:
      return {**prepared, "label_masked": np.bool_(True)}
    for name in _GRIDS:
      points = math.prod(self._grid(name))
      prepared[f"{name}_queries"] = rng.integers(
        points, size=self._num_queries(name), dtype=np.int32
      )
    masked = rng.random() < self._config.label_mask_rate
    return {**prepared, "label_masked": np.bool_(masked)}

  @functools.cached_property
  def _mean_frame(self) -> np.ndarray | None:
    """Returns the mean frame of some training clips, float32 [H, W, 3].

    Returns None if the training split is missing, for example when evaluating
    on another machine.
    """
    try:
      train = self._clips.train
    except UserError as error:
      logging.warning("no mean frame to compare with: %s", error)
      return None
    source = windows.even_windows(
      train, self._window, 1, self._data.max_unreadable_share
    )
    numbers = np.unique(
      np.linspace(0, len(source) - 1, _NUM_AVERAGED).astype(int)
    )
    read = lambda i: self._preprocessing.evaluate(source[int(i)])["image"]
    return np.mean([read(i).mean(axis=0) for i in numbers], axis=0)
