"""The architecture of both papers: encode, process, decode.

`Perceiver` is an adapter that turns raw data into an input array, an encoder
that reads it into latents, and a decoder. With `AverageDecoder` and repeated
cross-attends it is the ICML model (arXiv 2103.03206); with `QueryDecoder` it is
Perceiver IO (arXiv 2107.14795). Shapes as in the package glossary.
"""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import blocks, positions
from perceiver_jax.models.typing import Array, Bool, Float

PLACEMENTS = ("interleaved", "start")
SHARING = ("after_first", "all", "none")


class EncoderConfig(NamedTuple):
  """Sizes of a `PerceiverEncoder`; defaults are ImageNet's (IO, app. A.1).

  Attributes:
    num_latents: N.
    num_latent_channels: D.
    num_blocks: How often a block of self-attends is applied.
    num_self_attends_per_block: L.
    num_cross_attends: How often the latents read the input.
    cross_attend_placement: "interleaved": spread evenly before the blocks;
      "start": all before the first block.
    share_cross_attends: "after_first": the first has its own weights and the
      others share one set (Perceiver, section 4.1); "all"; "none".
    share_blocks: Whether all blocks have one set of weights.
    num_cross_attend_heads: Heads of each cross-attend.
    num_self_attend_heads: Heads of each self-attend.
    cross_attend_widening_factor: MLP widening of the cross-attends.
    self_attend_widening_factor: MLP widening of the self-attends.
    qk_channels: Query and key width everywhere; 0 means each default.
    v_channels: Value width everywhere; 0 means `qk_channels`' default.
    shape_for_attn: Default cross-attend width: channels of "kv" or "q".
    use_query_residual: Whether cross-attends add to the latents.
    latent_init_scale: Standard deviation of the initial latents.
    remat: Whether the backward pass recomputes each self-attend.
  """

  num_latents: int = 512
  num_latent_channels: int = 1024
  num_blocks: int = 8
  num_self_attends_per_block: int = 6
  num_cross_attends: int = 1
  cross_attend_placement: str = "interleaved"
  share_cross_attends: str = "after_first"
  share_blocks: bool = True
  num_cross_attend_heads: int = 1
  num_self_attend_heads: int = 8
  cross_attend_widening_factor: int = 1
  self_attend_widening_factor: int = 1
  qk_channels: int = 0
  v_channels: int = 0
  shape_for_attn: str = "kv"
  use_query_residual: bool = True
  latent_init_scale: float = 0.02
  remat: bool = False


class PerceiverEncoder(hk.Module):
  """Reads an input array into latents and processes them."""

  def __init__(self, config: EncoderConfig, name: str | None = None):
    super().__init__(name=name)
    _check_choice(
      "cross_attend_placement", config.cross_attend_placement, PLACEMENTS
    )
    _check_choice("share_cross_attends", config.share_cross_attends, SHARING)
    interleaved = config.cross_attend_placement == "interleaved"
    if interleaved and config.num_cross_attends > config.num_blocks:
      raise ValueError(
        f"{config.num_cross_attends} cross-attends cannot be interleaved with"
        f" {config.num_blocks} blocks: raise num_blocks or place them at the"
        " 'start'"
      )
    self._config = config

  def __call__(
    self,
    inputs: Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B N D"], list[Float[Array, "B H N M"]]]:
    """Encodes and processes.

    Args:
      inputs: The input array.
      input_mask: True at real elements; the others are never read.
      return_attention: Whether to compute the weights of each cross-attend.

    Returns:
      The latents, and the weights (an empty list unless asked for).
    """
    cfg = self._config
    mask = blocks.cross_attention_mask(None, input_mask)
    if input_mask is not None:  # An overflow would pass its zero weight.
      inputs = jnp.where(input_mask[..., None], inputs, 0)
    table = positions.TrainablePositions(
      cfg.num_latents,
      cfg.num_latent_channels,
      cfg.latent_init_scale,
      name="latents",
    )()
    latents = positions.repeat_batch(table, inputs.shape[0])
    cross_attends, block_list = self._cross_attends(), self._blocks()
    attention = []
    for block, reads in zip(block_list, self._schedule(), strict=True):
      for i in reads:
        latents, weights = cross_attends[i](
          latents, inputs, mask, return_attention
        )
        attention += [weights] if return_attention else []
      latents = block(latents)
    return latents, attention

  def _schedule(self) -> list[list[int]]:
    """Which cross-attends come before each block."""
    cfg = self._config
    schedule = [[] for _ in range(cfg.num_blocks)]
    for i in range(cfg.num_cross_attends):
      start = cfg.cross_attend_placement == "start"
      at = 0 if start else i * cfg.num_blocks // cfg.num_cross_attends
      schedule[at].append(i)
    return schedule

  @hk.transparent
  def _cross_attends(self) -> list[blocks.CrossAttention]:
    cfg = self._config

    def make(i):
      return blocks.CrossAttention(
        num_heads=cfg.num_cross_attend_heads,
        qk_channels=cfg.qk_channels,
        v_channels=cfg.v_channels,
        widening_factor=cfg.cross_attend_widening_factor,
        shape_for_attn=cfg.shape_for_attn,
        use_query_residual=cfg.use_query_residual,
        name=f"cross_attend_{i}",
      )

    own = {"none": cfg.num_cross_attends, "after_first": 2, "all": 1}
    return _shared(make, cfg.num_cross_attends, own[cfg.share_cross_attends])

  @hk.transparent
  def _blocks(self) -> list[blocks.LatentTransformer]:
    cfg = self._config

    def make_layer():
      return blocks.SelfAttention(
        num_heads=cfg.num_self_attend_heads,
        qk_channels=cfg.qk_channels,
        v_channels=cfg.v_channels,
        widening_factor=cfg.self_attend_widening_factor,
        name="self_attend",
      )

    def make(i):
      return blocks.LatentTransformer(
        cfg.num_self_attends_per_block, make_layer, cfg.remat, name=f"block_{i}"
      )

    return _shared(
      make, cfg.num_blocks, 1 if cfg.share_blocks else cfg.num_blocks
    )


class QueryDecoder(hk.Module):
  """One cross-attend from output queries to latents, then a projection.

  Args:
    num_outputs: Output channels; 0 leaves the decoded queries unprojected.
    num_heads: Heads of the cross-attend.
    qk_channels: Query and key width; 0 means that of `shape_for_attn`.
    v_channels: Value width; 0 means `qk_channels`.
    widening_factor: MLP widening.
    shape_for_attn: Default width: channels of "kv" (latents) or "q".
    use_query_residual: Whether queries are added to what they read: True for
      ImageNet with Fourier features or convolutions, False elsewhere.
    zero_init: Whether the projection starts at zero (optical flow).
  """

  def __init__(
    self,
    num_outputs: int,
    num_heads: int = 1,
    qk_channels: int = 0,
    v_channels: int = 0,
    widening_factor: int = 1,
    shape_for_attn: str = "kv",
    use_query_residual: bool = True,
    zero_init: bool = False,
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._num_outputs = num_outputs
    self._zero_init = zero_init
    self._cross_attend = {
      "num_heads": num_heads,
      "qk_channels": qk_channels,
      "v_channels": v_channels,
      "widening_factor": widening_factor,
      "shape_for_attn": shape_for_attn,
      "use_query_residual": use_query_residual,
    }

  def __call__(
    self,
    queries: Float[Array, "B O E"],
    latents: Float[Array, "B N D"],
    query_mask: Bool[Array, "B O"] | None = None,
    return_attention: bool = False,
  ) -> tuple[Float[Array, "B O P"], Float[Array, "B H O N"] | None]:
    """Decodes each query by itself; returns outputs and weights (or None)."""
    cross_attend = blocks.CrossAttention(
      name="cross_attend", **self._cross_attend
    )
    mask = blocks.cross_attention_mask(query_mask, None)
    out, weights = cross_attend(queries, latents, mask, return_attention)
    if self._num_outputs:
      init = jnp.zeros if self._zero_init else None
      out = hk.Linear(self._num_outputs, w_init=init, name="output")(out)
    return out, weights


class ClassQueryDecoder(QueryDecoder):
  """Perceiver IO's classifier: one learned query, one vector of logits.

  Args:
    num_classes: Number of logits.
    num_query_channels: E (1024 for ImageNet).
    **decoder: Arguments of `QueryDecoder`.
  """

  def __init__(
    self,
    num_classes: int,
    num_query_channels: int = 1024,
    name: str | None = None,
    **decoder: int | bool | str,
  ):
    super().__init__(num_classes, name=name, **decoder)
    self._num_query_channels = num_query_channels

  def __call__(
    self, latents: Float[Array, "B N D"], return_attention: bool = False
  ) -> tuple[Float[Array, "B P"], Float[Array, "B H 1 N"] | None]:
    """Returns logits and the decoder's weights (or None)."""
    table = positions.TrainablePositions(
      1, self._num_query_channels, name="query"
    )()
    queries = positions.repeat_batch(table, latents.shape[0])
    out, weights = super().__call__(
      queries, latents, return_attention=return_attention
    )
    return out[:, 0], weights


class AverageDecoder(hk.Module):
  """The Perceiver's classifier: mean over latents, then a projection.

  The order (average first) is that of arXiv v2, app. F; the projection starts
  at zero as in the authors' code.
  """

  def __init__(self, num_classes: int, name: str | None = None):
    super().__init__(name=name)
    self._num_classes = num_classes

  def __call__(
    self, latents: Float[Array, "B N D"], return_attention: bool = False
  ) -> tuple[Float[Array, "B P"], Float[Array, "B 1 1 N"] | None]:
    """Returns logits and the (uniform) weights over latents, or None."""
    project = hk.Linear(self._num_classes, w_init=jnp.zeros, name="output")
    batch, n, _ = latents.shape
    weights = jnp.full((batch, 1, 1, n), 1 / n) if return_attention else None
    return project(jnp.mean(latents, axis=1)), weights


class Outputs(NamedTuple):
  """What a `Perceiver` returns.

  Attributes:
    logits: The decoded outputs.
    latents: The processed latents [B, N, D].
    encoder_attention: Weights [B, H, N, M] of each cross-attend, if asked for.
    decoder_attention: Weights [B, H, O, N], if asked for.
  """

  logits: jax.Array
  latents: jax.Array
  encoder_attention: tuple[jax.Array, ...]
  decoder_attention: jax.Array | None


class Perceiver(hk.Module):
  """Adapter, encoder, decoder.

  Args:
    adapter: Raw data to the input array: `adapter(x, is_training=...)` returns
      [B, M, C].
    encoder: See `PerceiverEncoder`.
    decoder: Latents to predictions: `ClassQueryDecoder`, `AverageDecoder`.
  """

  def __init__(
    self,
    adapter: Callable[..., jax.Array],
    encoder: PerceiverEncoder,
    decoder: Callable[..., tuple[jax.Array, jax.Array | None]],
    name: str | None = None,
  ):
    super().__init__(name=name)
    self._adapter = adapter
    self._encoder = encoder
    self._decoder = decoder

  def __call__(
    self,
    raw: Float[Array, "B ..."],
    *,
    is_training: bool,
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: bool = False,
  ) -> Outputs:
    """Runs the model; see `Outputs`."""
    inputs = self._adapter(raw, is_training=is_training)
    latents, reads = self._encoder(inputs, input_mask, return_attention)
    logits, decoder_attention = self._decoder(latents, return_attention)
    return Outputs(logits, latents, tuple(reads), decoder_attention)


def _shared(make: Callable[[int], hk.Module], count: int, own: int) -> list:
  """`count` modules of which the last `own`-th and all after it are one."""
  modules = [make(i) for i in range(min(count, own))]
  return modules + modules[-1:] * (count - len(modules))


def _check_choice(what: str, given: str, choices: tuple[str, ...]) -> None:
  if given not in choices:
    raise ValueError(f"{what} {given!r}: choose one of {', '.join(choices)}")
