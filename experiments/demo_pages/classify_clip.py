"""The page of classifiers of clips."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from experiments.demo_pages import examples, page
from experiments.predictions.attention_maps import (
  attention_clip,
  attention_values,
)
from perceiver_jax import weights as weights_lib


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  model = attention_clip.load(loaded)
  names = model.task.metadata()["class_names"]
  has_latents = page.has_latents(spec)

  def predict(clip, start="", latents="", head=""):
    path = page.path_of(clip, "a clip")
    example = model.task.read(path, page.seconds_of(start))
    model_outputs = model.apply(example)
    logits = np.asarray(model_outputs.logits[0], np.float32)
    shares = special.expit(logits).tolist()
    shown: list[Any] = [page.by_name(names, shares)]
    if has_latents:
      chosen = attention_values.of_encoder(
        model_outputs, softmax=False, **page.latent_options(latents, head)
      )
      shown.append(
        model.task.attention_figure(
          example, chosen.attention, chosen.latents, chosen.head
        )
      )
    return shown

  takes_video = "image" in spec["adapter"]["modalities"]
  suffixes = examples.VIDEO if takes_video else examples.AUDIO
  attention = [
    page.Output("image", "Attention of single latents, as logits", is_wide=True)
  ]
  return page.Page(
    "Classification of clips",
    f"The labels of {model.task.window.seconds:.2f} seconds of a clip, of which"
    " there may be several, and where the model looks and listens.",
    [
      page.Input("file", "Clip", suffixes=suffixes),
      page.Input("text", "Start", "seconds", is_option=True),
      *page.LATENT_INPUTS * has_latents,
    ],
    [page.Output("classes", "Labels"), *attention * has_latents],
    predict,
    examples.clips(folder, model.task.window),
  )
