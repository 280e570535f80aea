"""Optical flow from two frames (Perceiver IO, section 4.2 and app. H).

Shapes: b pairs, H x W pixels of the model's frames.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from perceiver_jax import checks
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.flow import augmentation as flow_augmentation
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.flow import time_reversal
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import flow_benchmarks, flow_metrics
from perceiver_jax.models import perceiver
from perceiver_jax.models.modalities import flow as flow_adapter
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import config_checks, step
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import flow_images, sections

LOSSES = ("epe", "robust")
# Constants of PWC-Net's robust loss, (|x| + |y| + e)^q, for flow divided by 20.
_ROBUST_SHIFT, _ROBUST_POWER = 0.01, 0.4
# Added under the square root of the end-point error, whose gradient is
# infinite at zero.
_SQUARE_SHIFT = 1e-6
_NUM_DRAWN = 4


class OpticalFlow(base.Task):
  """Optical flow of pairs of frames.

  Args:
    config: config with `loss` and the sections `model` (see `models.zoo.build`)
      and `data` of `configs/optical_flow.py`.
    metadata: not used.

  Raises:
    UserError: a leaf is out of range.
  """

  primary_metric, primary_mode = "eval/epe", "min"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config, metadata)
    self.published = {
      name if name == "source" else f"{name}/epe": value
      for name, value in config.published.items()
    }
    self._size = tuple(config.model.decoder.image_size)
    checks.check_leaf_choice("loss", config.loss, LOSSES)
    for name, share in config.data.curriculum.items():
      checks.check_leaf(
        f"data.curriculum.{name}",
        share,
        0 <= share <= 1,
        "a share of the run, from 0 to 1",
      )
    self._augmentation = flow_augmentation.make_augmentation(
      config.data.augmentation.to_dict()
    )

  def dummy_batch(self) -> Batch:
    """Returns a black pair without motion."""
    grid = (1, *self._size)
    return {
      "frames": np.zeros((1, 2, *self._size, 3), np.uint8),
      "flow": np.zeros((*grid, 2), np.float32),
      "valid": np.ones(grid, bool),
      "occluded": np.zeros(grid, bool),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the frames and the flow."""
    height, width = self._size
    return base.ModelDescription(
      {
        "frames": f"two RGB frames of {width} x {height} pixels [frame, height,"
        " width, channel], values from 0 to 255"
      },
      {
        "logits": "the displacement (x, y) of each pixel of the first frame, in"
        f" units of {flow_adapter.PIXELS_PER_UNIT:g} pixels"
      },
    )

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns flow [b, H, W, 2] in the model's unit, and attention."""
    spec = self._config.model.to_dict()
    if self._config.get("sync_batch_norm", True):
      spec["adapter"].setdefault("cross_replica_axis", step.AXIS)
    frames = jnp.asarray(batch["frames"], jnp.float32) / 127.5 - 1
    return self.build_model(spec)(
      frames, is_training=is_training, return_attention=return_attention
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the mean error over each pair's known pixels, and `epe`.

    The paper does not state its loss. The loss `epe` is the end-point error in
    pixels; `robust` is PWC-Net's loss for fine-tuning, (|x| + |y| + 0.01)^0.4,
    where x and y are differences in units of 20 pixels, as PWC-Net and
    AutoFlow's code scale flow.
    """
    predicted = _in_pixels(outputs)
    valid = batch["valid"]  # bool, to transfer fewer bytes.
    # Unknown flow is arbitrary, and must not contribute to the gradient.
    flow = jnp.where(valid[..., None], batch["flow"], 0)
    difference = jnp.where(valid[..., None], predicted - flow, 0)
    if self._config.loss == "epe":
      squares = jnp.sum(difference**2, -1)
      error = jnp.sqrt(squares + _SQUARE_SHIFT)
    else:
      distance = jnp.sum(jnp.abs(difference), -1) / flow_adapter.PIXELS_PER_UNIT
      error = (distance + _ROBUST_SHIFT) ** _ROBUST_POWER
    known = jnp.maximum(jnp.sum(valid, (1, 2)), 1)
    losses = jnp.sum(error * valid, (1, 2)) / known
    metrics = flow_metrics.compute_metrics(predicted, flow, valid, None)
    return {
      "loss": metrics_lib.weighted(losses, jnp.ones_like(losses)),
      "epe": metrics["epe"],
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the means over pixels of `flow_metrics.compute_metrics`."""
    valid = batch["valid"] * batch["mask"][:, None, None]
    return flow_metrics.compute_metrics(
      _in_pixels(outputs), batch["flow"], valid, batch.get("occluded")
    )

  def train_dataset(
    self, *, global_batch: int, **options: Any
  ) -> grain.IterDataset:
    """Returns endless batches, augmented according to the curriculum."""
    return super().train_dataset(
      global_batch=global_batch,
      transform=None,
      curriculum=self._augment,
      num_doubled=self._opening,
      **options,
    )

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Crops the center of a held-out pair; `train_dataset` augments others."""
    del rng
    example = flow_augmentation.resized_crop(example, None, self._size)
    if not self.source("eval").knows_occlusion:
      del example["occluded"]
    return _known(example)

  def benchmarks(
    self, predict: Callable[[Batch], perceiver.Outputs]
  ) -> dict[str, flow_benchmarks.FlowBenchmark]:
    """Returns the data sets of `config.data.benchmarks`, at full resolution."""
    data = self._config.data.to_dict()
    in_pixels = lambda outputs: np.asarray(_in_pixels(outputs))
    return {
      name: flow_benchmarks.FlowBenchmark(
        name,
        source,
        lambda frames: in_pixels(predict({"frames": frames})),
        self._size,
        data["benchmarks"]["tiles"],
        jax.local_device_count(),
      )
      for name, source in flow_benchmarks.sources(data).items()
    }

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws frames, target, prediction and error of some pairs."""
    samples = self._samples(outputs, batch)[:_NUM_DRAWN]
    return {"flow": flow_images.contact_sheet(samples)}

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns notes on the metrics, and samples."""
    notes = [
      "Errors are in pixels of the model's frames and of the center crop of"
      " each held-out pair."
    ]
    if "zero_epe" in metrics:
      zero_epe = float(metrics["zero_epe"])
      notes.append(f"Predicting zero flow everywhere gives {zero_epe:.3g}.")
    if self._config.data.eval_source == "rendered":
      notes.append(
        "The held-out pairs are synthetic, rendered with textures that are not"
        " in the training set; their target flow is exact."
      )
    sheet = flow_images.contact_sheet(self._samples(outputs, batch))
    return [sections.notes(notes), sections.flow_samples(sheet)]

  def _samples(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> list[flow_images.FlowSample]:
    frames = np.asarray(batch["frames"])
    known = np.asarray(batch["valid"])[..., None]
    targets = np.where(known, batch["flow"], np.nan)
    predictions = np.asarray(_in_pixels(outputs), np.float32)
    return list(map(flow_images.FlowSample, frames, targets, predictions))

  @functools.cached_property
  def _total(self) -> int:
    """Returns the number of pairs in all of training."""
    config = self._config
    steps = config_checks.num_steps(config, self.num_train_examples())
    return steps * config.batch_size

  @property
  def _opening(self) -> int:
    """Returns the number of pairs in the opening phase.

    Each pair of that phase is used forward and reversed in time.
    """
    share = self._config.data.curriculum.opening_share
    return round(share * self._total) // 2 * 2

  def _severity(self, position: int) -> float:
    """Returns the severity of augmentation: 0 in the opening, rising to 1."""
    share = self._config.data.curriculum.rise_share
    after = position - self._opening
    if after < 0:
      return 0.0
    return min(1.0, after / max(1, share * self._total))

  def _augment(
    self, example: Example, rng: np.random.Generator, position: int
  ) -> Example:
    """Augments a training pair, given the number of pairs before it."""
    if position < self._opening and position % 2:
      example = time_reversal.reverse(example)
    severity = self._severity(position)
    return _known(
      flow_augmentation.augment(
        example, rng, self._augmentation, self._size, severity
      )
    )

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> flow_sources.FlowSource:
    """Returns the pairs of a split, "train" or "eval"."""
    data, role = self._config.data, split
    train = role == "train"
    name = data.train_source if train else data.eval_source
    arguments = data.source_args.to_dict().get(name, {})
    split = data.train_split if train else data.eval_split
    source = flow_sources.make_flow_source(name, split=split, **arguments)
    if not source.has_ground_truth:
      raise UserError(
        f"the {split!r} split of {name!r} has no ground truth; set"
        f" config.data.{role}_split=train, or config.data.{role}_source to"
        " another source"
      )
    return source


def _in_pixels(outputs: perceiver.Outputs) -> jax.Array:
  return flow_adapter.in_pixels(jnp.asarray(outputs.logits, jnp.float32))


def _known(example: Example) -> Example:
  """Adds a mask of known flow, and replaces NaN in the flow."""
  valid = np.isfinite(example["flow"]).all(-1)
  flow = np.where(valid[..., None], example["flow"], 0)
  return {**example, "flow": flow.astype(np.float32), "valid": valid}
