"""The page of models of StarCraft II."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.demo_pages import examples, page
from experiments.predictions import command
from perceiver_jax import weights as weights_lib

_PARTS = {"action": "Action", "selected": "Selected", "target": "Target"}


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  del loaded  # Weights alone lack the names of the actions.
  has_latents = page.has_latents(spec)
  options = {"return_attention": "logits"} if has_latents else {}
  model = command.load(**options)

  def predict(file):
    path = page.path_of(file, "an observation")
    observation = command.read(path, model.task)
    batch = command.batch_of(observation, model.task)
    batch["mask"] = np.ones(1, np.float32)
    model_outputs = model.apply(batch)
    shares = command.probabilities(model_outputs, observation, model.task)
    drawn = model.task.summary_images(model_outputs, batch)
    return [drawn["commands"], *(shares[part] for part in _PARTS)]

  return page.Page(
    "Commands in StarCraft II",
    "The next command for the units of an observation. Halos show the attention"
    " of the predicted target.",
    [page.Input("file", "Observation", suffixes=[".npz"])],
    [
      page.Output("image", "Battle"),
      *(page.Output("classes", label) for label in _PARTS.values()),
    ],
    predict,
    examples.observations(folder),
  )
