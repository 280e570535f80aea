"""How far optical flow is from the truth: end-point errors and outliers.

Shapes: b pairs, H x W pixels. Every score is a (sum, count) over pixels, in
units of a frame's pixels: added up, float32 then stays exact enough.
"""

from collections.abc import Mapping

import jax
from jax import numpy as jnp

# Sintel's classes of speed, in pixels: from, to.
SPEEDS = {"s0_10": (0, 10), "s10_40": (10, 40), "s40": (40, jnp.inf)}
OUTLIERS = (1, 3, 5)
# KITTI's Fl: an outlier is off by 3 pixels and by 5% of the motion.
_FL_PIXELS, _FL_SHARE = 3.0, 0.05

Scores = Mapping[str, tuple[jax.Array, jax.Array]]


def end_point_error(predicted: jax.Array, flow: jax.Array) -> jax.Array:
  """Distance [..., H, W] of predicted from true flow [..., H, W, 2]."""
  return jnp.linalg.norm(predicted - flow, axis=-1)


def compute_metrics(
  predicted: jax.Array,
  flow: jax.Array,
  valid: jax.Array,
  occluded: jax.Array | None,
) -> Scores:
  """All scores of a batch.

  Args:
    predicted: float32 [b, H, W, 2] in pixels.
    flow: the truth, float32 [b, H, W, 2]; where it is not valid, any number.
    valid: [b, H, W], 1 where the truth is known.
    occluded: [b, H, W], 1 where a pixel is hidden in the second frame; None
      where nothing is known about it.

  Returns:
    Sums and counts of `epe`, of it among `epe_visible` and `epe_occluded`
    pixels (if occlusion is known) and by true speed (`epe_s0_10`,
    `epe_s10_40`, `epe_s40`, as Sintel has it); shares `over_1px`, `over_3px`,
    `over_5px` and KITTI's `fl`; and `zero_epe`, what no motion at all would
    score.
  """
  flow = jnp.where(valid[..., None] > 0, flow, 0)
  error = end_point_error(predicted.astype(jnp.float32), flow)
  speed = jnp.linalg.norm(flow, axis=-1)
  weights = valid.astype(jnp.float32) / (flow.shape[-2] * flow.shape[-3])

  def mean(values, chosen=1.0):
    among = weights * chosen
    return jnp.sum(values * among), jnp.sum(among)

  found = {
    "epe": mean(error),
    "zero_epe": mean(speed),
    "fl": mean((error > _FL_PIXELS) & (error > _FL_SHARE * speed)),
  }
  if occluded is not None:
    hidden = occluded.astype(jnp.float32)
    found["epe_visible"] = mean(error, 1 - hidden)
    found["epe_occluded"] = mean(error, hidden)
  for name, (low, high) in SPEEDS.items():
    found[f"epe_{name}"] = mean(error, (speed >= low) & (speed < high))
  for pixels in OUTLIERS:
    found[f"over_{pixels}px"] = mean(error > pixels)
  return found
