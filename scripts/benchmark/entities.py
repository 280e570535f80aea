"""Times entity encoders by the number of entities.

  python -m scripts.benchmark.entities

Prints a row for each number of entities, from 32 to 512: operations per
observation in a forward pass, and the milliseconds per observation of a forward
pass and of the gradients of all outputs, for Perceiver IO and for the
Transformer of AlphaStar that it replaces (Perceiver IO v3, Table 9), at their
published sizes. On CPUs the benchmark measures processor time over all cores,
so that other load on the machine hardly matters.
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
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.ops.execution import AUTO, PLAIN, Execution
from scripts.benchmark import timing

_BATCH = flags.DEFINE_integer(
  "batch_size", 4, "Observations per batch.", lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Number of timed calls.", lower_bound=1
)
_SIZES = flags.DEFINE_multi_integer(
  "num_entities",
  [32, 64, 128, 256, 512],
  "Number of entities, which may be given several times.",
  lower_bound=1,
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_MODELS = {"io": "starcraft", "transformer": "starcraft_transformer"}


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  launch.no_arguments(argv)
  if _JSON.value:
    outputs.check_writable(files.as_path(_JSON.value), "another --json")
  device = jax.devices()[0]
  print(
    f"jax {jax.__version__}, {device.device_kind}, batch {_BATCH.value},"
    f" float32, median of {_REPEATS.value}",
    flush=True,
  )
  rows = []
  for size in _SIZES.value:
    row: dict[str, Any] = {"entities": str(size)}
    for title, name in _MODELS.items():
      figures = _measure(name, size, device.platform)
      row |= {f"{title} {key}": value for key, value in figures.items()}
    rows.append(row)
  print(timing.table(rows))
  if _JSON.value:
    versions = {"jax": jax.__version__, "device": device.device_kind}
    text = json.dumps({**versions, "rows": rows}, indent=2)
    files.write_text(_JSON.value, text)


def _measure(name: str, size: int, platform: str) -> dict[str, float]:
  """Returns the figures of a model for one number of entities."""
  model = _model(name, AUTO)
  channels = zoo.MODELS[name].raw.shape[-1]
  shape = (_BATCH.value, size, channels)
  raw = jax.random.normal(jax.random.key(0), shape)
  mask = jnp.ones(shape[:2], bool)
  params, state = jax.jit(model.init)(jax.random.key(1), raw, mask)

  def forward(params, raw):
    return model.apply(params, state, None, raw, mask)[0].logits

  def loss(params, raw):
    leaves = jax.tree.leaves(forward(params, raw))
    return sum(jnp.mean(jnp.square(x)) for x in leaves)

  # As the papers count: without rewrites that save operations.
  count = flops.count_flops(
    lambda p, x: _model(name, PLAIN).apply(p, state, None, x, mask)[0].logits,
    params,
    raw,
  )
  runs = jax.jit(forward), jax.jit(jax.grad(loss))
  ms = [
    timing.milliseconds(lambda f=f: f(params, raw), _REPEATS.value, platform)
    / _BATCH.value
    for f in runs
  ]
  return {
    "GFLOP": count / _BATCH.value / 1e9,
    "ms": ms[0],
    "gradient ms": ms[1],
  }


def _model(name: str, execution: Execution) -> hk.TransformedWithState:
  return hk.transform_with_state(
    lambda x, mask: zoo.build(zoo.get_spec(name), execution)(
      x, is_training=True, input_mask=mask
    )
  )


if __name__ == "__main__":
  launch.run(main)
