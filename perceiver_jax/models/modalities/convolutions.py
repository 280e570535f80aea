"""Convolutions before and after a Perceiver: the stem and the upsamplers.

Shapes: images [B, Y, X, c], video [B, T, Y, X, c]; lower case t, y, x are sizes
of the smaller grid.
"""

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models.modalities import patches
from perceiver_jax.models.typing import Array, Float

PADDINGS = ("same", "torch")


class ConvDownsample(hk.Module):
  """Stem of 7x7 stride-2 convolutions and 3x3 stride-2 max-pools.

  Each layer divides height and width by 4 (Perceiver IO v3, app. A.3).

  Args:
    num_layers: Number of layers.
    num_channels: Output channels of each layer.
    use_batchnorm: Whether BatchNorm follows each convolution.
    cross_replica_axis: Mapped axis over which batch statistics are averaged,
      so that they do not depend on the number of devices; "" for none.
    padding: "same", as in the authors' code; or "torch", as in Hugging Face's
      models: 3 zeros on every side before the convolution and none before the
      pool, which gives 55 x 55 elements for 224 x 224 pixels.

  Raises:
    ValueError: An unknown `padding`.
  """

  def __init__(
    self,
    num_layers: int = 1,
    num_channels: int = 64,
    use_batchnorm: bool = True,
    cross_replica_axis: str = "",
    padding: str = "same",
    name: str | None = None,
  ):
    super().__init__(name=name)
    if padding not in PADDINGS:
      raise ValueError(
        f"padding {padding!r}: choose one of {', '.join(PADDINGS)}"
      )
    self._num_layers = num_layers
    self._num_channels = num_channels
    self._use_batchnorm = use_batchnorm
    self._cross_replica_axis = cross_replica_axis or None
    same = padding == "same"
    self._conv_padding = "SAME" if same else ((3, 3), (3, 3))
    self._pool_padding = "SAME" if same else "VALID"

  def __call__(
    self, images: Float[Array, "B Y X c"], *, is_training: bool
  ) -> Float[Array, "B y x C"]:
    """Downsamples; uses and updates batch statistics in training."""
    x = images
    for i in range(self._num_layers):
      x = hk.Conv2D(
        self._num_channels,
        7,
        stride=2,
        padding=self._conv_padding,
        with_bias=False,
        name=f"conv_{i}",
      )(x)
      if self._use_batchnorm:
        norm = hk.BatchNorm(
          True,
          True,
          decay_rate=0.9,
          eps=1e-5,
          cross_replica_axis=self._axis(is_training),
          name=f"batch_norm_{i}",
        )
        x = norm(x, is_training)
      x = jax.nn.relu(x)
      x = hk.max_pool(x, (3, 3, 1), (2, 2, 1), self._pool_padding)
    return x

  def _axis(self, is_training: bool) -> str | None:
    # Parameters are initialized outside the mapped step, where no axis exists.
    if hk.running_init() or not is_training:
      return None
    return self._cross_replica_axis


class ConvUpsample2D(hk.Module):
  """Upsamples by 4 with two 4x4 stride-2 transposed convolutions."""

  def __init__(self, num_outputs: int, name: str | None = None):
    super().__init__(name=name)
    self._num_outputs = num_outputs

  def __call__(self, x: Float[Array, "B y x C"]) -> Float[Array, "B Y X P"]:
    """Upsamples [B, y, x, C] to [B, 4y, 4x, num_outputs]."""
    n = self._num_outputs
    x = jax.nn.relu(hk.Conv2DTranspose(2 * n, 4, stride=2, name="conv_0")(x))
    return hk.Conv2DTranspose(n, 4, stride=2, name="conv_1")(x)


class ConvUpsample3D(hk.Module):
  """4x4x4 transposed convolutions, each doubling time, space or both.

  Args:
    num_outputs: Output channels; earlier layers have twice as many each.
    num_time_upsamples: How many of the layers double time.
    num_space_upsamples: How many double height and width.
  """

  def __init__(
    self,
    num_outputs: int,
    num_time_upsamples: int = 2,
    num_space_upsamples: int = 4,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_outputs = num_outputs
    self._num_time_upsamples = num_time_upsamples
    self._num_space_upsamples = num_space_upsamples

  def __call__(self, x: Float[Array, "B t y x C"]) -> Float[Array, "B T Y X P"]:
    """Upsamples a video."""
    depth = max(self._num_time_upsamples, self._num_space_upsamples)
    for i in range(depth):
      time = 2 if i < self._num_time_upsamples else 1
      space = 2 if i < self._num_space_upsamples else 1
      channels = self._num_outputs * 2 ** (depth - 1 - i)
      x = hk.Conv3DTranspose(
        channels, 4, stride=(time, space, space), name=f"conv_{i}"
      )(x)
      x = jax.nn.relu(x) if i < depth - 1 else x
    return x


class ConvexUpsample(hk.Module):
  """Predicts coarse flow and upsamples it by convex combinations, as RAFT does.

  Each fine pixel is a weighted mean of 3x3 coarse ones, with predicted weights
  that sum to one. The paper names the method without its sizes (IO, app. H);
  the hidden width, twice the input's, is our choice. The flow starts at zero.

  Args:
    factor: Fine pixels per side of a coarse one.
  """

  def __init__(self, factor: int, name: str | None = None):
    super().__init__(name=name)
    self._factor = factor

  def __call__(self, x: Float[Array, "B y x C"]) -> Float[Array, "B Y X 2"]:
    """Returns flow in units of fine pixels."""
    n = self._factor
    batch, height, width, channels = x.shape
    # A coarse pixel is `factor` fine ones wide.
    flow = n * hk.Linear(2, w_init=jnp.zeros, name="flow")(x)
    hidden = jax.nn.relu(hk.Conv2D(2 * channels, 3, name="mask_hidden")(x))
    weights = hk.Conv2D(9 * n * n, 1, name="mask")(hidden)
    weights = weights.reshape(batch, height, width, 9, n, n)
    weights = jax.nn.softmax(weights.astype(jnp.float32), axis=3)
    neighbors = patches.extract_patches(flow, (3, 3), padding="SAME")
    neighbors = neighbors.reshape(batch, height, width, 9, 2)
    fine = jnp.einsum("bhwkij,bhwkc->bhiwjc", weights, neighbors)
    return fine.reshape(batch, height * n, width * n, 2)
