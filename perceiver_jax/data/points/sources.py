"""Sources of point clouds and meshes by name."""

from collections.abc import Callable
from typing import Any

from perceiver_jax.data.core.source import Source, make_named
from perceiver_jax.data.points import hdf5, object_files, shards, solids

SOURCES: dict[str, Callable[..., Source]] = {
  "mesh_folder": object_files.mesh_folder,
  "resampled_text": object_files.resampled_text,
  "hdf5": hdf5.hdf5,
  "shards": shards.shards,
  "solids": solids.solids,
}


def make_source(name: str, /, **kwargs: Any) -> Source:
  """Makes the source called `name`.

  Args:
    name: A key of `SOURCES`.
    **kwargs: Arguments of the source, among them `split`.

  Returns:
    A source of `points` float32 [n, 3], or of `vertices` float32 [v, 3] and
    `faces` int32 [f, 3], with `label` int32; `sampling.sample` takes both.

  Raises:
    UserError: The name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "the data", kwargs)
