"""A flow model as a function of two frames, for predictions and evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import models
from perceiver_jax.evaluation import tiling

# Maps uint8 frames [B, 2, h, w, 3] of the model's size to flow in pixels.
_Predict = Callable[[np.ndarray], np.ndarray]

# JAX is imported in functions, because scripts import this module for --help.


def define_flags() -> None:
  """Defines the flags that `estimator` reads, for a script."""
  launch.define_flags(config_required=False)
  flags.DEFINE_string("weights", "", "File or folder of weights.")
  flags.DEFINE_string(
    "checkpoint", "latest", "Checkpoint of --workdir: latest, best, or a step."
  )
  define_tiling_flags()


def define_tiling_flags() -> None:
  """Defines the flag that says how images are split into tiles."""
  flags.DEFINE_enum(
    "tiles",
    "even",
    ["even", "released"],
    "flow: evenly spaced tiles as in the paper, or tiles as in DeepMind's"
    " notebook.",
  )


def estimator(loaded: Any = None) -> tiling.Estimate:
  """Returns the model of --weights, or of a checkpoint of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.

  Raises:
    UserError: No model is given, or it does not predict flow.
  """
  predict, tile = _load_run() if models.uses_run() else _load_weights(loaded)
  return tiling.estimator(predict, tile, flags.FLAGS.tiles)


def _load_weights(loaded: Any) -> tuple[_Predict, tuple[int, int]]:
  """Loads --weights; returns the model and its image size."""
  from perceiver_jax.data.images import transforms
  from perceiver_jax.models.modalities import flow

  weights = models.load_weights(["flow"], "flow", loaded=loaded)
  apply = models.jit_apply(weights)

  def predict(frames):
    pixels = flow.in_pixels(apply(transforms.normalize(frames, "unit")).logits)
    return np.asarray(pixels, np.float32)

  return predict, tuple(weights.spec["decoder"]["image_size"])


def _load_run() -> tuple[_Predict, tuple[int, int]]:
  """Restores a checkpoint of a run; returns the model and its image size."""
  from jax import numpy as jnp

  from perceiver_jax.models.modalities import flow
  from perceiver_jax.tasks import optical_flow
  from perceiver_jax.training import restore

  config, task, folder = models.saved_run(
    optical_flow.OpticalFlow, "predict optical flow"
  )
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  apply = restore.predictor(restored)

  def predict(frames):
    logits = jnp.asarray(apply({"frames": frames}).logits)
    return np.asarray(flow.in_pixels(logits), np.float32)

  return predict, tuple(config.model.decoder.image_size)
