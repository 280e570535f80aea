"""Dropout whose randomness is keyed by example.

An example drops the same elements on any number of devices, in any microbatch,
and whether layers are scanned or unrolled. Shapes: B batch.
"""

import dataclasses
import functools

import jax
from jax import numpy as jnp

from perceiver_jax.models.typing import Array, Bool, Float

# Numbers that are folded into the keys of a layer, one for each use.
ATTENTION, MLP, INPUTS, _NEXT_LAYER = range(4)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["keys"],
  meta_fields=["rate"],
)
@dataclasses.dataclass(frozen=True)
class Dropout:
  """Dropout in one layer.

  Attributes:
    rate: Share of the elements that are set to zero; the others are scaled so
      that the mean stays.
    keys: Random key of each example, uint32 [B, 2]; None drops nothing.
  """

  rate: float = 0.0
  keys: jax.Array | None = None

  def __call__(
    self, x: Float[Array, "B *rest"], where: int
  ) -> Float[Array, "B *rest"]:
    """Applies dropout.

    Args:
      x: Any array.
      where: `ATTENTION` or `MLP`, of which `x` is the result.
    """
    if self.keys is None or not self.rate:
      return x
    kept = self.kept(self.rate, x.shape[1:], where)
    return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)

  def kept(
    self, rate: float, shape: tuple[int, ...], where: int
  ) -> Bool[Array, "B *shape"]:
    """Returns True at the elements that are kept; needs keys.

    Args:
      rate: Share of the elements that are dropped.
      shape: Shape of the elements of an example.
      where: A constant of this module, so that draws are independent.
    """
    draw = lambda key: jax.random.bernoulli(key, 1 - rate, shape)
    return jax.vmap(draw)(_folded(self.keys, where))

  def next_layer(self) -> "Dropout":
    """Returns the dropout of the next layer."""
    if self.keys is None:
      return self
    keys = jax.vmap(jax.random.key_data)(_folded(self.keys, _NEXT_LAYER))
    return dataclasses.replace(self, keys=keys)


NO_DROPOUT = Dropout()


def _folded(keys: jax.Array, number: int) -> jax.Array:
  """Returns the key of each example, combined with a number."""
  fold = lambda key: jax.random.fold_in(jax.random.wrap_key_data(key), number)
  return jax.vmap(fold)(keys)
