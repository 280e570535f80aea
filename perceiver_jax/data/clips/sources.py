"""Sources of clips by name."""

from collections.abc import Callable
from typing import Any

from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import generated as generated_clips
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.windows import Clips
from perceiver_jax.data.core.source import make_named

SOURCES: dict[str, Callable[..., Clips]] = {
  "files": clip_files.files,
  "shards": clip_shards.shards,
  "generated": generated_clips.generated,
}


def make_clips(name: str, /, **arguments: Any) -> Clips:
  """Makes the clips called `name`.

  Args:
    name: a key of `SOURCES`.
    **arguments: arguments of the source.

  Raises:
    UserError: the name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "the clips", arguments)
