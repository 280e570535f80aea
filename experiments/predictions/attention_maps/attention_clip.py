"""Attention of single latents over the frames and the audio of clips."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import flags

from configs import kinetics as kinetics_config
from experiments import launch
from experiments.predictions import models, outputs
from experiments.predictions.attention_maps import attention_values
from perceiver_jax import files
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from perceiver_jax.tasks.shared import clip_data


class ClipModel(NamedTuple):
  """A model that takes clips.

  Attributes:
    task: The task, which reads and prepares clips.
    apply: Returns the outputs for a clip that was read, with attention logits,
      on the host. Of an autoencoder it decodes a single point of each grid.
  """

  task: clip_data.ClipTask
  apply: Callable[[Example], Any]


def run(arguments: Sequence[str], loaded: weights_lib.Weights | None) -> None:
  """Saves a figure for each clip: frames with overlays, and the audio.

  Args:
    arguments: Paths of videos, or of audio for models of audio alone.
    loaded: The weights of --weights; None for a run.

  Raises:
    UserError: The model does not take clips, or not those of --config.
  """
  paths = [files.as_path(p).expanduser() for p in arguments]
  model = load(loaded)
  examples = [model.task.read(path, flags.FLAGS.start) for path in paths]
  folder = outputs.output_folder()
  for path, example in zip(paths, examples, strict=True):
    shown = attention_values.of_encoder(model.apply(example), softmax=False)
    figure = model.task.attention_figure(
      example, shown.attention, shown.latents, shown.head
    )
    print(path)
    file = outputs.save_png(folder, f"{path.stem}-attention-maps.png", figure)
    print(f"  {file}")


def load(loaded: weights_lib.Weights | None = None) -> ClipModel:
  """Loads the model of --weights or of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.

  Raises:
    UserError: The model does not take clips, or not those of --config.
  """
  weights = models.load_weights(
    ["classification", "average_and_project", "multimodal"],
    "kinetics_784",
    loaded=loaded,
  )
  task = _make_task(weights.spec)
  apply_raw = models.jit_apply(weights, return_attention="logits")

  def apply(example):
    try:
      raw, options = _model_inputs(weights.spec, example)
      return jax.device_get(apply_raw(raw, **options))
    except (TypeError, ValueError) as error:
      raise UserError(
        f"the model does not take clips as its config prepares them: {error};"
        " give the weights' own --config"
      ) from error

  return ClipModel(task, apply)


def _make_task(spec: dict[str, Any]) -> clip_data.ClipTask:
  """Returns the task that prepares clips for a model."""
  if models.uses_run():
    config, task, _ = launch.saved_run()
  else:
    config = _config(spec)
    count = _num_classes(config.model)
    metadata = {"class_names": tuple(outputs.class_names(count))}
    task = registry.make_task(config, metadata)
  if not isinstance(task, clip_data.ClipTask):
    raise UserError(
      "the config is not of clips; give --config=configs/audioset.py:VARIANT or"
      " configs/kinetics.py:VARIANT"
    )
  return outputs.rename_classes(config, task) if models.uses_run() else task


def _config(spec: dict[str, Any]) -> ml_collections.ConfigDict:
  """Returns --config with the model of the weights.

  By default, it is that of Kinetics at the sizes that the model decodes.
  """
  if flags.FLAGS.config is not None:
    config = launch.config().copy_and_resolve_references()
    config.model = spec
    return config
  if spec["decoder"]["kind"] != "multimodal":
    raise UserError(
      "the preprocessing of clips for these weights is unknown; give it with"
      " --config=configs/audioset.py:VARIANT"
    )
  config = kinetics_config.get_config()
  decoded = spec["decoder"]["outputs"]
  num_frames, *size = decoded["image"]["shape"]
  audio = decoded["audio"]
  config.model = spec
  config.num_queries = {"image": 1, "audio": 1}
  config.data.num_frames, config.data.image_size = num_frames, tuple(size)
  config.data.num_samples = audio["shape"][0] * audio["num_outputs"]
  return config


def _num_classes(model: ml_collections.ConfigDict) -> int:
  if "num_classes" in model:
    return model.num_classes
  return model.decoder.outputs.label.num_outputs


def _model_inputs(
  spec: dict[str, Any], example: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the raw inputs of one example, and the outputs to decode."""
  names = spec["adapter"]["modalities"]
  raw = {name: example[name][None] for name in names if name in example}
  if spec["decoder"]["kind"] != "multimodal":
    return raw, {}
  decoded = spec["decoder"]["outputs"]
  raw["label"] = np.zeros((1, decoded["label"]["num_outputs"]), np.float32)
  raw["masked"] = {"label": np.ones(1, bool)}
  # One point of each grid, since only the encoder's attention is shown.
  first = {n: np.zeros(1, np.int32) for n, o in decoded.items() if "shape" in o}
  return raw, {"queries": first}
