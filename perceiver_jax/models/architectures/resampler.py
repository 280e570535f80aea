"""Perceiver resamplers: any number of features to a fixed number of latents.

They stand between a frozen encoder of images or frames and a language model
(Flamingo, arXiv 2204.14198; Idefics2, arXiv 2405.02246). In each layer, the
latents attend to the features and to themselves at once.

Shapes: B batch, T frames, S features of a frame, M = T * S features, C feature
channels, N latents, D latent channels, H heads.
"""

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import layers, position_encoding
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops import depth
from perceiver_jax.models.ops import dot_product_attention as ops
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention

_RMS_EPS = 1e-6
_FRAMES_INIT_SCALE = 0.3  # Of the embeddings of frames.
NORMS = ("layer", "rms")
ACTIVATIONS = ("squared_relu", "swiglu")


class FeaturesAdapter(hk.Module):
  """The features of frames, plus a learned embedding of the frame.

  Args:
    num_frames: Most frames of a clip; 0 for no embeddings, as of single images.
  """

  def __init__(self, num_frames: int = 0, name: str | None = None):
    super().__init__(name=name)
    self._num_frames = num_frames

  def __call__(
    self, raw: Float[Array, "B T S C"], *, is_training: bool
  ) -> Float[Array, "B M C"]:
    """Returns the input array, frame by frame.

    Args:
      raw: Features.
      is_training: Not used.

    Raises:
      ValueError: There are more frames than embeddings.
    """
    del is_training
    batch, frames, count, channels = raw.shape
    if self._num_frames:
      table = position_encoding.TrainablePositions(
        self._num_frames, channels, _FRAMES_INIT_SCALE, name="frames"
      )()
      table = position_encoding.first_rows(table, frames)
      raw = raw + table[:, None].astype(raw.dtype)
    return raw.reshape(batch, frames * count, channels)


class Resampler(hk.Module):
  """Layers of attention from latents to features and latents, then a norm.

  No linear layer has a bias.

  Args:
    num_latents: N.
    num_latent_channels: D.
    num_layers: Number of layers, each with its own weights.
    num_heads: Heads of the queries.
    num_kv_heads: Heads of keys and values, each shared by several of the
      queries (arXiv 2305.13245); 0 for as many as `num_heads`.
    head_channels: Width of a head.
    widening_factor: MLP hidden width over D.
    norm: "layer" or "rms".
    activation: "squared_relu", or "swiglu" (arXiv 2002.05202) with one more
      linear layer.
    projection: Kind of the layers that bring features to D channels before the
      first layer: "none", "linear" or "swiglu".
    projection_channels: Hidden width of a "swiglu" projection.
    execution: How it is computed.

  Raises:
    ValueError: An argument is invalid.
  """

  def __init__(
    self,
    num_latents: int = 64,
    num_latent_channels: int = 1536,
    num_layers: int = 6,
    num_heads: int = 16,
    num_kv_heads: int = 0,
    head_channels: int = 128,
    widening_factor: int = 4,
    norm: str = "layer",
    activation: str = "squared_relu",
    projection: str = "none",
    projection_channels: int = 0,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    num_kv_heads = num_kv_heads or num_heads
    if num_heads % num_kv_heads:
      raise ValueError(
        f"{num_kv_heads} heads of keys and values do not divide {num_heads}"
        " heads: change one of them"
      )
    for leaf, value, choices in (
      ("norm", norm, NORMS),
      ("activation", activation, ACTIVATIONS),
      ("projection", projection, ("none", "linear", "swiglu")),
    ):
      if value not in choices:
        raise ValueError(
          f"{leaf} {value!r}: choose one of {', '.join(choices)}"
        )
    self._num_latents = num_latents
    self._num_latent_channels = num_latent_channels
    self._num_layers = num_layers
    self._norm = norm
    self._projection = projection
    self._projection_channels = projection_channels
    self._execution = execution
    self._layer = {
      "num_heads": num_heads,
      "num_kv_heads": num_kv_heads,
      "head_channels": head_channels,
      "widening_factor": widening_factor,
      "norm": norm,
      "activation": activation,
      "execution": execution,
    }

  def __call__(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: jax.Array | None = None,
  ) -> tuple[Float[Array, "B N D"], list]:
    """Returns the latents, always without attention weights.

    Args:
      inputs: Features.
      input_mask: True at real features; those of padding have no effect.
      return_attention: Not used.
      initial_latents: Latents [B, N, D] or [N, D] in place of the learned ones.

    Raises:
      ValueError: The features, without a projection, or `initial_latents` do
        not have D channels.
    """
    del return_attention
    features = as_input_array(inputs).zero_padding(input_mask).array()
    features = self._project(features)
    latents = position_encoding.initial_latents(
      initial_latents, self._num_latents, self._num_latent_channels
    )
    batch = features.shape[0]
    latents = jnp.broadcast_to(
      latents.astype(features.dtype), (batch, *latents.shape[-2:])
    )
    mask = None
    if input_mask is not None:
      visible = jnp.ones(latents.shape[:2], bool)
      mask = jnp.concatenate([input_mask, visible], 1)[:, None]
    latents = depth.apply_layers(
      lambda x: ResamplerLayer(**self._layer, name="layer")(x, features, mask),
      latents,
      num_layers=self._num_layers,
      repeats=1,
      remat=False,
      execution=self._execution,
    )
    return _norm(self._norm, "norm", self._execution)(latents), []

  @hk.transparent
  def _project(self, features: jax.Array) -> jax.Array:
    """Brings features to D channels."""
    size = self._num_latent_channels
    if self._projection == "linear":
      return _linear(size, "projection")(features)
    if self._projection == "swiglu":
      return Mlp(self._projection_channels, size, "swiglu", "projection")(
        features
      )
    if features.shape[-1] != size:
      raise ValueError(
        f"the features have {features.shape[-1]} channels and the latents"
        f" {size}: make them equal, or set projection to 'linear'"
      )
    return features


class ResamplerLayer(hk.Module):
  """Attention of latents to features and latents, then an MLP.

  Args:
    num_heads: Heads of the queries.
    num_kv_heads: Heads of keys and values.
    head_channels: Width of a head.
    widening_factor: MLP hidden width over D.
    norm: "layer" or "rms".
    activation: "squared_relu" or "swiglu".
    execution: How it is computed.
  """

  def __init__(
    self,
    num_heads: int,
    num_kv_heads: int,
    head_channels: int,
    widening_factor: int,
    norm: str,
    activation: str,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_heads = num_heads
    self._num_kv_heads = num_kv_heads
    self._head_channels = head_channels
    self._widening_factor = widening_factor
    self._norm = norm
    self._activation = activation
    self._execution = execution

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    features: Float[Array, "B M D"],
    mask: Bool[Array, "B 1 K"] | None,
  ) -> Float[Array, "B N D"]:
    """Applies the layer.

    Args:
      latents: Queries, and the last of the keys and values.
      features: The other keys and values.
      mask: True at those of the K = M + N that may be attended to.
    """
    channels, how = latents.shape[-1], self._execution
    norm = lambda name: _norm(self._norm, name, how)
    normed = norm("latent_norm")(latents)
    both = jnp.concatenate([norm("input_norm")(features), normed], 1)
    q = self._heads(normed, self._num_heads, "query")
    k = self._heads(both, self._num_kv_heads, "key")
    v = self._heads(both, self._num_kv_heads, "value")
    shared = self._num_heads // self._num_kv_heads
    k, v = (jnp.repeat(x, shared, axis=2) for x in (k, v))
    attended = ops.dot_product_attention(q, k, v, mask, how)
    latents = latents + _linear(channels, "output")(attended)
    mlp = Mlp(
      self._widening_factor * channels, channels, self._activation, "mlp"
    )
    return latents + mlp(norm("mlp_norm")(latents))

  @hk.transparent
  def _heads(self, x: jax.Array, num_heads: int, name: str) -> jax.Array:
    x = _linear(num_heads * self._head_channels, name)(x)
    return x.reshape(*x.shape[:-1], num_heads, self._head_channels)


class Mlp(hk.Module):
  """Two linear layers without biases, or three with a gate.

  Args:
    hidden_channels: Hidden width.
    output_channels: Width of the result.
    activation: "squared_relu" or "swiglu".
  """

  def __init__(
    self,
    hidden_channels: int,
    output_channels: int,
    activation: str,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._hidden_channels = hidden_channels
    self._output_channels = output_channels
    self._activation = activation

  def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B D"]:
    """Applies the MLP to each element."""
    hidden = _linear(self._hidden_channels, "hidden")(x)
    if self._activation == "swiglu":
      hidden *= jax.nn.silu(_linear(self._hidden_channels, "gate")(x))
    else:
      hidden = jnp.square(jax.nn.relu(hidden))
    return _linear(self._output_channels, "output")(hidden)


class MeanPooling(hk.Module):
  """The mean of all features, then MLPs: the baseline of a resampler.

  Args:
    num_latent_channels: D.
    num_layers: Number of MLPs.
    widening_factor: Hidden width of each over D.
    execution: How it is computed.
  """

  def __init__(
    self,
    num_latent_channels: int = 64,
    num_layers: int = 2,
    widening_factor: int = 4,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_latent_channels = num_latent_channels
    self._num_layers = num_layers
    self._widening_factor = widening_factor
    self._execution = execution

  def __call__(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: jax.Array | None = None,
  ) -> tuple[Float[Array, "B 1 D"], list]:
    """Returns one latent, always without attention weights.

    Raises:
      ValueError: `initial_latents` are given.
    """
    del return_attention
    if initial_latents is not None:
      raise ValueError("the mean has no initial_latents: leave them out")
    how = self._execution
    x = as_input_array(inputs).zero_padding(input_mask).array()
    if input_mask is None:
      input_mask = jnp.ones(x.shape[:2], bool)
    # At least 1, so that the mean of no features is 0.
    count = jnp.maximum(input_mask.sum(1), 1).astype(x.dtype)
    x = x.sum(1, keepdims=True) / count[:, None, None]
    x = _linear(self._num_latent_channels, "projection")(x)
    for i in range(self._num_layers):
      mlp = Mlp(
        self._widening_factor * self._num_latent_channels,
        self._num_latent_channels,
        "squared_relu",
        f"mlp_{i}",
      )
      x = x + mlp(layers.LayerNorm(f"norm_{i}", how)(x))
    return layers.LayerNorm("norm", how)(x), []


class LatentsDecoder(hk.Module):
  """A decoder that returns the latents, for a model that reads them."""

  def __init__(self, execution: Execution = AUTO, name: str | None = None):
    del execution  # There is nothing to compute.
    super().__init__(name=name)

  def __call__(
    self,
    latents: Float[Array, "B N D"],
    inputs: InputArray | Float[Array, "B M C"] | None = None,
    input_mask: Bool[Array, "B M"] | None = None,
    queries: None = None,
    return_attention: ReturnAttention = False,
  ) -> tuple[Float[Array, "B N D"], None]:
    """Returns the latents, without attention weights."""
    del inputs, input_mask, queries, return_attention
    return latents, None


def _linear(size: int, name: str) -> hk.Linear:
  init = hk.initializers.VarianceScaling(1.0, "fan_in", "truncated_normal")
  return hk.Linear(size, with_bias=False, w_init=init, name=name)


def _norm(kind: str, name: str, execution: Execution) -> hk.Module:
  if kind == "layer":
    return layers.LayerNorm(name, execution)
  return hk.RMSNorm(-1, _RMS_EPS, name=name)
