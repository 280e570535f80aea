"""A folder with files that grow, on a disk or in a bucket."""

import os
from pathlib import Path

from perceiver_jax import files


class GrowingFolder:
  """A folder with files that are appended to.

  Objects in buckets can't be: there, files are written to a temporary folder
  and uploaded by `sync`; see `buckets.uploads`.

  Args:
    folder: the folder; created if missing.

  Attributes:
    local: the local folder to write to.
  """

  def __init__(self, folder: str | os.PathLike):
    folder = files.as_path(folder)
    self._uploads = None
    self.local = folder
    folder.mkdir(parents=True, exist_ok=True)
    if files.is_remote(folder):
      from perceiver_jax.buckets import uploads

      self._uploads = uploads.Uploads(folder)
      self.local = self._uploads.local

  def fetch(self, name: str) -> Path:
    """Returns the local path of a file, with what the folder holds of it."""
    if self._uploads:
      self._uploads.fetch(name)
    return self.local / name

  def sync(self, now: bool = False) -> None:
    """Uploads what was written, not too often unless `now` is set.

    Raises:
      OSError: it can't be uploaded.
    """
    if self._uploads:
      self._uploads.sync(now)

  def close(self) -> None:
    """Uploads what is left."""
    if self._uploads:
      self._uploads.close()
