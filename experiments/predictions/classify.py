"""predict classify IMAGE ...: the most likely classes and the attention.

With several labels per image, it prints all labels above a threshold.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.predictions import image_model, outputs
from perceiver_jax import files
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError
from perceiver_jax.viz import attention_figures, image_layout


def run(arguments: Sequence[str]) -> None:
  """Prints the classes of images and saves each image next to the attention.

  Args:
    arguments: Paths of image files.

  Raises:
    UserError: No image or no model is given, or one can't be read.
  """
  paths = [files.as_path(p).expanduser() for p in arguments]
  if not paths:
    raise UserError("no image is given; name image files after the flags")
  model = image_model.load()
  # All images are read first, so that an unreadable one stops the command
  # before any output.
  inputs = [model.read(path) for path in paths]
  folder = outputs.output_folder()
  for path, example in zip(paths, inputs, strict=True):
    model_outputs = model.apply(example)
    print(path)
    if model.threshold is None:
      show = outputs.print_top_classes
    else:
      show = functools.partial(outputs.print_labels, model.threshold)
    show(model.probabilities(model_outputs.logits[0]), model.class_names)
    sheet = draw(model, example, model_outputs)
    file = outputs.save_png(folder, f"{path.stem}-attention.png", sheet)
    print(f"  {file}")


def draw(
  model: image_model.ImageModel, example: Example, model_outputs: Any
) -> np.ndarray:
  """Draws an image beside the output's attention; returns uint8 [h, w, 3]."""
  pixels = model.to_pixels(example["image"])
  (overlay,) = attention_figures.output_overlays(
    pixels[None],
    model_outputs.encoder_attention,
    model_outputs.decoder_attention,
  )
  return image_layout.contact_sheet(
    [pixels, overlay], ["input", "attention"], 2
  )
