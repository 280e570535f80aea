"""The record of how a model is computed, which never changes what it computes.

It is passed to `zoo.build` and from there to every module:

    model = zoo.build(spec, Execution(attention="chunked"))
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

CHOICES = {
  "platform": ("auto", "cpu", "gpu", "tpu"),
  "attention": ("auto", "plain", "xla", "chunked", "cudnn"),
  "absorb_projections": ("auto", "never"),
  "fuse_qkv": ("auto", "always", "never"),
  "custom_gradients": ("auto", "always", "never"),
  "scan_layers": (True, False),
  "remat": ("auto", "none", "dots", "projections", "attention", "full"),
}


@dataclasses.dataclass(frozen=True)
class Execution:
  """Chooses among implementations that are equal up to rounding.

  docs/performance.md has the time and memory of each.

  Attributes:
    platform: The platform that the model is compiled for, on which every "auto"
      below depends. "auto" is the one that JAX runs on; another is named to
      compile ahead of time.
    attention: The implementation of scaled dot-product attention: "plain", the
      equation as the authors wrote it; "xla", the same with heads before
      elements; "chunked", an online softmax over chunks, which never holds all
      logits; "cudnn", the fused kernel of NVIDIA GPUs. "auto" chooses by size.
    absorb_projections: Whether a cross-attend with one head may absorb the
      projections of its larger side into the smaller side. "auto" counts which
      order of products is cheapest.
    fuse_qkv: Whether a self-attend projects queries, keys and values with one
      product. "auto" does so on GPUs only; it is slower on CPUs, and on TPUs by
      the compiler's estimate.
    custom_gradients: Whether linear layers and LayerNorm use our own backward
      passes. "auto" uses them where they are faster: both on CPUs, and that of
      LayerNorm on TPUs by the compiler's estimate. They do not support
      forward-mode differentiation (`jax.jvp`).
    scan_layers: Whether the layers of a block are a `jax.lax.scan` or unrolled.
    remat: What the backward pass of a self-attend recomputes: "none", nothing;
      "dots", all but the products with weights; "projections", all but the
      products with the attention's weights; "attention", all but queries, keys,
      values and, of "chunked" attention, the result; "full", the whole layer.
      "projections" and "attention" also save the mean and reciprocal standard
      deviation of each LayerNorm with our own backward pass.
      "auto" is "full" where `EncoderConfig.remat` is set, else "attention" on
      TPUs and "projections" elsewhere.

  Raises:
    ValueError: A field has an unknown value.
  """

  platform: str = "auto"
  attention: str = "auto"
  absorb_projections: str = "auto"
  fuse_qkv: str = "auto"
  custom_gradients: str = "auto"
  scan_layers: bool = True
  remat: str = "auto"

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value not in CHOICES[name]:
        choices = ", ".join(map(str, CHOICES[name]))
        raise ValueError(f"execution.{name} {value!r}: choose one of {choices}")

  @classmethod
  def from_choices(cls, choices: Mapping[str, Any]) -> "Execution":
    """Makes a record from a config section or from text.

    Raises:
      ValueError: A field or a value is unknown.
    """
    for name in choices:
      if name not in CHOICES:
        raise ValueError(
          f"execution.{name}: choose one of {', '.join(CHOICES)}"
        )
    flags = {"True": True, "true": True, "False": False, "false": False}
    return cls(**{k: flags.get(v, v) for k, v in choices.items()})

  @property
  def target(self) -> str:
    """Returns the platform compiled for: "cpu", "gpu" or "tpu"."""
    return jax.default_backend() if self.platform == "auto" else self.platform

  @property
  def uses_custom_linear_gradients(self) -> bool:
    """Returns whether gradients of linear layers are our own."""
    if self.custom_gradients == "auto":  # XLA's own are slow on CPUs only.
      return self.target == "cpu"
    return self.custom_gradients == "always"

  @property
  def uses_custom_norm_gradients(self) -> bool:
    """Returns whether gradients of LayerNorm are our own."""
    if self.custom_gradients == "auto":
      return self.target in ("cpu", "tpu")
    return self.custom_gradients == "always"

  @property
  def fuses_qkv(self) -> bool:
    """Returns whether queries, keys and values are one product."""
    # On CPUs, joining the weights costs more than one larger product saves; on
    # TPUs, splitting the result does.
    if self.fuse_qkv == "auto":
      return self.target == "gpu"
    return self.fuse_qkv == "always"

  def replace(self, **changes: Any) -> "Execution":
    """Returns a copy with some fields changed."""
    return dataclasses.replace(self, **changes)


AUTO = Execution()
# The authors' code: unrolled layers, all logits at once, derived gradients.
PLAIN = Execution(
  attention="plain",
  absorb_projections="never",
  fuse_qkv="never",
  custom_gradients="never",
  scan_layers=False,
  remat="none",
)
