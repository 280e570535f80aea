"""MixUp and CutMix on the device, between neighbors in a batch.

Perceiver IO adds both to its ImageNet training (IO, app. A.1). As in the
authors' code, half of a batch is mixed by MixUp (arXiv 1710.09412) and half by
CutMix (arXiv 1905.04899).

Shapes: b examples of one device, H x W pixels of C channels, P classes.
"""

from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax import checks

# Folded into the keys, so that other uses of the same keys stay independent.
_STREAM = 0x6D6978


class Mixed(NamedTuple):
  """A batch in which each example is mixed with its partner.

  Attributes:
    images: mixed images, [b, H, W, C], in the type given to `mix`.
    partner_labels: labels of the partners, int32 [b].
    weights: weight of the example's own label, float32 [b].
  """

  images: jax.Array
  partner_labels: jax.Array
  weights: jax.Array


def mix(
  images: jax.Array,
  labels: jax.Array,
  keys: jax.Array,
  *,
  mixup_alpha: float,
  cutmix_alpha: float,
) -> Mixed:
  """Mixes each example with its neighbor; both of a pair mix in the same way.

  Of every 4 consecutive examples the first two are blended (MixUp) and the
  last two swap a box of pixels (CutMix). The result for an example depends on
  its pair only, so splitting a batch between groups of 4 changes nothing. In a
  batch of odd size the last example is its own partner.

  Args:
    images: float [b, H, W, C].
    labels: int32 [b].
    keys: key data of each example, uint32 [b, 2]; a pair uses the first one.
    mixup_alpha: the weight of the example's own image is drawn from
      Beta(alpha, alpha); 0 applies CutMix to all pairs.
    cutmix_alpha: the same for CutMix; 0 applies MixUp to all pairs, and with
      both alphas 0 nothing is mixed.

  Raises:
    UserError: an alpha is negative or not finite.
  """
  checks.check_not_negative("mixing.mixup_alpha", mixup_alpha)
  checks.check_not_negative("mixing.cutmix_alpha", cutmix_alpha)
  count, height, width, _ = images.shape
  if not mixup_alpha and not cutmix_alpha:
    return Mixed(images, labels, jnp.ones(count, jnp.float32))
  index = np.arange(count)
  first, partner = index & ~1, np.minimum(index ^ 1, count - 1)
  use_cutmix = (cutmix_alpha > 0) & ((index % 4 >= 2) | (mixup_alpha == 0))
  alphas = np.where(use_cutmix, cutmix_alpha, mixup_alpha).astype(np.float32)
  lambdas, centers = jax.vmap(_draw)(keys[first], alphas)
  boxes = _boxes(1 - lambdas, centers, height, width)
  # A box that crosses the border is clipped, so its pixels are counted.
  kept = 1 - boxes.sum(axis=(1, 2)) / (height * width)
  cutmix_image = use_cutmix[:, None, None]
  own = jnp.where(cutmix_image, ~boxes, lambdas[:, None, None])[..., None]
  mixed = own * images + (1 - own) * images[partner]
  return Mixed(
    mixed.astype(images.dtype),
    labels[partner],
    jnp.where(use_cutmix, kept, lambdas),
  )


def targets(
  labels: jax.Array, mixed: Mixed, num_classes: int, smoothing: float
) -> jax.Array:
  """Returns the soft labels [b, P] of a mixed batch; each row sums to one.

  Args:
    labels: labels of the examples, int32 [b].
    mixed: from `mix`.
    num_classes: P.
    smoothing: weight that is spread evenly over all classes.
  """
  own, partner = (
    jax.nn.one_hot(x, num_classes) for x in (labels, mixed.partner_labels)
  )
  weights = mixed.weights[:, None]
  return optax.smooth_labels(weights * own + (1 - weights) * partner, smoothing)


def _draw(key: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Draws lambda, and the center of a box [2] relative to the image size."""
  key = jax.random.fold_in(jax.random.wrap_key_data(key), _STREAM)
  lambda_key, center_key = jax.random.split(key)
  lambda_ = jax.random.beta(lambda_key, alpha, alpha)
  return lambda_, jax.random.uniform(center_key, (2,))


def _boxes(
  areas: jax.Array, centers: jax.Array, height: int, width: int
) -> jax.Array:
  """Returns the pixels inside each box as a mask, bool [b, H, W].

  Args:
    areas: area of each box before clipping, relative to the image, [b].
    centers: (y, x) relative to the image size, [b, 2]; boxes are clipped at
      the borders.
    height: H.
    width: W.
  """
  half = jnp.sqrt(areas) / 2

  def inside(center, length):
    low = jnp.round((center - half) * length)[:, None]
    high = jnp.round((center + half) * length)[:, None]
    pixel = jnp.arange(length)
    return (low <= pixel) & (pixel < high)

  rows, columns = inside(centers[:, 0], height), inside(centers[:, 1], width)
  return rows[:, :, None] & columns[:, None, :]
