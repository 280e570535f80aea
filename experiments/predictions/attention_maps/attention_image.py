"""Attention of single latents over images."""

from collections.abc import Sequence

import numpy as np

from experiments.predictions import image_model, outputs
from experiments.predictions.attention_maps import attention_values
from perceiver_jax import files
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.core.source import Example
from perceiver_jax.viz import attention_figures


def run(arguments: Sequence[str], loaded: weights_lib.Weights | None) -> None:
  """Saves a figure for each image: a row per cross-attend, a map per latent.

  Args:
    arguments: Paths of image files.
    loaded: The weights of --weights; None for a run.
  """
  paths = [files.as_path(p).expanduser() for p in arguments]
  model = image_model.load(loaded)
  inputs = [model.read(path) for path in paths]
  folder = outputs.output_folder()
  for path, example in zip(paths, inputs, strict=True):
    shown = attention_values.of_encoder(model.apply(example), softmax=False)
    figure = draw(model, example, shown)
    print(path)
    file = outputs.save_png(folder, f"{path.stem}-attention-maps.png", figure)
    print(f"  {file}")


def draw(
  model: image_model.ImageModel,
  example: Example,
  shown: attention_values.Shown,
) -> np.ndarray:
  """Draws an image and the maps of latents; returns uint8 [h, w, 3]."""
  return attention_figures.image_figure(
    model.to_pixels(example["image"]),
    shown.attention,
    shown.latents,
    shown.head,
  )
