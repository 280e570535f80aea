"""Times Hierarchical Perceivers and Perceiver IO by the number of pixels.

  python -m scripts.benchmark.input_size

Prints a row for each side of a square image: operations per image in a forward
pass, its milliseconds, and both relative to the flat Perceiver IO in the code
of the Hierarchical Perceiver's authors, `hip_io_50m`. All models reconstruct
every pixel. On CPUs the benchmark measures processor time over all cores, so
that other load on the machine hardly matters. --norun only counts operations.
"""

import json
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
from absl import flags
from jax import numpy as jnp

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from scripts import model_table
from scripts.benchmark import timing

_FLAT = "hip_io_50m"
_MODELS = flags.DEFINE_list(
  "models", [_FLAT, "hip_16", "hip_256"], f"{_FLAT}, and models beside it."
)
_SIDES = flags.DEFINE_multi_integer(
  "side",
  [64, 128, 224],
  "Pixels along each side of an image, which may be given several times.",
  lower_bound=1,
)
_REPEATS = flags.DEFINE_integer(
  "repeats", 3, "Number of timed calls.", lower_bound=1
)
_NORUN = flags.DEFINE_bool("norun", False, "Only count operations.")
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  launch.no_arguments(argv)
  choices = [name for name in zoo.MODELS if name.startswith("hip_")]
  for name in _MODELS.value or [""]:
    if name not in choices:
      raise UserError(f"--models: {name!r} is none of {', '.join(choices)}")
  if _JSON.value:
    outputs.check_writable(files.as_path(_JSON.value), "another --json")
  device = jax.devices()[0]
  print(
    f"jax {jax.__version__}, {device.device_kind}, batch 1, float32, median of"
    f" {_REPEATS.value}",
    flush=True,
  )
  rows = [_row(side, device.platform) for side in _SIDES.value]
  print(timing.table(rows))
  if _JSON.value:
    versions = {"jax": jax.__version__, "device": device.device_kind}
    text = json.dumps({**versions, "rows": rows}, indent=2)
    files.write_text(_JSON.value, text)


def _row(side: int, platform: str) -> dict[str, Any]:
  """Returns the figures of all models for one size of images."""
  figures = {name: _measure(name, side, platform) for name in _MODELS.value}
  row: dict[str, Any] = {"side": str(side)}
  for name, own in figures.items():
    row |= {f"{name} {key}": value for key, value in own.items()}
    if name != _FLAT and _FLAT in figures:
      for key, value in own.items():
        row[f"{name} {key} ratio"] = value / figures[_FLAT][key]
  return row


def _measure(name: str, side: int, platform: str) -> dict[str, float]:
  """Returns the figures of a model for one size of images."""
  spec = zoo.get_spec(name, adapter={"modalities": ("image",)})
  raw = {"image": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)}
  _, count = model_table.sizes(spec, raw)
  if _NORUN.value:
    return {"GFLOP": count / 1e9}
  model = hk.without_apply_rng(
    hk.transform(lambda x: zoo.build(spec)(x, is_training=False).logits)
  )
  # Any values will do, and drawing them would have to be compiled.
  fill = lambda x: jnp.full(x.shape, 0.01, x.dtype)
  shapes = jax.eval_shape(model.init, jax.random.key(0), raw)
  params, raw = jax.tree.map(fill, (shapes, raw))
  run = jax.jit(model.apply)
  ms = timing.milliseconds(lambda: run(params, raw), _REPEATS.value, platform)
  return {"GFLOP": count / 1e9, "ms": ms}


if __name__ == "__main__":
  launch.run(main)
