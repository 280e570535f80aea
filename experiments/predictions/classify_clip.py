"""predict classify-clip CLIP ...: the labels of sounds and videos."""

import functools
from collections.abc import Sequence

import numpy as np
from absl import flags
from scipy import special

from experiments.predictions import outputs
from experiments.predictions.attention_maps import attention_clip
from perceiver_jax import files
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.audioset import AudioSet


def run(arguments: Sequence[str]) -> None:
  """Prints the labels of clips with their probabilities.

  Args:
    arguments: Paths of videos, or of audio for models of audio alone.

  Raises:
    UserError: No clip or no model is given, or one can't be read.
  """
  paths = [files.as_path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError("no clip is given; name audio or video files")
  model = load()
  # All clips are read first, so that an unreadable one stops the command before
  # any output.
  clips = [model.task.read_windows(path) for path in paths]
  show = outputs.print_top_classes
  if flags.FLAGS.threshold is not None:
    show = functools.partial(outputs.print_labels, flags.FLAGS.threshold)
  for path, windows in zip(paths, clips, strict=True):
    print(path)
    show(predict(model, windows), model.task.metadata()["class_names"])


def load(
  loaded: weights_lib.Weights | None = None,
) -> attention_clip.ClipModel:
  """Loads the classifier of --weights or of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.

  Raises:
    UserError: No model is given, or it does not classify clips.
  """
  model = attention_clip.load(loaded)
  if not isinstance(model.task, AudioSet):
    raise UserError(
      "the model does not classify clips as those of configs/audioset.py do;"
      " predict autoencode prints the classes of an autoencoder"
    )
  return model


def predict(
  model: attention_clip.ClipModel, windows: Sequence[Example]
) -> np.ndarray:
  """Returns the probabilities [P], as a mean over the windows of a clip."""
  logits = [np.asarray(model.apply(window).logits[0]) for window in windows]
  return special.expit(np.array(logits, np.float32)).mean(0)
