"""A flow model as a function from two frames, for predictions and scores."""

from collections.abc import Callable

import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import source
from perceiver_jax.errors import UserError

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]
# From frames [b, 2, h, w, 3] of the model's size, uint8, to flow in pixels.
_Predict = Callable[[np.ndarray], np.ndarray]


def define_flags() -> None:
  """Defines the flags `estimator` reads, for a program of its own."""
  launch.define_flags(config_required=False)
  flags.DEFINE_string("weights", "", "File or folder of weights.")
  flags.DEFINE_string(
    "checkpoint", "latest", "Of --workdir: latest, best, or a step."
  )
  define_flags_of_tiles()


def define_flags_of_tiles() -> None:
  """Defines how images larger or smaller than the model's are covered."""
  flags.DEFINE_enum(
    "tiles",
    "even",
    ["even", "released"],
    "flow: tiles evenly spaced, as the paper says, or as the authors' notebook"
    " lays them.",
  )


def estimator() -> Estimate:
  """The model of --weights, or of a checkpoint of the run in --workdir.

  Returns:
    A function from two uint8 frames [H, W, 3] of any size to flow float32
    [H, W, 2] in pixels.

  Raises:
    UserError: none is given, or it does not predict flow.
  """
  from perceiver_jax.evaluation import tiling

  run = flags.FLAGS.workdir and not flags.FLAGS.weights
  predict, tile = _from_run() if run else _from_weights()
  return lambda first, second: tiling.tiled_flow(
    np.stack([first, second]),
    predict,
    tile=tile,
    min_overlap=tiling.overlap(tile),
    spacing=flags.FLAGS.tiles,
    batch_size=tiling.tiles_at_once(tile),
  )


def _from_weights() -> tuple[_Predict, tuple[int, int]]:
  from perceiver_jax.data.images import transforms
  from perceiver_jax.models.modalities import flow

  weights = source.load_weights(["flow"], "flow")
  apply = source.jitted(weights)

  def predict(frames):
    pixels = flow.in_pixels(apply(transforms.normalize(frames, "unit")).logits)
    return np.asarray(pixels, np.float32)

  return predict, tuple(weights.spec["decoder"]["image_size"])


def _from_run() -> tuple[_Predict, tuple[int, int]]:
  import jax

  from perceiver_jax.models.modalities import flow
  from perceiver_jax.tasks import optical_flow
  from perceiver_jax.training import restore

  config, task, folder = launch.saved_run()
  if not isinstance(task, optical_flow.OpticalFlow):
    raise UserError(
      f"--workdir={folder} holds a run of {config.task!r}, which does not"
      " predict optical flow"
    )
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  variables = jax.device_put(restore.local_params(restored.state))
  apply = jax.jit(
    lambda variables, frames: restored.model.apply(
      *variables, None, {"frames": frames}, False
    )[0]
  )

  def predict(frames):
    pixels = flow.in_pixels(apply(variables, frames).logits)
    return np.asarray(pixels, np.float32)

  return predict, tuple(config.model.decoder.image_size)
