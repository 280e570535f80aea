"""Starting values with which attention begins nearby, for sequences.

With tables that start as noise, every latent first reads an average of all
inputs, and every output an average of all latents: two addressings have to be
found at once, and neither helps without the other. Large runs find them; in
minutes on a CPU, language models don't (docs/language.md). Here inputs,
latents and output queries start with sines of their places, and projections
of queries and keys compare those, so that a latent first reads the inputs
about its place and an output the latents about its own. Starting values alone
change, not the model. Not in the papers.

Shapes: K bands, c = 2 K; a table has P rows of C channels, at places of L.
"""

import contextlib
import re
from collections.abc import (
  Callable,
  Mapping,
  Sequence,
)
from typing import Any

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models.typing import (
  Array,
  Float,
)

# Names of parameters: the inputs' positions, latents and output queries.
_TABLES = re.compile(r"(adapter/positions|encoder/latents|decoder/query)/emb")
_PROJECTIONS = re.compile(
  r"(encoder|decoder)/cross_attend\w*/attention/(query|key)/w"
)
# What the layers between add to the latents must not drown their places.
_LATENTS_SCALE = 2.0


def local_attention_init(
  model: Mapping[str, Any], bands: int
) -> contextlib.AbstractContextManager:
  """A context, inside a Haiku transform; what is built in it starts nearby.

  Args:
    model: a spec for `zoo.build` of a text adapter, a Perceiver's encoder and
      a decoder "masked_lm".
    bands: K. Twice as many channels of each table, and of each head, start as
      sines; the others as they would. 0 changes nothing.

  Raises:
    ValueError: the model is another; or, when parameters are made, a table or
      a head is too narrow.
  """
  if not bands:
    return contextlib.nullcontext()
  if model["decoder"]["kind"] != "masked_lm":
    raise ValueError(
      "only latents and output queries can start nearby; take 0 bands for"
      f" a decoder of kind {model['decoder']['kind']!r}"
    )
  length = model["adapter"]["max_length"]
  stride = length / model["encoder"]["num_latents"]
  heads = {
    "encoder": model["encoder"]["num_cross_attend_heads"],
    "decoder": model["decoder"]["num_heads"],
  }

  def create(
    next_creator: Callable[..., jax.Array],
    shape: Sequence[int],
    dtype: Any,
    init: hk.initializers.Initializer,
    context: Any,
  ) -> jax.Array:
    value = next_creator(shape, dtype, init)
    if table := _TABLES.search(context.full_name):
      places = (np.arange(shape[0]) + 0.5) * length / shape[0]
      scale = _LATENTS_SCALE if table[1] == "encoder/latents" else 1.0
      return _replaced(value, scale * sines(places, length, bands))
    if projection := _PROJECTIONS.search(context.full_name):
      part, what = projection.groups()
      # Heads look a little before and after: over a latent's stretch in all.
      width = stride if what == "query" else 0.0
      middles = (np.arange(heads[part]) + 0.5) / heads[part] - 0.5
      corners = [moved(width * at, length, bands) for at in middles]
      parts = jnp.split(value, heads[part], 1)
      return jnp.concatenate(list(map(_replaced, parts, corners)), 1)
    return value

  return hk.custom_creator(create)


def sines(
  places: Float[np.ndarray, "P"], length: int, bands: int
) -> Float[np.ndarray, "P c"]:
  """Sines, then cosines, of frequencies from a turn in 4 places downwards.

  The lowest makes a quarter of a turn over `length` places; they are evenly
  spaced in their logarithms. Their mean square is 1.
  """
  angles = places[:, None] * _frequencies(length, bands)
  return np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], 1)


def moved(offset: float, length: int, bands: int) -> Float[np.ndarray, "c c"]:
  """The matrix that takes `sines` of places to those `offset` further on."""
  angles = offset * _frequencies(length, bands)
  sin, cos = np.diag(np.sin(angles)), np.diag(np.cos(angles))
  return np.block([[cos, -sin], [sin, cos]])


def _frequencies(length: int, bands: int) -> np.ndarray:
  """Radians a place, [K]."""
  return np.pi / 2 * np.geomspace(1, 1 / length, bands)


def _replaced(
  value: Float[Array, "R C"], corner: Float[np.ndarray, "r c"]
) -> Float[Array, "R C"]:
  """`value` with its first rows and columns replaced."""
  rows, columns = corner.shape
  if rows > value.shape[0] or columns > value.shape[1]:
    raise ValueError(
      f"{columns} channels cannot start as sines where there are"
      f" {min(value.shape)}: take fewer bands, or more channels a head"
    )
  return value.at[:rows, :columns].set(jnp.asarray(corner, value.dtype))
