"""Patches of images and video: space to depth, and overlapping patches."""

import jax

from perceiver_jax.models.typing import Array, Float


def space_to_depth(
  frames: Float[Array, "..."], temporal: int = 1, spatial: int = 1
) -> Float[Array, "..."]:
  """Moves blocks of pixels into channels, flattened as (dt, dy, dx, c).

  Args:
    frames: Images or video whose sizes the blocks divide.
    temporal: Frames per block (video only).
    spatial: Pixels per side of a block.

  Raises:
    ValueError: A size is not a multiple of its block.
  """
  video = frames.ndim == 5
  x = frames if video else frames[:, None]
  batch, t, height, width, channels = x.shape
  if t % temporal or height % spatial or width % spatial:
    raise ValueError(
      f"input of shape {frames.shape} does not divide into patches of"
      f" {temporal} x {spatial} x {spatial}"
    )
  x = x.reshape(
    batch, t // temporal, temporal, height // spatial, spatial,
    width // spatial, spatial, channels,
  )  # fmt: skip
  x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
  x = x.reshape(*x.shape[:4], -1)
  return x if video else x[:, 0]


def depth_to_space(
  frames: Float[Array, "..."], temporal: int = 1, spatial: int = 1
) -> Float[Array, "..."]:
  """Inverts `space_to_depth`."""
  video = frames.ndim == 5
  x = frames if video else frames[:, None]
  batch, t, height, width, _ = x.shape
  x = x.reshape(batch, t, height, width, temporal, spatial, spatial, -1)
  x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
  x = x.reshape(batch, t * temporal, height * spatial, width * spatial, -1)
  return x if video else x[:, 0]


def extract_patches(
  images: Float[Array, "B Y X c"],
  sizes: tuple[int, int],
  strides: tuple[int, int] = (1, 1),
  rates: tuple[int, int] = (1, 1),
  padding: str = "VALID",
) -> Float[Array, "B y x P"]:
  """Extracts patches, each flattened as (row, column, channel).

  Args:
    images: A batch of images.
    sizes: Rows and columns of a patch.
    strides: Step between patches.
    rates: Step between the pixels of a patch.
    padding: "VALID" or "SAME" (zeros).
  """
  patches = jax.lax.conv_general_dilated_patches(
    images,
    filter_shape=sizes,
    window_strides=strides,
    padding=padding,
    rhs_dilation=rates,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    # A convolution with a one-hot kernel: only exact at full precision.
    precision=jax.lax.Precision.HIGHEST,
  )
  channels = images.shape[-1]
  split = patches.reshape(*patches.shape[:3], channels, *sizes)
  return split.transpose(0, 1, 2, 4, 5, 3).reshape(patches.shape)
