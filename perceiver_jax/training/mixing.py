"""MixUp and CutMix on the device: neighbours in a batch are mixed in pairs.

Perceiver IO adds both to its ImageNet training (IO, app. A.1). As in the
authors' code, half of a batch is mixed by MixUp (arXiv 1710.09412) and half by
CutMix (arXiv 1905.04899).

Shapes: b examples of one device, H x W pixels of C channels, P classes.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax.errors import UserError

# Folded into the examples' keys: what else draws from them stays independent.
_STREAM = 0x6D6978


class Mixed(NamedTuple):
  """A batch whose examples hold a part of their partners.

  Attributes:
    images: as given to `mix`, [b, H, W, C].
    partner_labels: label of what was mixed in, int32 [b].
    weights: exact share of the example's own label, float32 [b].
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
  """Mixes each example with its neighbour, the two of a pair alike.

  Of every 4 consecutive examples the first two are blended (MixUp) and the
  last two swap a box of pixels (CutMix). An example depends on its pair only,
  so a batch may be split anywhere between groups of 4. In a batch of odd size
  the last example has no partner but itself.

  Args:
    images: float [b, H, W, C].
    labels: int32 [b].
    keys: key data of each example, uint32 [b, 2]; a pair uses its first's.
    mixup_alpha: the share that is kept is drawn from Beta(alpha, alpha); 0
      for no MixUp: all pairs are then mixed by CutMix.
    cutmix_alpha: the same for CutMix; both 0 for no mixing at all.

  Raises:
    UserError: an alpha is negative or not finite.
  """
  _check("mixup_alpha", mixup_alpha)
  _check("cutmix_alpha", cutmix_alpha)
  count, height, width, _ = images.shape
  if not mixup_alpha and not cutmix_alpha:
    return Mixed(images, labels, jnp.ones(count, jnp.float32))
  place = np.arange(count)
  first, partner = place & ~1, np.minimum(place ^ 1, count - 1)
  cut = (cutmix_alpha > 0) & ((place % 4 >= 2) | (mixup_alpha == 0))
  alphas = np.where(cut, cutmix_alpha, mixup_alpha).astype(np.float32)
  shares, centres = jax.vmap(_draw)(keys[first], alphas)
  boxes = _boxes(1 - shares, centres, height, width)
  # A box that was clipped is smaller than drawn, so its pixels are counted.
  outside = 1 - boxes.sum(axis=(1, 2)) / (height * width)
  own = jnp.where(cut[:, None, None], ~boxes, shares[:, None, None])[..., None]
  mixed = own * images + (1 - own) * images[partner]
  return Mixed(
    mixed.astype(images.dtype),
    labels[partner],
    jnp.where(cut, outside, shares),
  )


def targets(
  labels: jax.Array, mixed: Mixed, num_classes: int, smoothing: float
) -> jax.Array:
  """Soft labels [b, P] of a mixed batch; each sums to one.

  Args:
    labels: the examples' own, int32 [b].
    mixed: what `mix` made of them.
    num_classes: P.
    smoothing: share that is spread evenly over all classes.
  """
  own, partner = (
    jax.nn.one_hot(which, num_classes)
    for which in (labels, mixed.partner_labels)
  )
  weights = mixed.weights[:, None]
  return optax.smooth_labels(weights * own + (1 - weights) * partner, smoothing)


def _draw(key: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The share to keep, and the centre of a box [2] as shares of the sides."""
  key = jax.random.fold_in(jax.random.wrap_key_data(key), _STREAM)
  share_key, centre_key = jax.random.split(key)
  share = jax.random.beta(share_key, alpha, alpha)
  return share, jax.random.uniform(centre_key, (2,))


def _boxes(
  areas: jax.Array, centres: jax.Array, height: int, width: int
) -> jax.Array:
  """Which pixels lie in each box: bool [b, H, W].

  Args:
    areas: of the whole boxes over the image's, [b].
    centres: (y, x) over the image's sides, [b, 2]; what reaches over a border
      is lost.
    height: H.
    width: W.
  """
  half = jnp.sqrt(areas) / 2

  def inside(centre, length):
    low = jnp.round((centre - half) * length)[:, None]
    high = jnp.round((centre + half) * length)[:, None]
    pixel = jnp.arange(length)
    return (low <= pixel) & (pixel < high)

  rows, columns = inside(centres[:, 0], height), inside(centres[:, 1], width)
  return rows[:, :, None] & columns[:, None, :]


def _check(name: str, alpha: float) -> None:
  if not 0 <= alpha < math.inf:
    raise UserError(
      f"config.mixing.{name} is {alpha}; give 0 to turn it off, or a positive"
      " number"
    )
