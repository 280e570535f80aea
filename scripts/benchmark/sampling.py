"""Times sampling from Perceiver AR with and without cached keys and values.

  python -m scripts.benchmark.sampling

Prints a row for each context, with the milliseconds per token of both and their
ratio. The time with a cache includes computing it again whenever all latents
are in use. On CPUs the benchmark measures processor time over all cores, so
that other load on the machine hardly matters.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files, weights
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import sampling
from scripts.benchmark import timing

_VOCABULARY, _HEADS = 262, 4

_CONTEXTS = flags.DEFINE_multi_integer(
  "context",
  [512, 2048],
  "Number of inputs, which may be given several times.",
  lower_bound=2,
)
_LATENTS = flags.DEFINE_integer(
  "num_latents", 256, "Number of latents.", lower_bound=2
)
_CHANNELS = flags.DEFINE_integer(
  "num_channels",
  128,
  f"Number of channels of inputs and latents, in {_HEADS} heads.",
)
_DEPTH = flags.DEFINE_integer(
  "num_self_attends", 4, "Number of self-attends.", lower_bound=1
)
_UNCACHED = flags.DEFINE_integer(
  "num_uncached_tokens", 8, "Tokens to time without a cache.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  launch.no_arguments(argv)
  if _CHANNELS.value < 1 or _CHANNELS.value % _HEADS:
    raise UserError(
      f"--num_channels={_CHANNELS.value} can't be divided among {_HEADS} heads;"
      f" give a multiple of {_HEADS}"
    )
  if _JSON.value:
    outputs.check_writable(files.as_path(_JSON.value), "another --json")
  device = jax.devices()[0]
  print(
    f"jax {jax.__version__}, {device.device_kind}, float32,"
    f" {_LATENTS.value} latents of {_CHANNELS.value} channels,"
    f" {_DEPTH.value} self-attends",
    flush=True,
  )
  rows = [_measure(context, device.platform) for context in _CONTEXTS.value]
  print(timing.table(rows))
  if _JSON.value:
    versions = {"jax": jax.__version__, "device": device.device_kind}
    text = json.dumps({**versions, "rows": rows}, indent=2)
    files.write_text(_JSON.value, text)


def _measure(context: int, platform: str) -> dict[str, Any]:
  """Returns the figures of a context."""
  model = _model(context)
  # A prompt that fills the context to three quarters.
  prompt = np.zeros((1, 3 * context // 4), np.int32)
  # From one filling of the cache to the next.
  cycle = _LATENTS.value - _LATENTS.value // 2 + 1

  def ms_per_token(use_cache, num_tokens):
    sampler = sampling.Sampler(model, context, use_cache=use_cache)
    generate = lambda: sampler.generate(prompt, num_tokens)
    return _milliseconds(generate, platform) / num_tokens

  cached = ms_per_token(True, cycle)
  uncached = ms_per_token(False, _UNCACHED.value)
  return {
    "context": str(context),
    "cached ms": cached,
    "uncached ms": uncached,
    "ratio": uncached / cached,
  }


def _model(context: int) -> weights.Weights:
  """Returns an untrained model with rotary positions."""
  spec = {
    "adapter": {
      "kind": "tokens",
      "vocab_size": _VOCABULARY,
      "num_channels": _CHANNELS.value,
    },
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": _LATENTS.value,
      "num_latent_channels": _CHANNELS.value,
      "num_self_attends": _DEPTH.value,
      "num_heads": _HEADS,
      "rotary_fraction": 0.5,
      "max_wavelength": float(context),
    },
    "decoder": {"kind": "next_token", "vocab_size": _VOCABULARY},
  }
  raw = {"tokens": np.zeros((1, 1), np.int32)}
  params, state = jax.jit(weights.transform(spec).init)(jax.random.key(0), raw)
  return weights.Weights(spec, params, state)


def _milliseconds(call: Callable[[], Any], platform: str) -> float:
  """Returns the time of a call after one that compiles."""
  clock = time.process_time if platform == "cpu" else time.perf_counter
  call()
  start = clock()
  call()
  return 1000 * (clock() - start)


if __name__ == "__main__":
  launch.run(main)
