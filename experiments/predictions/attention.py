"""predict attention INPUT ...: maps of the attention of single latents.

Reproduces the figures of the papers: pre-softmax attention over images
(Perceiver, Figures 3 and 7 to 15) and over video and audio (Figures 16 to 31),
and attention weights over text (Perceiver IO, Figure 7).
"""

import importlib
from collections.abc import Sequence

from experiments.predictions import models
from perceiver_jax.errors import UserError

# Kind of a model's adapter to the module that draws its attention.
_BY_ADAPTER = {
  "image": "attention_maps.attention_image",
  "multimodal": "attention_maps.attention_clip",
  "text": "attention_maps.attention_text",
}


def run(arguments: Sequence[str]) -> None:
  """Draws the attention to images, clips or texts.

  Args:
    arguments: Paths of images or clips, or texts, depending on the model.

  Raises:
    UserError: No input is given, one can't be read, or the model has no
      cross-attends.
  """
  if not arguments:
    raise UserError(
      "no input is given; name images or clips, or write texts in quotes, after"
      " the flags"
    )
  spec, loaded = models.read_spec()
  kind = spec["adapter"].get("kind", "image")
  if kind not in _BY_ADAPTER:
    raise UserError(
      f"the model has a {kind!r} adapter; attention maps are for"
      f" {', '.join(_BY_ADAPTER)}"
    )
  if spec["encoder"].get("kind", "perceiver") != "perceiver":
    raise UserError(
      "the model is a Transformer, which has no latents; give a Perceiver"
    )
  module = f"experiments.predictions.{_BY_ADAPTER[kind]}"
  importlib.import_module(module).run(arguments, loaded)
