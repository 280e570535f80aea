"""Masked autoencoding of images (Hierarchical Perceiver, arXiv 2202.10890).

Some pixels of an image are set to zero, and the model predicts them. It is
given no positions, and learns them because the prediction needs them.

Shapes: b examples, H x W x C pixels.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import transforms
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import image_data
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import (
  html,
  image_layout,
  learned_positions,
  sections,
)

_NUM_SAMPLES = 8
_RADIUS = 3  # Of the window in which the baseline interpolates, in pixels.


class MaskedAutoencoding(image_data.ImageTask):
  """Prediction of the masked pixels of images; labels are not used.

  Args:
    config: Config with the sections of `ImageTask`, and `data.mask_rate` and
      `data.mask_size` of `configs/hip.py`.
    metadata: Not used.

  Raises:
    UserError: A leaf is out of range, or images are to be mixed.
  """

  primary_metric = "eval/loss"
  primary_mode = "min"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config, metadata)
    rate, size = config.data.mask_rate, config.data.mask_size
    check_leaf("data.mask_rate", rate, 0 < rate < 1, "between 0 and 1")
    sides = self._shape[:2]
    divides = size >= 1 and not any(side % size for side in sides)
    check_leaf("data.mask_size", size, divides, f"a divisor of {sides}")
    self._squares = [side // size for side in sides]
    count = math.prod(self._squares)
    self._num_masked = round(rate * count)
    if not 0 < self._num_masked < count:
      raise UserError(
        f"config.data.mask_rate={rate} masks {self._num_masked} of {count}"
        f" squares of {size} x {size} pixels; lower config.data.mask_size, or"
        " change the rate, so that some are masked and some are not"
      )
    kind = config.model.decoder.kind
    is_known = kind == "hierarchical"
    check_leaf("model.decoder.kind", kind, is_known, "hierarchical")
    if self._mixes:
      raise UserError(
        "images are autoencoded one by one; set the leaves of config.mixing"
        " to 0"
      )

  def dummy_batch(self) -> Batch:
    """Returns one black image with its mask."""
    masked = np.zeros((1, *self._shape[:2]), bool)
    return {**super().dummy_batch(), "masked": masked}

  def describe_model(self) -> base.ModelDescription:
    """Describes images, masks and predictions."""
    return base.ModelDescription(
      {
        **self.describe_inputs(),
        "masked": "True at pixels [height, width] that the model must not see",
      },
      {"image": "the predicted pixels, row by row, as the input is scaled"},
    )

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Prepares an image and masks squares, the same ones in each evaluation."""
    example = super().preprocess(example, rng)
    if rng is None:
      rng = np.random.default_rng(zlib.crc32(example["image"].tobytes()))
    size = self._config.data.mask_size
    masked = rng.permutation(math.prod(self._squares)) < self._num_masked
    masked = masked.reshape(self._squares).repeat(size, 0).repeat(size, 1)
    return {**example, "masked": masked}

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Predicts all pixels; `logits` are those of "image" [b, H W, C]."""
    del return_attention  # The report shows what was predicted.
    seen = jnp.where(batch["masked"][..., None], 0, batch["image"])
    return self.build_model()(
      seen,
      is_training=is_training,
      dropout_keys=batch["rng"] if is_training else None,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the squared error of the masked pixels, and that of the others.

    Both are of normalized pixels.
    """
    error = jnp.square(self._images(outputs) - batch["image"]).mean(-1)
    weights = batch.get("mask", jnp.ones(len(error), jnp.float32))
    masked = batch["masked"]
    return {
      "loss": metrics_lib.weighted(_mean(error, masked), weights),
      "visible_error": metrics_lib.weighted(_mean(error, ~masked), weights),
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns losses and the PSNR of the masked pixels, in decibels.

    Also returns the loss and the PSNR of two baselines: the mean of the visible
    pixels, which knows no position, and a mean weighted by the distance to each
    visible pixel, which knows all of them.
    """
    image, masked = batch["image"], batch["masked"]
    metrics = {"psnr": self._psnr(self._images(outputs), image, masked)}
    for name, baseline in (
      ("visible_mean", _visible_mean(image, masked)),
      ("interpolation", _interpolated(image, masked)),
    ):
      error = jnp.square(baseline - image).mean(-1)
      metrics[f"loss_of_{name}"] = _mean(error, masked)
      metrics[f"psnr_of_{name}"] = self._psnr(baseline, image, masked)
    return {
      **self.loss(outputs, batch),
      **{
        name: metrics_lib.weighted(x, batch["mask"])
        for name, x in metrics.items()
      },
    }

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws what is visible, the prediction and the original."""
    table = np.asarray(outputs.latents.queries["image"])
    return {
      "predictions": self._sheet(outputs, batch),
      "learned_positions": learned_positions.figure(table, self._shape[:2]),
    }

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns predictions and the learned positions."""
    del metrics
    table = np.asarray(outputs.latents.queries["image"])
    sheet = self._sheet(outputs, batch)
    return [
      sections.Section(
        sections.SAMPLES,
        html.render("figure", image=sheet, alt="masked images, predictions"),
        "The input, with masked pixels in gray; the prediction, with the"
        " visible pixels kept; and the original.",
      ),
      learned_positions.section(table, self._shape[:2]),
    ]

  def _images(self, outputs: perceiver.Outputs) -> jax.Array:
    """Returns the predictions as images [b, H, W, C]."""
    pixels = outputs.logits["image"].astype(jnp.float32)
    return pixels.reshape(-1, *self._shape)

  def _psnr(
    self, prediction: jax.Array, image: jax.Array, masked: jax.Array
  ) -> jax.Array:
    """Returns the ratio [b] at masked pixels, with a peak of white."""
    scale = transforms.pixel_scale(self._config.data.normalization)
    error = jnp.square((prediction - image) * scale).mean(-1)
    return -10 * jnp.log10(jnp.maximum(_mean(error, masked), 1e-10))

  def _sheet(self, outputs: perceiver.Outputs, batch: Batch) -> np.ndarray:
    """Draws three images of each example, two examples to a row."""
    images = np.asarray(batch["image"])
    masked = np.asarray(batch["masked"])[..., None]
    predicted = np.where(masked, np.asarray(self._images(outputs)), images)
    tiles, titles = [], []
    for i in range(min(_NUM_SAMPLES, len(images))):
      original = self.pixels(images[i])
      visible = np.where(masked[i], np.uint8(128), original)
      tiles += [visible, self.pixels(predicted[i]), original]
      titles += ["visible", "predicted", "original"]
    return image_layout.contact_sheet(tiles, titles, 6)


def _mean(values: jax.Array, where: jax.Array) -> jax.Array:
  """Returns the mean [b] of some pixels [b, H, W]."""
  count = jnp.maximum(where.sum((1, 2)), 1)
  return jnp.where(where, values, 0).sum((1, 2)) / count


def _visible_mean(image: jax.Array, masked: jax.Array) -> jax.Array:
  """Returns the mean of the visible pixels of each image, everywhere."""
  visible = ~masked[..., None]
  count = jnp.maximum(visible.sum((1, 2), keepdims=True), 1)
  total = jnp.where(visible, image, 0).sum((1, 2), keepdims=True)
  return jnp.broadcast_to(total / count, image.shape)


def _interpolated(image: jax.Array, masked: jax.Array) -> jax.Array:
  """Returns a mean of visible pixels, weighted by a Gaussian of one pixel."""
  offsets = jnp.arange(-_RADIUS, _RADIUS + 1)
  bell = jnp.exp(-jnp.square(offsets) / 2)
  kernel = (bell[:, None] * bell)[..., None, None]

  def blur(x):  # Each channel on its own.
    channels = x.shape[-1]
    return jax.lax.conv_general_dilated(
      x,
      jnp.repeat(kernel, channels, axis=-1),
      (1, 1),
      "SAME",
      dimension_numbers=_CHANNELS_LAST,
      feature_group_count=channels,
    )

  visible = (~masked[..., None]).astype(jnp.float32)
  weight = blur(visible)
  mean = _visible_mean(image, masked)
  # Far from every visible pixel, it is the mean of all of them.
  return (blur(image * visible) + 1e-3 * mean) / (weight + 1e-3)


_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
