"""Attention of single latents over images."""

from collections.abc import Sequence
from pathlib import Path

from experiments.predictions import attention_values, image_model, outputs
from perceiver_jax import weights as weights_lib
from perceiver_jax.viz import attention_figures


def run(arguments: Sequence[str], loaded: weights_lib.Weights | None) -> None:
  """Saves a figure for each image: a row per cross-attend, a map per latent.

  Args:
    arguments: Paths of image files.
    loaded: The weights of --weights; None for a run.
  """
  paths = [Path(p).expanduser() for p in arguments]
  model = image_model.load(loaded)
  inputs = [model.read(path) for path in paths]
  folder = outputs.output_folder()
  for path, example in zip(paths, inputs, strict=True):
    shown = attention_values.of_encoder(model.apply(example), softmax=False)
    figure = attention_figures.image_figure(
      model.to_pixels(example["image"]),
      shown.attention,
      shown.latents,
      shown.head,
    )
    print(path)
    file = outputs.save_png(folder, f"{path.stem}-attention-maps.png", figure)
    print(f"  {file}")
