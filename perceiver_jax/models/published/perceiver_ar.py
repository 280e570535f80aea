"""Perceiver AR's models (arXiv 2202.07765 and the authors' code).

The code has the sizes of the copy task and of ImageNet; 16 heads, MLPs of
widening factor 4 and dropout of 0.1 are those of all its recipes. The others'
depth, context, vocabulary and number of latents are chosen.
"""

from typing import Any

from jax import numpy as jnp

from perceiver_jax.models.published.entry import Entry, array

_SIDE = 64
_SPECIAL = 3  # Padding, and the tokens that begin and end a sequence.
_BYTES = 256 + _SPECIAL
_CHOSEN = "sizes are chosen, since the code has none; see docs/perceiver_ar.md"


def _entry(
  vocab_size: int,
  length: int,
  num_latents: int,
  depth: int,
  num_parameters: int,
  *,
  position_sizes: tuple[int, ...] = (),
  note: str = "",
  **positions: Any,
) -> Entry:
  """Returns a model.

  Args:
    vocab_size: Number of tokens.
    length: Number of inputs.
    num_latents: Number of latents.
    depth: Number of self-attends.
    num_parameters: Number of parameters.
    position_sizes: Number of positions in each dimension; by default those of
      the inputs, counted from 1.
    note: Explanation of a difference.
    **positions: `positions` of the adapter, or `rotary_fraction` and
      `max_wavelength` of the encoder.
  """
  sizes = position_sizes or (length + 1,)
  spec = {
    "adapter": {
      "kind": "tokens",
      "vocab_size": vocab_size,
      "num_channels": 1024,
      "positions": positions.pop("positions", "none"),
      "position_sizes": sizes,
    },
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": num_latents,
      "num_latent_channels": 1024,
      "num_self_attends": depth,
      "num_heads": 16,
      "widening_factor": 4,
      "rotary_fraction": 0.0,
      "max_wavelength": 8192.0,
      "dropout": 0.1,
      "input_dropout": 0.0,
      "remat": False,
    }
    | positions,
    "decoder": {"kind": "next_token", "vocab_size": vocab_size},
  }
  raw = {
    "tokens": array(length, dtype=jnp.int32),
    "positions": array(length, len(sizes), dtype=jnp.int32),
  }
  return Entry(spec, raw, num_parameters, note, has_input_mask=True)


def _rotary(length: int) -> dict[str, float]:
  """Returns the authors' defaults of rotary positions."""
  return {"rotary_fraction": 0.5, "max_wavelength": float(length)}


MODELS = {
  "perceiver_ar_copy_32": _entry(
    _BYTES, 32, 16, 1, 26_776_835, positions="sinusoidal",
  ),
  "perceiver_ar_copy_131072": _entry(
    _BYTES, 131_072, 1024, 6, 89_757_955, positions="sinusoidal",
  ),
  "perceiver_ar_imagenet64": _entry(
    _BYTES, 12_416, 1024, 60, 770_094_339,
    positions="learned", position_sizes=(_SIDE + 2, _SIDE + 2, 5),
  ),
  "perceiver_ar_wikitext103": _entry(
    32_000, 8192, 1024, 22, 356_334_848, note=_CHOSEN, **_rotary(8192),
  ),
  "perceiver_ar_pg19": _entry(
    32_000, 4096, 1024, 60, 834_991_360, note=_CHOSEN, **_rotary(4096),
  ),
  "perceiver_ar_books": _entry(
    32_000, 16_384, 1024, 36, 532_681_984, note=_CHOSEN, **_rotary(16_384),
  ),
  "perceiver_ar_maestro": _entry(
    388 + _SPECIAL, 4096, 2048, 12, 165_605_767, note=_CHOSEN, **_rotary(4096),
  ),
}  # fmt: skip
