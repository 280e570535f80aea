"""The models of the papers, with their published sizes and costs.

Sizes are from the table named in each entry and from the authors' code; sizes
that neither states are marked "chosen". `num_parameters` is exact for the
models as built here. `docs/models.md` compares it and our count of operations
with the published figures, which are in `tables.toml`, and says where the
papers contradict themselves.
"""

from perceiver_jax.models.published import (
  audioset,
  flow,
  hierarchical,
  imagenet,
  kinetics,
  language,
  perceiver_ar,
  points,
  resampler,
  starcraft,
  tables,
)
from perceiver_jax.models.published.entry import Entry

__all__ = ["MODELS", "Entry"]

MODELS: dict[str, Entry] = {
  name: entry._replace(**tables.costs(name))
  for part in (
    imagenet,
    language,
    flow,
    kinetics,
    audioset,
    points,
    starcraft,
    perceiver_ar,
    hierarchical,
    resampler,
  )
  for name, entry in part.MODELS.items()
}
