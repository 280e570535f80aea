"""The encoder of both papers: latents attend to the input, then process it.

Repeated cross-attends, shared weights and their placement make it the ICML
Perceiver's (arXiv 2103.03206); a single cross-attend makes it Perceiver IO's
(arXiv 2107.14795). Shapes as in `perceiver_jax.models`.
"""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
from jax import numpy as jnp

from perceiver_jax.models import blocks, position_encoding
from perceiver_jax.models.inputs import InputArray, as_input_array
from perceiver_jax.models.ops import depth
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Bool, Float, ReturnAttention

PLACEMENTS = ("interleaved", "start")
SHARING = ("after_first", "all", "none")


class EncoderConfig(NamedTuple):
  """Sizes of a `PerceiverEncoder`; defaults are ImageNet's (IO, app. A.1).

  Attributes:
    num_latents: N.
    num_latent_channels: D.
    num_blocks: Number of blocks of self-attends.
    num_self_attends_per_block: L.
    num_cross_attends: Number of cross-attends to the input.
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
    remat: Whether the backward pass recomputes whole self-attends.
    gelu: "tanh" or "exact"; see `blocks.Mlp`.
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
  gelu: str = "tanh"


class PerceiverEncoder(hk.Module):
  """Cross-attends from latents to an input array, and processes the latents.

  Args:
    config: Sizes.
    execution: How it is computed.
  """

  def __init__(
    self,
    config: EncoderConfig,
    execution: Execution = AUTO,
    name: str | None = None,
  ):
    super().__init__(name=name)
    for leaf, default in EncoderConfig._field_defaults.items():
      value = getattr(config, leaf)
      if isinstance(value, str) != isinstance(default, str):
        raise ValueError(
          f"{leaf} {value!r}: give a value of type {type(default).__name__}"
        )
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
    if config.num_cross_attends and not config.num_blocks:
      raise ValueError(
        f"{config.num_cross_attends} cross-attends need a block that follows"
        " them: raise num_blocks, or set num_cross_attends to 0"
      )
    self._config = config
    self._execution = execution

  def __call__(
    self,
    inputs: InputArray | Float[Array, "B M C"],
    input_mask: Bool[Array, "B M"] | None = None,
    return_attention: ReturnAttention = False,
    initial_latents: Float[Array, "B n D"] | Float[Array, "n D"] | None = None,
  ) -> tuple[Float[Array, "B n D"], list[Float[Array, "B H n M"]]]:
    """Encodes the inputs and processes the latents.

    Args:
      inputs: The input array.
      input_mask: True at real elements; the others are never attended to.
      return_attention: Whether to compute the weights, or logits, of each
        cross-attend.
      initial_latents: Latents to start from, of any number n, shared by all
        examples or not; None starts from the learned ones.

    Returns:
      The latents, and the weights or logits (an empty list unless asked for).

    Raises:
      ValueError: `initial_latents` have another number of channels.
    """
    inputs = as_input_array(inputs).zero_padding(input_mask)
    latents = position_encoding.initial_latents(
      initial_latents,
      self._config.num_latents,
      self._config.num_latent_channels,
      self._config.latent_init_scale,
    )
    latents = latents if latents.ndim == 3 else latents[None]
    attention = []

    def apply(latents, stage):
      for cross_attend in stage.cross_attends:
        latents, weights = cross_attend(
          latents,
          inputs,
          input_mask=input_mask,
          return_attention=return_attention,
        )
        attention.append(weights)
      return depth.apply_repeatedly(stage.block, latents, stage.repeats)

    stages = self._stages()
    scan = self._execution.scan_layers and not return_attention
    shape = (inputs.shape[0], *latents.shape[1:])
    # All examples share the learned latents before the first cross-attend, but
    # the latents of a loop have the same shape throughout.
    if scan and stages[:1] == stages[1:2]:
      latents = jnp.broadcast_to(latents, shape)
    latents = depth.apply_stages(apply, stages, latents, scan=scan)
    latents = jnp.broadcast_to(latents, shape)
    return latents, attention if return_attention else []

  @hk.transparent
  def _stages(self) -> list["_Stage"]:
    """Returns cross-attends with the blocks that follow them, in order."""
    cfg, cross_attends = self._config, self._cross_attends()
    before_block = [[] for _ in range(cfg.num_blocks)]
    for i, cross_attend in enumerate(cross_attends):
      start = cfg.cross_attend_placement == "start"
      at = 0 if start else i * cfg.num_blocks // cfg.num_cross_attends
      before_block[at].append(cross_attend)
    stages = []
    for before, block in zip(before_block, self._blocks(), strict=True):
      if not before and stages and stages[-1].block is block:
        last = stages.pop()
        stages.append(last._replace(repeats=last.repeats + 1))
      else:
        stages.append(_Stage(tuple(before), block))
    return stages

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
        gelu=cfg.gelu,
        execution=self._execution,
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
        gelu=cfg.gelu,
        execution=self._execution,
        name="self_attend",
      )

    def make(i):
      return blocks.LatentTransformer(
        cfg.num_self_attends_per_block,
        make_layer,
        cfg.remat,
        self._execution,
        name=f"block_{i}",
      )

    return _shared(
      make, cfg.num_blocks, 1 if cfg.share_blocks else cfg.num_blocks
    )


class _Stage(NamedTuple):
  """Cross-attends and a block; equal if the modules are the same."""

  cross_attends: tuple[blocks.CrossAttention, ...]
  block: blocks.LatentTransformer
  repeats: int = 1


def _shared(make: Callable[[int], hk.Module], count: int, own: int) -> list:
  """Returns `count` modules; those after the first `own` repeat the last."""
  modules = [make(i) for i in range(min(count, own))]
  return modules + modules[-1:] * (count - len(modules))


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
  if given not in choices:
    raise ValueError(f"{name} {given!r}: choose one of {', '.join(choices)}")
