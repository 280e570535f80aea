"""Initial values that make cross-attention local, for sequences.

With random tables, every latent at first attends equally to all inputs, and
every output to all latents. Two alignments must be learned at once, and neither
helps without the other. Long runs learn them; a few minutes on a CPU are not
enough (docs/language.md). Here the positions of inputs, latents and output
queries are initialized with sinusoids, and the projections of queries and keys
so that they compare these. Each latent then attends to the inputs around its
position first, and each output to the latents around its own. Only the initial
values change, not the model. This is not in the papers.

Shapes: K bands, c = 2 K; a table has P rows of C channels; L is the length.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models.typing import Array, Float

# Names of parameters: the inputs' positions, latents and output queries.
_TABLES = re.compile(r"(adapter/positions|encoder/latents|decoder/query)/emb")
_PROJECTIONS = re.compile(
  r"(encoder|decoder)/cross_attend\w*/attention/(query|key)/w"
)
# Scaled up, because the layers in between add to the latents.
_LATENTS_SCALE = 2.0


def local_attention_init(
  model: Mapping[str, Any], bands: int
) -> contextlib.AbstractContextManager:
  """Returns a context in which Haiku initializes a model with local attention.

  Args:
    model: A spec for `zoo.build` with a text adapter, a Perceiver encoder and a
      decoder of kind "masked_lm".
    bands: K. The first 2 K channels of each table and of each head are
      initialized with sinusoids, the others as usual. 0 changes nothing.

  Raises:
    ValueError: The decoder is of another kind; or, at initialization, a table
      or a head has too few channels.
  """
  if not bands:
    return contextlib.nullcontext()
  if model["decoder"]["kind"] != "masked_lm":
    raise ValueError(
      "local attention needs a decoder of kind 'masked_lm': set"
      " local_attention_init_bands to 0 for a decoder of kind"
      f" {model['decoder']['kind']!r}"
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
      positions = (np.arange(shape[0]) + 0.5) * length / shape[0]
      scale = _LATENTS_SCALE if table[1] == "encoder/latents" else 1.0
      return _replaced(value, scale * sinusoids(positions, length, bands))
    if projection := _PROJECTIONS.search(context.full_name):
      part, role = projection.groups()
      # Heads attend at offsets that together cover a latent's inputs.
      width = stride if role == "query" else 0.0
      middles = (np.arange(heads[part]) + 0.5) / heads[part] - 0.5
      corners = [shift_matrix(width * at, length, bands) for at in middles]
      parts = jnp.split(value, heads[part], 1)
      return jnp.concatenate(list(map(_replaced, parts, corners)), 1)
    return value

  return hk.custom_creator(create)


def sinusoids(
  positions: Float[np.ndarray, "P"], length: int, bands: int
) -> Float[np.ndarray, "P c"]:
  """Returns sines, then cosines, of positions, with a mean square of 1.

  Wavelengths run from 4 positions to 4 times `length`, evenly spaced in their
  logarithms.
  """
  angles = positions[:, None] * _frequencies(length, bands)
  return np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], 1)


def shift_matrix(
  offset: float, length: int, bands: int
) -> Float[np.ndarray, "c c"]:
  """Returns the matrix that maps `sinusoids(x)` to `sinusoids(x + offset)`."""
  angles = offset * _frequencies(length, bands)
  sin, cos = np.diag(np.sin(angles)), np.diag(np.cos(angles))
  return np.block([[cos, -sin], [sin, cos]])


def _frequencies(length: int, bands: int) -> np.ndarray:
  """Returns radians per position, [K]."""
  return np.pi / 2 * np.geomspace(1, 1 / length, bands)


def _replaced(
  value: Float[Array, "R C"], corner: Float[np.ndarray, "r c"]
) -> Float[Array, "R C"]:
  """Replaces the first rows and columns of `value`."""
  rows, columns = corner.shape
  if rows > value.shape[0] or columns > value.shape[1]:
    raise ValueError(
      f"{columns} channels can't be sinusoids where there are only"
      f" {min(value.shape)}: lower local_attention_init_bands, or use more"
      " channels per head"
    )
  return value.at[:rows, :columns].set(jnp.asarray(corner, value.dtype))
