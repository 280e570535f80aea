"""The models of both papers: sizes as published, with what they cost.

Sizes are those of the tables named in each entry and of the authors' code; what
neither states is marked "chosen". `num_parameters` is exact for the structure
as built here; `docs/models.md` puts it and our count of operations beside the
published figures, and says where the papers contradict themselves.
"""

from perceiver_jax.models.published import (
  audioset,
  flow,
  imagenet,
  kinetics,
  language,
  points,
  starcraft,
)
from perceiver_jax.models.published.entry import Entry

__all__ = ["MODELS", "Entry"]

MODELS: dict[str, Entry] = {
  **imagenet.MODELS,
  **language.MODELS,
  **flow.MODELS,
  **kinetics.MODELS,
  **audioset.MODELS,
  **points.MODELS,
  **starcraft.MODELS,
}
