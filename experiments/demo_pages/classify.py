"""The page of image classifiers."""

from pathlib import Path
from typing import Any

from experiments.demo_pages import examples, page
from experiments.predictions import classify, image_model
from experiments.predictions.attention_maps import (
  attention_image,
  attention_values,
)
from perceiver_jax import weights as weights_lib


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  model = image_model.load(loaded)
  has_latents = page.has_latents(spec)

  def predict(image, latents="", head=""):
    example = model.read(page.path_of(image, "an image"))
    model_outputs = model.apply(example)
    shares = model.probabilities(model_outputs.logits[0]).tolist()
    shown = [page.by_name(model.class_names, shares)]
    shown.append(classify.draw(model, example, model_outputs))
    if has_latents:
      options = page.latent_options(latents, head)
      attention = attention_values.of_encoder(
        model_outputs, softmax=False, **options
      )
      shown.append(attention_image.draw(model, example, attention))
    return shown

  attention = [
    page.Output("image", "Attention of single latents, as logits", is_wide=True)
  ]
  return page.Page(
    "Image classification",
    "The most likely classes of an image, and where the model looks. Any image"
    " is cropped and resized to what the model takes.",
    [page.Input("image", "Image"), *page.LATENT_INPUTS * has_latents],
    [
      page.Output("classes", "Classes"),
      page.Output("image", "Attention of the prediction"),
      *attention * has_latents,
    ],
    predict,
    examples.images(folder),
  )
