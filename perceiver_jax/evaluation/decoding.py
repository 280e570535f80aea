"""Decodes large outputs in parts, encoding the input only once."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import haiku as hk
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import perceiver

Decode = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def decode_in_parts(
  decode: Decode,
  shapes: Mapping[str, tuple[int, ...]],
  num_parts: int = 128,
  progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, np.ndarray]:
  """Decodes every point of several grids in parts.

  Args:
    decode: From row-major indices int32 [O] by modality to outputs
      [B, O, channels] by modality, and [B, channels] of those without a grid.
      O is the same at every call, so that a jitted function compiles once.
    shapes: Sizes of the grid of each modality.
    num_parts: Number of calls; 128 as in the authors' notebook.
    progress: Wraps the loop, to draw a bar.

  Returns:
    [B, *shape, channels] by modality; those without a grid as decoded.
  """
  sizes = {name: math.prod(shape) for name, shape in shapes.items()}
  counts = {name: -(-size // num_parts) for name, size in sizes.items()}
  decoded_parts: dict[str, list[np.ndarray]] = {name: [] for name in shapes}
  rest: dict[str, np.ndarray] = {}
  for part in progress(range(num_parts)):
    indices = {
      # The last calls repeat points rather than ask for fewer.
      name: np.minimum(np.arange(n) + part * n, sizes[name] - 1).astype(
        np.int32
      )
      for name, n in counts.items()
    }
    for name, output in decode(indices).items():
      if name in decoded_parts:
        decoded_parts[name].append(np.asarray(output))
      else:
        rest[name] = np.asarray(output)
  whole = {}
  for name, parts in decoded_parts.items():
    points = np.concatenate(parts, axis=1)[:, : sizes[name]]
    whole[name] = points.reshape(len(points), *shapes[name], -1)
  return whole | rest


def decode_all(
  model: Callable[..., perceiver.Outputs],
  shapes: Mapping[str, tuple[int, ...]],
  num_parts: int,
) -> perceiver.Outputs:
  """Decodes every point of several grids in parts, in a compiled function.

  See `decode_in_parts` for the same outside of one.

  Args:
    model: `Perceiver.__call__` with all arguments but `latents` and `queries`
      bound; its parameters must have been created already.
    shapes: sizes of the grid of each modality.
    num_parts: number of parts.

  Returns:
    Outputs with `logits` [b, *shape, channels] of modalities with a grid, and
    the outputs of those without.
  """
  sizes = {name: math.prod(shape) for name, shape in shapes.items()}
  # One point of each is enough to encode; the latents serve all parts.
  first = model(queries={name: jnp.zeros(1, jnp.int32) for name in shapes})

  def decode(queries):
    decoded = model(latents=first.latents, queries=queries).logits
    return {name: decoded[name] for name in shapes}

  def points(size):
    each = -(-size // num_parts)
    # The last parts repeat points rather than have fewer.
    return jnp.minimum(jnp.arange(num_parts * each), size - 1).reshape(
      num_parts, each
    )

  decoded_parts = hk.map(
    decode, {name: points(size) for name, size in sizes.items()}
  )
  whole = {}
  for name, parts in decoded_parts.items():
    joined = jnp.moveaxis(parts, 0, 1)
    joined = joined.reshape(joined.shape[0], -1, joined.shape[-1])
    joined = joined[:, : sizes[name]]
    whole[name] = joined.reshape(joined.shape[0], *shapes[name], -1)
  return first._replace(logits=first.logits | whole)
