"""MixUp and CutMix on the device; each image has its own partner.

Perceiver IO adds both to its ImageNet training (IO, app. A.1). As in the
authors' code, a batch of b images is made of 2b, half of it by MixUp (arXiv
1710.09412) and half by CutMix (arXiv 1905.04899), and no image occurs twice.
The pipeline reads the partners (`data.core.pipeline`).

Shapes: b examples of one device, H x W pixels of C channels, P classes.
"""

from typing import NamedTuple

import jax
import optax
from jax import numpy as jnp

from perceiver_jax import checks

# Folded into the keys, so that other uses of the same keys stay independent.
_STREAM = 0x6D6978


class Mixed(NamedTuple):
  """Images that are mixed with their partners.

  Attributes:
    images: Mixed images, [b, H, W, C], in the type given to `mix`.
    weights: Weight of the example's own label, float32 [b].
  """

  images: jax.Array
  weights: jax.Array


def mix(
  images: jax.Array,
  partners: jax.Array,
  keys: jax.Array,
  positions: jax.Array,
  *,
  mixup_alpha: float,
  cutmix_alpha: float,
) -> Mixed:
  """Mixes each image with its partner.

  Images at even positions are blended with their partners (MixUp), and those at
  odd positions take a box of pixels from them (CutMix). The result for an
  example depends on that example only, so it does not matter how a global batch
  is split.

  Args:
    images: Float [b, H, W, C].
    partners: Images to mix them with, [b, H, W, C].
    keys: Key data of each example, uint32 [b, 2].
    positions: Positions in the global batch, int32 [b].
    mixup_alpha: The weight of the example's own image is drawn from
      Beta(alpha, alpha); 0 applies CutMix to all images.
    cutmix_alpha: The same for CutMix; 0 applies MixUp to all images, and with
      both alphas 0 nothing is mixed.

  Raises:
    UserError: An alpha is negative or not finite.
  """
  checks.check_not_negative("mixing.mixup_alpha", mixup_alpha)
  checks.check_not_negative("mixing.cutmix_alpha", cutmix_alpha)
  count, height, width, _ = images.shape
  if not mixup_alpha and not cutmix_alpha:
    return Mixed(images, jnp.ones(count, jnp.float32))
  is_odd = jnp.asarray(positions) % 2 == 1
  use_cutmix = (cutmix_alpha > 0) & (is_odd | (mixup_alpha == 0))
  alphas = jnp.where(use_cutmix, cutmix_alpha, mixup_alpha)
  draw = lambda key, alpha: _draw(key, alpha, height, width)
  lambdas, centers = jax.vmap(draw)(keys, alphas.astype(jnp.float32))
  boxes = _boxes(1 - lambdas, centers, height, width)
  # A box that crosses the border is clipped, so its pixels are counted.
  kept = 1 - boxes.sum(axis=(1, 2)) / (height * width)
  cutmix_image = use_cutmix[:, None, None]
  own = jnp.where(cutmix_image, ~boxes, lambdas[:, None, None])[..., None]
  mixed = own * images + (1 - own) * partners
  return Mixed(mixed.astype(images.dtype), jnp.where(use_cutmix, kept, lambdas))


def targets(
  labels: jax.Array,
  partner_labels: jax.Array,
  weights: jax.Array,
  num_classes: int,
  smoothing: float,
) -> jax.Array:
  """Returns the soft labels [b, P] of mixed images; each row sums to one.

  Args:
    labels: Labels of the examples, int32 [b].
    partner_labels: Labels of their partners, int32 [b].
    weights: Weights of the examples' own labels, [b]; see `mix`.
    num_classes: P.
    smoothing: Weight that is spread evenly over all classes.
  """
  own, partner = (
    jax.nn.one_hot(x, num_classes) for x in (labels, partner_labels)
  )
  weights = weights[:, None]
  return optax.smooth_labels(weights * own + (1 - weights) * partner, smoothing)


def _draw(
  key: jax.Array, alpha: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Draws lambda, and the pixel (y, x) at the center of a box, int32 [2]."""
  key = jax.random.fold_in(jax.random.wrap_key_data(key), _STREAM)
  lambda_key, center_key = jax.random.split(key)
  lambda_ = jax.random.beta(lambda_key, alpha, alpha)
  size = jnp.array([height, width])
  return lambda_, jax.random.randint(center_key, (2,), 0, size)


def _boxes(
  areas: jax.Array, centers: jax.Array, height: int, width: int
) -> jax.Array:
  """Returns the pixels inside each box as a mask, bool [b, H, W].

  Args:
    areas: Area of each box before clipping, relative to the image, [b].
    centers: (y, x) in pixels, [b, 2]; boxes are clipped at the borders.
    height: H.
    width: W.
  """

  def inside(center, length):
    # Rounds as the authors' code.
    half = (jnp.sqrt(areas) * length).astype(jnp.int32) // 2
    low, high = (center - half)[:, None], (center + half)[:, None]
    pixel = jnp.arange(length)
    return (low <= pixel) & (pixel < high)

  rows, columns = inside(centers[:, 0], height), inside(centers[:, 1], width)
  return rows[:, :, None] & columns[:, None, :]
