"""Modalities that are arrays of elements with continuous coordinates.

Examples are sensor readings, particles, irregular time series or fields on a
mesh: each element has a vector of features and a position.
Shapes: M elements of C features and d coordinates; O queries of E channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import decoders, position_encoding
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention


class ArraysAdapter(hk.Module):
  """Features of elements with Fourier features of their coordinates.

  Args:
    num_bands: Fourier bands per coordinate.
    max_resolution: See `position_encoding.fourier_features`; one number for
      each coordinate, or one for all.
  """

  def __init__(
    self,
    num_bands: int = 64,
    max_resolution: int | Sequence[int] = 128,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_bands = num_bands
    self._max_resolution = max_resolution

  def __call__(
    self, raw: Mapping[str, Float[Array, "..."]], *, is_training: bool
  ) -> Float[Array, "B M D"]:
    """Returns the input array.

    Args:
      raw: "features" [B, M, C] and, unless the elements are a set without
        positions, "coordinates" in [-1, 1]: [B, M, d], or [M, d] if all
        examples share them.
      is_training: Unused.

    Raises:
      ValueError: There are other arrays, or their shapes do not match.
    """
    del is_training
    features, encodings = self._encode(raw)
    if encodings is None:
      return features
    return _concatenate(features, encodings)

  def parts(
    self, raw: Mapping[str, Float[Array, "..."]], *, is_training: bool
  ) -> InputArray:
    """Returns the input array with shared position encodings kept apart."""
    del is_training
    features, encodings = self._encode(raw)
    if encodings is None or encodings.ndim == 2:
      return InputArray(features, encodings)
    return InputArray(_concatenate(features, encodings))

  @hk.transparent
  def _encode(
    self, raw: Mapping[str, jax.Array]
  ) -> tuple[jax.Array, jax.Array | None]:
    """Returns features and position encodings ([B, M, P], [M, P] or None)."""
    _check_names(raw)
    features, coordinates = raw["features"], raw.get("coordinates")
    if coordinates is None:
      return features, None
    shapes = (features.shape[:2], features.shape[1:2])
    if coordinates.shape[:-1] not in shapes:
      raise ValueError(
        f"coordinates {coordinates.shape} do not belong to features"
        f" {features.shape}: give [B, M, d], or [M, d] to share them"
      )
    resolution = self._max_resolution
    if isinstance(resolution, int):
      resolution = (resolution,) * coordinates.shape[-1]
    encode = lambda x: position_encoding.fourier_features(
      x, self._num_bands, resolution
    )
    if coordinates.ndim == 3:
      encode = jax.vmap(encode)
    return features, encode(coordinates).astype(features.dtype)


class ArraysDecoder(decoders.QueryDecoder):
  """Cross-attends from output queries that the caller makes.

  Args:
    num_outputs: Output channels of each query.
    **decoder: Other arguments of `QueryDecoder`.
  """

  def __init__(self, num_outputs: int, name: str | None = None, **decoder: Any):
    decoder = {"use_query_residual": False} | decoder
    super().__init__(num_outputs, name=name, **decoder)

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Float[Array, "B O E"] | Float[Array, "O E"] | None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B O P"], Float[Array, "B H O N"] | None]:
    """Returns an output for each query, and the attention weights or None.

    Raises:
      ValueError: There are no queries.
    """
    del inputs, input_mask
    if queries is None:
      raise ValueError(
        "the decoder 'arrays' has no queries of its own: pass queries= with"
        " shape [B, O, E], or [O, E] for all examples"
      )
    shape = (latents.shape[0], *queries.shape[-2:])
    return super().__call__(
      jnp.broadcast_to(queries, shape),
      latents,
      return_attention=return_attention,
    )


def _concatenate(features: jax.Array, encodings: jax.Array) -> jax.Array:
  shape = (features.shape[0], *encodings.shape[-2:])
  return jnp.concatenate([features, jnp.broadcast_to(encodings, shape)], -1)


def _check_names(raw: Any) -> None:
  known = {"features", "coordinates"}
  names = set(raw) if isinstance(raw, Mapping) else {type(raw).__name__}
  if "features" not in names or not names <= known:
    raise ValueError(
      f"inputs {', '.join(sorted(names))}: give a mapping with 'features'"
      " and, optionally, 'coordinates'"
    )
