"""Speed and operations in the papers' units, beside what the papers print.

For `scripts.benchmark --published`: train steps a second and operations
(Perceiver IO v3, Tables 1, 8, 10 and 17), and frames of optical flow a second
at 1088 x 436 (app. H). Operations are counted as in the papers, with all
projections, whatever implementation is timed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np
from jax import numpy as jnp

from perceiver_jax.evaluation import tiling
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.modalities import flow
from perceiver_jax.models.ops.execution import PLAIN, Execution
from perceiver_jax.models.published import tables
from scripts.benchmark import steps, timing

_SPEED = "steps_per_second"
_FLOW_SIZE = (436, 1088)  # Height and width (Perceiver IO v3, app. H).
_FLOW_DEVICES = {"gpu_frames": "TITAN Xp", "tpu_frames": "TPU v3 core"}
_NOT_STATED = "-"
# Points of each grid that the autoencoder decodes in training (app. I).
_TRAINING_POINTS = 512


class _Setting(NamedTuple):
  """The setting of a measured train step in the papers; 0 if not stated.

  Attributes:
    batch_size: Number of examples per step.
    num_devices: Number of devices.
    device: Kind of the devices.
  """

  batch_size: int = 0
  num_devices: int = 0
  device: str = "not stated"


# By source; batches are those of the recipes (Table 12, apps. A and I).
_SETTINGS = {
  "Perceiver IO v3, Table 1": _Setting(batch_size=2048),
  "Perceiver IO v3, Table 8": _Setting(1024, 64, "TPU v3"),
  "Perceiver IO v3, Table 17": _Setting(batch_size=1024),
}


def choices() -> list[str]:
  """Returns the models that have a published speed."""
  return [name for name in zoo.MODELS if _speed(name) or _frames(name)]


def measure(
  name: str,
  execution: Execution,
  *,
  batch_size: int,
  repeats: int,
  optimizer: str,
  run: bool,
) -> list[dict[str, Any]]:
  """Returns rows of what the paper printed of a model, and of what it is here.

  Args:
    name: One of `choices`.
    execution: How the model is computed.
    batch_size: Examples of a train step here.
    repeats: Number of timed calls.
    optimizer: One of `steps.OPTIMIZERS`.
    run: Whether to time it, or only to count operations.
  """
  rows = []
  if frames := _frames(name):
    rows += [
      {"model": name, "measured on": device, "frames/s": frames[column]}
      for column, device in _FLOW_DEVICES.items()
    ]
    ours = {"tiles": _num_tiles(name), "tile GFLOP": _operations(name)["GFLOP"]}
    if run:
      ours |= _flow_speed(name, execution, repeats)
    rows.append({"model": name, "measured on": _here(), **ours})
  if published := _speed(name):
    rows.append(_published_row(name, published))
    ours = {"devices": 1, "batch": batch_size}
    if run:
      seconds = _step_seconds(name, execution, batch_size, repeats, optimizer)
      ours["steps/s"] = 1 / seconds
      ours["examples/s/device"] = batch_size / seconds
    rows.append(
      {"model": name, "measured on": _here(), **ours, **_operations(name)}
    )
  return rows


def ratios(rows: list[dict[str, Any]]) -> list[str]:
  """Returns lines that compare the speed here with the papers'."""
  lines = []
  for row in rows:
    for column in ("examples/s/device", "frames/s"):
      here = [
        r[column]
        for r in rows
        if r["model"] == row["model"]
        and r["measured on"] == _here()
        and column in r
      ]
      is_paper = row["measured on"] != _here()
      if is_paper and here and isinstance(row.get(column), int | float):
        lines.append(
          f"{row['model']}: {row['measured on']} in the paper is"
          f" {row[column] / here[0]:.3g} x as fast as {_here()} here"
        )
  return lines


def _here() -> str:
  return jax.devices()[0].device_kind


def _speed(name: str) -> tables.Row | None:
  """Returns the row with a model's train steps a second."""
  if name == "starcraft":  # The paper's speed is that of all of AlphaStar.
    return None
  for row in tables.rows():
    value = row.values.get(_SPEED)
    if name in row.models and isinstance(value, int | float):
      return row
  return None


def _frames(name: str) -> Mapping[str, float] | None:
  """Returns a model's frames a second by column of the table."""
  for row in tables.rows():
    if name in row.models and set(_FLOW_DEVICES) <= set(row.values):
      return row.values
  return None


def _published_row(name: str, row: tables.Row) -> dict[str, Any]:
  setting = _SETTINGS.get(row.source, _Setting())
  speed = row.values[_SPEED]
  per_device = _NOT_STATED
  if setting.num_devices:
    per_device = speed * setting.batch_size / setting.num_devices
  number = row.source.rpartition(", ")[2]
  return {
    "model": name,
    "measured on": f"{setting.device} ({number})",
    "devices": setting.num_devices or _NOT_STATED,
    "batch": setting.batch_size or _NOT_STATED,
    "steps/s": speed,
    "examples/s/device": per_device,
    "GFLOP": zoo.MODELS[name].published_flops or _NOT_STATED,
    "training GFLOP": row.values.get("train_flops", _NOT_STATED),
  }


def _model(name: str, execution: Execution) -> hk.TransformedWithState:
  spec = zoo.get_spec(name)

  def run(raw, is_training, **options):
    # BatchNorm creates its running statistics only in training mode.
    is_training = is_training or hk.running_init()
    return zoo.build(spec, execution)(raw, is_training=is_training, **options)

  return hk.transform_with_state(run)


def _training_options(name: str, batch_size: int) -> dict[str, Any]:
  """Returns the outputs that a train step decodes, if not all."""
  decoder = zoo.get_spec(name)["decoder"]
  if decoder["kind"] != "multimodal":
    return {}
  grids = [k for k, v in decoder["outputs"].items() if "shape" in v]
  points = np.zeros((batch_size, _TRAINING_POINTS), np.int32)
  return {"queries": dict.fromkeys(grids, points)}


def _operations(name: str) -> dict[str, float]:
  """Counts the operations of one example, as the papers do.

  Returns:
    Units of 1e9: "GFLOP" of a forward pass with all outputs, "training GFLOP"
    of one with the outputs of training, "step GFLOP" of the whole train step.
  """
  # As in the plain implementation; a loop over layers is traced faster.
  model = _model(name, PLAIN.replace(scan_layers=True))
  raw = zoo.MODELS[name].example(1)
  params, state = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, True), raw
  )
  options = _training_options(name, 1)

  def forward(is_training, **options):
    apply = lambda p, s, x: model.apply(p, s, None, x, is_training, **options)
    run = lambda p, s, x: apply(p, s, x)[0].logits
    return flops.count_flops(run, params, state, raw)

  step, carry = steps.train_step(model, params, **options)
  return {
    "GFLOP": forward(False) / 1e9,
    "training GFLOP": forward(True, **options) / 1e9,
    "step GFLOP": flops.count_flops(step, carry, state, raw) / 1e9,
  }


def _step_seconds(
  name: str,
  execution: Execution,
  batch_size: int,
  repeats: int,
  optimizer: str,
) -> float:
  """Returns the median seconds of a train step."""
  model = _model(name, execution)
  raw = steps.random_inputs(zoo.MODELS[name].example(batch_size))
  params, state = jax.jit(model.init, static_argnums=2)(
    jax.random.key(0), raw, True
  )
  options = _training_options(name, batch_size)
  step, carry = steps.train_step(model, params, optimizer, **options)
  compiled, _ = timing.compiled(step, carry, state, raw)
  return steps.median_step(compiled, carry, state, raw, repeats)


def _num_tiles(name: str) -> int:
  """Returns the number of tiles that cover 1088 x 436 pixels."""
  tile = zoo.get_spec(name)["decoder"]["image_size"]
  starts = [
    tiling.tile_starts(size, length, tiling.overlap(tile))
    for size, length in zip(_FLOW_SIZE, tile, strict=True)
  ]
  return len(starts[0]) * len(starts[1])


def _flow_speed(
  name: str, execution: Execution, repeats: int
) -> dict[str, float]:
  """Times the flow of two frames of 1088 x 436 pixels, tile by tile."""
  model = _model(name, execution)
  tile = tuple(zoo.get_spec(name)["decoder"]["image_size"])
  raw = steps.random_inputs(zoo.MODELS[name].example(1))
  params, state = jax.jit(model.init, static_argnums=2)(
    jax.random.key(0), raw, False
  )

  @jax.jit
  def apply(params, state, frames):
    out, _ = model.apply(params, state, None, frames, False)
    return flow.in_pixels(out.logits)

  predict = lambda frames: np.asarray(apply(params, state, frames))
  frames = np.random.default_rng(0).uniform(-1, 1, (2, *_FLOW_SIZE, 3))
  frames = frames.astype(np.float32)
  seconds = timing.median(
    lambda: jnp.asarray(
      tiling.tiled_flow(
        frames, predict, tile=tile, min_overlap=tiling.overlap(tile)
      )
    ),
    repeats,
  )
  return {"seconds": seconds, "frames/s": 1 / seconds}
