"""Measures time and memory of one cross-attend by the number of inputs.

For `scripts.benchmark --scaling`: 512 latents of 1,024 channels attend to M
inputs of 261 channels, as in the ImageNet model (Perceiver, section 4.1), for M
from 2,048 to 1,048,576.
"""

from typing import Any

import haiku as hk
import jax
from jax import numpy as jnp

from perceiver_jax.models import blocks
from perceiver_jax.models.ops.execution import Execution
from scripts.benchmark import timing

SIZES = (2_048, 16_384, 65_536, 262_144, 1_048_576)
_LATENTS = (512, 1024)
_CHANNELS = 261


def rows(
  implementation: str,
  choices: Execution,
  batch_size: int,
  repeats: int,
  run: bool,
) -> list[dict[str, Any]]:
  """Measures temporary memory, and seconds, for each number of inputs.

  Args:
    implementation: Name of the choices.
    choices: How the cross-attend is computed.
    batch_size: Number of examples.
    repeats: Number of timed calls.
    run: Whether to time it, or only to compile it.
  """
  figures = []
  for size in SIZES:
    print(
      f"{size:,} inputs, {implementation}: compiling and running ...",
      flush=True,
    )
    row = _measure(choices, batch_size, size, repeats, run)
    figures.append(
      {"inputs": f"{size:,}", "implementation": implementation, **row}
    )
  return figures


def _measure(
  choices: Execution, batch_size: int, size: int, repeats: int, run: bool
) -> dict[str, float]:
  def cross_attend(latents, inputs):
    return blocks.CrossAttention(execution=choices)(latents, inputs)[0]

  module = hk.without_apply_rng(hk.transform(cross_attend))
  keys = jax.random.split(jax.random.key(0), 3)
  latents = jax.random.normal(keys[0], (batch_size, *_LATENTS))
  inputs = jax.random.normal(keys[1], (batch_size, size, _CHANNELS))
  params = module.init(keys[2], latents, inputs[:, :1])

  def loss(params, latents, inputs):
    return jnp.mean(module.apply(params, latents, inputs) ** 2)

  args = (params, latents, inputs)
  forward, cost = timing.compiled(jax.jit(module.apply), *args)
  # Includes gradients of the inputs, which learned positions need.
  both, cost_both = timing.compiled(jax.jit(jax.grad(loss, (0, 1, 2))), *args)
  row = {}
  if run:
    seconds = timing.median(lambda: forward(*args), repeats)
    seconds_both = timing.median(lambda: both(*args), repeats)
    row = {
      "forward": seconds,
      "and backward": seconds_both,
      "us per input": seconds / size / batch_size * 1e6,
      "and backward, us": seconds_both / size / batch_size * 1e6,
    }
  return row | {
    "forward MiB": cost["temporary"] / timing.MIB,
    "and backward MiB": cost_both["temporary"] / timing.MIB,
  }
