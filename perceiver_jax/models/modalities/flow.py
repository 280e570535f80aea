"""The adapter and decoder of optical flow.

Shapes: frames [B, 2, Y, X, 3] in [-1, 1]; flow [B, Y, X, 2], the displacement
(x, y) of each pixel of the first frame. Sizes are in Perceiver IO v3,
Tables 5, 6 and 16.
"""

from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import decoders
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.modalities import convolutions, image, patches
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention

# The decoder's output is divided by 100, so that training starts from small
# flow, and multiplied by 20 to be in pixels (the authors' notebook).
OUTPUT_DIVISOR = 100.0
PIXELS_PER_UNIT = 20.0


class FlowAdapter(hk.Module):
  """Patches of pairs of frames with their positions (IO, app. H).

  Args:
    patch_size: Side of the zero-padded patch around each pixel: 3 or 1. Unused
      with convolutions.
    concat_frames: Whether the two frames of a pixel are one element (channels
      concatenated) or two elements with three-dimensional positions.
    use_convolutions: Whether a 7x7 convolutional stem, which divides the sizes
      by 4, replaces the patches and their linear layer.
    num_channels: Channels of the linear layer or of the stem.
    num_bands: Fourier bands per dimension.
    max_resolution: See `position_encoding.fourier_features`, one number for
      each dimension of the grid; empty means the sizes of the grid.
    cross_replica_axis: See `convolutions.ConvDownsample`.
  """

  def __init__(
    self,
    patch_size: int = 3,
    concat_frames: bool = True,
    use_convolutions: bool = False,
    num_channels: int = 64,
    num_bands: int = 64,
    max_resolution: Sequence[int] = (368, 496),
    cross_replica_axis: str = "",
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._patch_size = patch_size
    self._concat_frames = concat_frames
    self._use_convolutions = use_convolutions
    self._image = {
      "prep_type": "conv" if use_convolutions else "patches",
      "num_channels": num_channels,
      "spatial_downsample": 4 if use_convolutions else 1,
      "num_bands": num_bands,
      "max_resolution": max_resolution,
      "cross_replica_axis": cross_replica_axis,
    }

  def __call__(
    self, frames: Float[Array, "B 2 Y X c"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array; the first frame's elements come first."""
    return self.parts(frames, is_training=is_training).array()

  @hk.name_like("__call__")
  def parts(
    self, frames: Float[Array, "B 2 Y X c"], *, is_training: bool
  ) -> InputArray:
    """Returns the input array with its positions kept apart."""
    x = frames
    if not self._use_convolutions and self._patch_size > 1:
      sizes = (self._patch_size, self._patch_size)
      x = hk.BatchApply(
        lambda f: patches.extract_patches(f, sizes, padding="SAME")
      )(x)
    if self._concat_frames:
      x = jnp.concatenate([x[:, 0], x[:, 1]], axis=-1)
    adapter = image.ImageAdapter(name="image", **self._image)
    return adapter.parts(x, is_training=is_training)


class FlowDecoder(decoders.QueryDecoder):
  """Decodes the flow of each pixel; the first frame makes the queries.

  Args:
    image_size: (Y, X) of the frames.
    use_convex_upsampling: Whether the decoded grid is 4 times coarser than the
      frames and is upsampled, for the convolution stem.
    decoded_channels: Channels decoded before upsampling.
    **decoder: Other arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    image_size: Sequence[int] = (368, 496),
    use_convex_upsampling: bool = False,
    decoded_channels: int = 64,
    name: str | None = None,
    **decoder: Any,
  ):
    width = decoded_channels if use_convex_upsampling else 2
    decoder = {"use_query_residual": False} | decoder
    super().__init__(
      width, zero_init=not use_convex_upsampling, name=name, **decoder
    )
    self._image_size = tuple(image_size)
    self._upsample = use_convex_upsampling

  @hk.transparent  # Nothing is computed.
  def check_raw(self, frames: Any) -> None:
    """Checks the frames themselves: others can have as many elements.

    Raises:
      ValueError: They are not pairs of frames of `image_size`.
    """
    height, width = self._image_size
    if frames.shape[1:4] != (2, height, width):
      raise ValueError(
        f"frames {frames.shape}: give pairs [B, 2, {height}, {width}, 3], or"
        " change image_size"
      )

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    queries: Any = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B Y X 2"], Float[Array, "B H O N"] | None]:
    """Returns flow in units of `PIXELS_PER_UNIT` pixels.

    Raises:
      ValueError: The input elements are not those of `image_size`.
    """
    del input_mask, queries
    height, width = self._image_size
    factor = 4 if self._upsample else 1
    grid = (-(-height // factor), -(-width // factor))
    size = grid[0] * grid[1]
    if inputs.shape[1] not in (size, 2 * size):  # Concatenated or not.
      raise ValueError(
        f"{inputs.shape[1]} input elements do not come from frames of {height}"
        f" x {width}: give frames of that size or change image_size"
      )
    first_frame = as_input_array(inputs).slice(0, size)
    out, weights = super().__call__(
      first_frame, latents, return_attention=return_attention
    )
    out = out.reshape(-1, *grid, out.shape[-1])
    if self._upsample:
      out = convolutions.ConvexUpsample(factor, name="upsample")(out)
      out = out[:, :height, :width]
    return out / OUTPUT_DIVISOR, weights


def in_pixels(flow: jax.Array) -> jax.Array:
  """Converts the output of a `FlowDecoder` to pixels."""
  return flow * PIXELS_PER_UNIT
