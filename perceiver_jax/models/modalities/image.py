"""The adapter of images and video.

Shapes: images [B, Y, X, c], video [B, T, Y, X, c]. The M elements are those of
the downsampled grid, in row-major order.
"""

import math
from collections.abc import Mapping, Sequence

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.models import layers, position_encoding
from perceiver_jax.models.inputs import InputArray
from perceiver_jax.models.modalities import convolutions, patches
from perceiver_jax.models.typing import Array, Float

PREP_TYPES = ("pixels", "conv1x1", "conv", "patches")
POSITIONS = ("fourier", "trainable")
COORDINATES = ("crop", "image")


class ImageAdapter(hk.Module):
  """Pixels or patches with positions (IO, app. A.1; Perceiver, 4.1).

  Args:
    prep_type: "pixels": each pixel an element; "conv1x1": pixels through a
      1x1 convolution; "conv": `ConvDownsample`; "patches": space to depth.
    num_channels: Output channels of the convolution or of the linear layer on
      patches; 0 leaves patches unprojected.
    spatial_downsample: Pixels per side of an element (4 per "conv" layer).
    temporal_downsample: Frames per element, for video patches.
    use_batchnorm: Whether the "conv" stem normalizes.
    position_encoding: "fourier" or "trainable".
    num_bands: Fourier bands per dimension.
    max_resolution: See `position_encoding.fourier_features`; empty means that
      of the grid.
    num_position_channels: Width of a trainable table.
    position_init_scale: Standard deviation from which such a table starts.
    project_positions: Width of a linear layer on the positions; 0 for none.
    concat_or_add: Whether positions are appended to the channels or added.
    num_position_mlp: Residual linear layers on the positions.
    cross_replica_axis: See `ConvDownsample`.
    padding: Padding of the "conv" stem; see `ConvDownsample`.
    coordinates: "crop": positions span [-1, 1] in the images that the model
      gets; "image": these are crops, and positions are those in the whole image
      (Perceiver, Figure 4). Raw data is then a mapping with the crops, "image",
      and "crop_box" [B, 2, 2], the (y, x) of their first and last pixels.
    permutation_seed: Seed of a fixed permutation of all elements with their
      positions (Perceiver v2, Table 2, "permuted"); 0 for none.

  Raises:
    ValueError: An unknown `prep_type`, `position_encoding`, `concat_or_add` or
      `coordinates`, or learned positions in the whole image.
  """

  def __init__(
    self,
    prep_type: str = "pixels",
    num_channels: int = 0,
    spatial_downsample: int = 1,
    temporal_downsample: int = 1,
    use_batchnorm: bool = True,
    position_encoding: str = "fourier",
    num_bands: int = 64,
    max_resolution: Sequence[int] = (),
    num_position_channels: int = 256,
    position_init_scale: float = 0.02,
    project_positions: int = 0,
    concat_or_add: str = "concat",
    num_position_mlp: int = 0,
    cross_replica_axis: str = "",
    padding: str = "same",
    coordinates: str = "crop",
    permutation_seed: int = 0,
    name: str | None = None,
  ):
    super().__init__(name=name)
    _check("prep_type", prep_type, PREP_TYPES)
    _check("position_encoding", position_encoding, POSITIONS)
    _check("concat_or_add", concat_or_add, ("concat", "add"))
    _check("coordinates", coordinates, COORDINATES)
    if coordinates == "image" and position_encoding != "fourier":
      raise ValueError(
        f"coordinates 'image' with position_encoding {position_encoding!r}: a"
        " table has no coordinates, so use 'fourier'"
      )
    self._prep_type = prep_type
    self._num_channels = num_channels
    self._spatial = spatial_downsample
    self._temporal = temporal_downsample
    self._use_batchnorm = use_batchnorm
    self._position_encoding = position_encoding
    self._num_bands = num_bands
    self._max_resolution = max_resolution
    self._num_position_channels = num_position_channels
    self._position_init_scale = position_init_scale
    self._project_positions = project_positions
    self._concat_or_add = concat_or_add
    self._num_position_mlp = num_position_mlp
    self._cross_replica_axis = cross_replica_axis
    self._padding = padding
    self._coordinates = coordinates
    self._permutation_seed = permutation_seed

  def __call__(
    self,
    images: Float[Array, "B ..."] | Mapping[str, Float[Array, "B ..."]],
    *,
    is_training: bool,
  ) -> Float[Array, "B M C"]:
    """Returns the input array; see `coordinates` for mappings."""
    return self.parts(images, is_training=is_training).array()

  @hk.name_like("__call__")
  def parts(
    self,
    images: Float[Array, "B ..."] | Mapping[str, Float[Array, "B ..."]],
    *,
    is_training: bool,
  ) -> InputArray:
    """Returns the input array with appended shared positions kept apart."""
    images, boxes = self._split(images)
    x = self._prepare(images, is_training)
    index_dims = x.shape[1:-1]
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    table = self._positions(index_dims, x.shape[-1], boxes).astype(x.dtype)
    if self._concat_or_add == "add":
      inputs = InputArray(x + table)
    elif boxes is None:
      inputs = InputArray(x, table)
    else:
      inputs = InputArray(jnp.concatenate([x, table], -1))
    if not self._permutation_seed:
      return inputs
    return inputs.permute(permutation(self._permutation_seed, x.shape[1]))

  @hk.transparent  # Precision policies would round the boxes.
  def _split(
    self, raw: jax.Array | Mapping[str, jax.Array]
  ) -> tuple[jax.Array, jax.Array | None]:
    """Returns the images, and the boxes of crops if coordinates need them."""
    with_boxes = isinstance(raw, Mapping)
    if with_boxes != (self._coordinates == "image"):
      raise ValueError(
        f"coordinates {self._coordinates!r}: give images alone for 'crop', and"
        " a mapping with 'image' and 'crop_box' for 'image'"
      )
    return (raw["image"], raw["crop_box"]) if with_boxes else (raw, None)

  @hk.transparent
  def _prepare(self, images: jax.Array, is_training: bool) -> jax.Array:
    if self._prep_type == "pixels":
      stride = self._spatial
      if images.ndim == 5:
        return images[:, :: self._temporal, ::stride, ::stride]
      return images[:, ::stride, ::stride]
    if self._prep_type == "conv1x1":
      conv = hk.Conv2D(
        self._num_channels, 1, stride=self._spatial, name="conv1x1"
      )
      return hk.BatchApply(conv)(images) if images.ndim == 5 else conv(images)
    if self._prep_type == "conv":
      return self._conv(images, is_training)
    x = patches.space_to_depth(images, self._temporal, self._spatial)
    if images.ndim == 5 and x.shape[1] == 1:
      x = x[:, 0]  # A single frame has two-dimensional positions.
    if self._num_channels:
      x = hk.Linear(self._num_channels, name="patches")(x)
    return x

  @hk.transparent
  def _conv(self, images: jax.Array, is_training: bool) -> jax.Array:
    num_layers = 0
    while 4**num_layers < self._spatial:
      num_layers += 1
    if not num_layers or 4**num_layers != self._spatial:
      raise ValueError(
        f"spatial_downsample {self._spatial}: the 'conv' stem divides by a"
        " power of 4"
      )
    stem = convolutions.ConvDownsample(
      num_layers,
      self._num_channels,
      self._use_batchnorm,
      self._cross_replica_axis,
      self._padding,
      name="stem",
    )
    if images.ndim == 5:
      return hk.BatchApply(stem)(images, is_training=is_training)
    return stem(images, is_training=is_training)

  @hk.transparent
  def _positions(
    self,
    index_dims: tuple[int, ...],
    channels: int,
    boxes: jax.Array | None,
  ) -> jax.Array:
    """Returns position encodings [M, P], or [B, M, P] if there are boxes."""
    if boxes is not None:
      x = position_encoding.positions_in_image(index_dims, boxes)
      resolution = tuple(self._max_resolution) or index_dims
      features = lambda positions: position_encoding.fourier_features(
        positions, self._num_bands, resolution
      )
      x = jax.vmap(features)(x)
    elif self._position_encoding == "fourier":
      x = position_encoding.fourier_grid(
        index_dims, self._num_bands, self._max_resolution
      )
    else:
      x = position_encoding.TrainablePositions(
        math.prod(index_dims),
        self._num_position_channels,
        self._position_init_scale,
        name="positions",
      )()
    added = channels if self._concat_or_add == "add" else 0
    if width := self._project_positions or added:
      x = layers.Linear(width, name="project_positions")(x)
    for i in range(self._num_position_mlp):
      x = x + hk.Linear(x.shape[-1], name=f"position_mlp_{i}")(x)
      if i < self._num_position_mlp - 1:
        x = jax.nn.relu(x)
    return x


def permutation(seed: int, size: int) -> np.ndarray:
  """Returns the order [M] of the elements for a `permutation_seed`."""
  return np.random.default_rng(seed).permutation(size)


def unpermute(
  attention: jax.Array | np.ndarray, seed: int
) -> jax.Array | np.ndarray:
  """Reorders attention [..., M] from permuted elements to pixels.

  Args:
    attention: Weights or logits of a cross-attend to the input array.
    seed: `ImageAdapter.permutation_seed`; 0 changes nothing.
  """
  if not seed:
    return attention
  return attention[..., np.argsort(permutation(seed, attention.shape[-1]))]


def _check(name: str, given: str, choices: tuple[str, ...]) -> None:
  if given not in choices:
    raise ValueError(f"{name} {given!r}: choose one of {', '.join(choices)}")
