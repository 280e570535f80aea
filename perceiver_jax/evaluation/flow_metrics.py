"""Metrics of optical flow: end-point errors and outliers.

Shapes: b pairs, H x W pixels. Every metric is a (sum, count) over pixels, in
units of the pixels of a frame, so that sums in float32 stay precise.
"""

from collections.abc import Mapping

import jax
from jax import numpy as jnp

# Classes of speed in pixels: minimum, maximum. The first three are Sintel's,
# the others divide the slowest of these, for small frames.
SPEEDS = {
  "s0_10": (0, 10),
  "s10_40": (10, 40),
  "s40": (40, jnp.inf),
  "s0_1": (0, 1),
  "s1_2": (1, 2),
  "s2_3": (2, 3),
  "s3_10": (3, 10),
}
OUTLIERS = (1, 3, 5)
# KITTI's Fl: an outlier is off by 3 pixels and by 5% of the motion.
_FL_PIXELS, _FL_SHARE = 3.0, 0.05

Metrics = Mapping[str, tuple[jax.Array, jax.Array]]


def end_point_error(predicted: jax.Array, flow: jax.Array) -> jax.Array:
  """Returns the distance [..., H, W] of two flows [..., H, W, 2]."""
  return jnp.linalg.norm(predicted - flow, axis=-1)


def compute_metrics(
  predicted: jax.Array,
  flow: jax.Array,
  valid: jax.Array,
  occluded: jax.Array | None,
) -> Metrics:
  """Computes all metrics of a batch.

  Args:
    predicted: float32 [b, H, W, 2] in pixels.
    flow: ground truth, float32 [b, H, W, 2]; ignored where not valid.
    valid: [b, H, W], 1 where the ground truth is known.
    occluded: [b, H, W], 1 where a pixel is occluded in the second frame; None
      if unknown.

  Returns:
    Sums and counts of the end-point error `epe`, also of visible and occluded
    pixels (`epe_visible`, `epe_occluded`, if known) and by speed (`epe_s0_10`
    and so on, for each of `SPEEDS`); of the outliers `over_1px`, `over_3px`,
    `over_5px` and KITTI's `fl`; and of `zero_epe`, the error of zero flow.
  """
  flow = jnp.where(valid[..., None] > 0, flow, 0)
  error = end_point_error(predicted.astype(jnp.float32), flow)
  speed = jnp.linalg.norm(flow, axis=-1)
  weights = valid.astype(jnp.float32) / (flow.shape[-2] * flow.shape[-3])

  def mean(values, chosen=1.0):
    among = weights * chosen
    return jnp.sum(values * among), jnp.sum(among)

  metrics = {
    "epe": mean(error),
    "zero_epe": mean(speed),
    "fl": mean((error > _FL_PIXELS) & (error > _FL_SHARE * speed)),
  }
  if occluded is not None:
    is_occluded = occluded.astype(jnp.float32)
    metrics["epe_visible"] = mean(error, 1 - is_occluded)
    metrics["epe_occluded"] = mean(error, is_occluded)
  for name, (low, high) in SPEEDS.items():
    metrics[f"epe_{name}"] = mean(error, (speed >= low) & (speed < high))
  for pixels in OUTLIERS:
    metrics[f"over_{pixels}px"] = mean(error > pixels)
  return metrics
