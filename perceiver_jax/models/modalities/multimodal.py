"""The adapter and decoder of several modalities together.

Modalities are concatenated in the order of their names. Each is padded to a
common width with learned channels, which also identify it, and has a learned
token that replaces masked elements (Perceiver v2, section 4.2; IO v3, app. I).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import decoders, position_encoding
from perceiver_jax.models.inputs import InputArray, check_floating
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention

Adapter = Callable[..., jax.Array]


class LabelAdapter(hk.Module):
  """Makes a single element of a vector, such as a one-hot label."""

  def __call__(
    self, label: Float[Array, "B P"], *, is_training: bool
  ) -> Float[Array, "B 1 P"]:
    """Returns the input array."""
    del is_training
    return label[:, None]


class MultimodalAdapter(hk.Module):
  """Concatenates the input arrays of several modalities.

  Args:
    adapters: Adapters by modality.
    min_padding: Learned channels that the widest modality gets (4).
    use_mask_tokens: Whether parts of the input can be masked.
  """

  def __init__(
    self,
    adapters: Mapping[str, Adapter],
    min_padding: int = 4,
    use_mask_tokens: bool = True,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._adapters = dict(adapters)
    self._min_padding = min_padding
    self._use_mask_tokens = use_mask_tokens

  def __call__(
    self, raw: Mapping[str, Any], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array.

    Args:
      raw: The raw inputs by modality. 'masked' may hold, by modality, bool [B]
        or [B, m]: the examples or elements to mask.
      is_training: Passed on to the adapters.

    Raises:
      ValueError: `raw` lacks a modality, or masks an unknown one, or masks
        without mask tokens, or a modality's input array holds integers.
    """
    masked = raw.get("masked", {})
    _check_names("masks", masked, self._adapters)
    if masked and not self._use_mask_tokens:
      raise ValueError("there are no mask tokens: set use_mask_tokens")
    missing = sorted(set(self._adapters) - set(raw))
    if missing:
      raise ValueError(f"no input for {', '.join(missing)}")
    arrays = {
      name: adapter(raw[name], is_training=is_training)
      for name, adapter in sorted(self._adapters.items())
    }
    for name, x in arrays.items():
      check_floating(x, f"the input array of {name}")
    width = max(x.shape[-1] for x in arrays.values()) + self._min_padding
    parts = []
    for name, x in arrays.items():
      padded = pad_channels(x, width, f"{name}_padding")
      if self._use_mask_tokens:
        token = position_encoding.TrainablePositions(
          1, width, name=f"{name}_mask"
        )()
        if name in masked:
          mask = masked[name].reshape(masked[name].shape[0], -1, 1)
          padded = jnp.where(mask, token.astype(padded.dtype), padded)
      parts.append(padded)
    return jnp.concatenate(parts, axis=1)


class GridOutput(NamedTuple):
  """A modality that is decoded at the points of a grid.

  Attributes:
    shape: Sizes of the grid.
    num_outputs: Values at each point.
    num_bands: Fourier bands per dimension of the queries.
    max_resolution: See `position_encoding.fourier_features`.
  """

  shape: tuple[int, ...]
  num_outputs: int
  num_bands: int
  max_resolution: tuple[int, ...]


class LabelOutput(NamedTuple):
  """A modality that is decoded with one learned query.

  Attributes:
    num_outputs: Values decoded.
    num_query_channels: Channels of the query before padding.
  """

  num_outputs: int
  num_query_channels: int


class MultimodalDecoder(decoders.QueryDecoder):
  """Decodes every modality in one cross-attend (IO, app. I).

  Args:
    outputs: Outputs by modality.
    min_padding: Learned channels that the widest query gets (2).
    num_decoded_channels: Width of the decoded queries, before the linear layer
      of each modality (512).
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    outputs: Mapping[str, GridOutput | LabelOutput],
    min_padding: int = 2,
    num_decoded_channels: int = 512,
    name: str | None = None,
    **decoder: Any,
  ):
    decoder = {"use_query_residual": False} | decoder
    super().__init__(num_decoded_channels, name=name, **decoder)
    self._outputs = dict(sorted(outputs.items()))
    self._min_padding = min_padding

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Mapping[str, Any] | None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[dict[str, jax.Array], Float[Array, "B H O N"] | None]:
    """Decodes all points, or those in `queries`.

    Args:
      latents: The processed latents.
      inputs: Unused.
      input_mask: Unused.
      queries: By modality, the row-major indices [O] or [B, O] of the grid
        points to decode. A modality that is not named is decoded as a whole.
      return_attention: Whether to compute the attention weights, or logits,
        too.

    Returns:
      By modality [B, O, num_outputs], [B, *shape, num_outputs] where all points
      are decoded, [B, num_outputs] for a label; and the weights or None.

    Raises:
      ValueError: `queries` names something that is not a modality with a grid.
    """
    del inputs, input_mask
    chosen = dict(queries or {})
    grids = [k for k, v in self._outputs.items() if isinstance(v, GridOutput)]
    _check_names("queries", chosen, grids)
    batch = latents.shape[0]
    arrays = {
      name: self._queries(name, output, chosen.get(name), batch)
      for name, output in self._outputs.items()
    }
    width = max(x.shape[-1] for x in arrays.values()) + self._min_padding
    padded = [
      pad_channels(x, width, f"{name}_padding") for name, x in arrays.items()
    ]
    out, weights = super().__call__(
      jnp.concatenate(padded, axis=1),
      latents,
      return_attention=return_attention,
    )
    sizes = [x.shape[1] for x in arrays.values()]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    parts = zip(self._outputs.items(), jnp.split(out, ends, 1), strict=True)
    return {
      name: self._predict(name, output, part, name in chosen)
      for (name, output), part in parts
    }, weights

  @hk.transparent
  def _queries(
    self, name: str, output: GridOutput | LabelOutput, points: Any, batch: int
  ) -> jax.Array:
    """Returns the queries [B, O, E] of one modality before padding."""
    if isinstance(output, LabelOutput):
      table = position_encoding.TrainablePositions(
        1, output.num_query_channels, name=f"{name}_query"
      )()
      return position_encoding.repeat_batch(table, batch)
    if points is None:
      points = jnp.arange(math.prod(output.shape))

    def encode(indices):
      # Not `linear_positions`: the released model was trained with these.
      return position_encoding.fourier_features(
        position_encoding.subsampled_positions(indices, output.shape),
        output.num_bands,
        output.max_resolution,
      )

    if points.ndim == 1:
      return position_encoding.repeat_batch(encode(points), batch)
    return jax.vmap(encode)(points)

  @hk.transparent
  def _predict(
    self,
    name: str,
    output: GridOutput | LabelOutput,
    decoded: jax.Array,
    is_subsampled: bool,
  ) -> jax.Array:
    out = hk.Linear(output.num_outputs, name=f"{name}_output")(decoded)
    if isinstance(output, LabelOutput):
      return out[:, 0]
    if is_subsampled:
      return out
    return out.reshape(out.shape[0], *output.shape, -1)


def _check_names(what: str, given: Iterable[str], allowed: Iterable[str]):
  if unknown := sorted(set(given) - set(allowed)):
    raise ValueError(
      f"{what} for {', '.join(unknown)}: choose among"
      f" {', '.join(sorted(allowed))}"
    )


def pad_channels(
  x: Float[Array, "B M C"], width: int, name: str
) -> Float[Array, "B M W"]:
  """Appends the same learned channels to every element, up to `width`."""
  if width == x.shape[-1]:
    return x
  table = position_encoding.TrainablePositions(
    1, width - x.shape[-1], name=name
  )()
  padding = jnp.broadcast_to(
    table.astype(x.dtype), (*x.shape[:2], table.shape[-1])
  )
  return jnp.concatenate([x, padding], axis=-1)


def outputs_of(
  spec: Mapping[str, Mapping[str, Any]],
) -> dict[str, GridOutput | LabelOutput]:
  """Returns the outputs of a spec's section; those with a `shape` are grids."""
  return {
    name: (GridOutput if "shape" in fields else LabelOutput)(**fields)
    for name, fields in spec.items()
  }
