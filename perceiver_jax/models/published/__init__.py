"""The models of both papers, with their published sizes and costs.

Sizes are from the table named in each entry and from the authors' code; sizes
that neither states are marked "chosen". `num_parameters` is exact for the
models as built here. `docs/models.md` compares it and our count of operations
with the published figures, and says where the papers contradict themselves.
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
