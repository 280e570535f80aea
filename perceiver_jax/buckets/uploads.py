"""Files that grow while a run writes them to a bucket."""

import contextlib
import tempfile
import time
from pathlib import Path

from absl import logging
from etils import epath

from perceiver_jax.buckets.store import explained, read_bytes, upload

# Files are uploaded whole: at most this often, in seconds, and for at most this
# share of the time.
_UPLOAD_SECONDS = 30.0
_UPLOAD_SHARE = 0.02


class Uploads:
  """Local copies of files that grow, since objects can't be appended to.

  Files in the local folder are uploaded whole, at most every 30 seconds and for
  at most 2% of the time.

  Args:
    folder: The folder in a bucket.

  Attributes:
    local: The local folder.
  """

  def __init__(self, folder: epath.Path):
    self._folder = folder
    self._temporary = tempfile.TemporaryDirectory(prefix="perceiver-jax-")
    self.local = Path(self._temporary.name)
    self._uploaded: dict[str, int] = {}
    self._next = 0.0

  def fetch(self, name: str) -> None:
    """Copies a file of the bucket to the local folder if it exists."""
    (self.local / name).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), explained(self._folder):
      contents = read_bytes(self._folder / name)
      (self.local / name).write_bytes(contents)
      self._uploaded[name] = len(contents)

  def sync(self, now: bool = False) -> None:
    """Uploads the files that have grown if it is time to.

    Args:
      now: Upload in any case.

    Raises:
      OSError: They can't be uploaded. Without `now`, a warning is logged and
        the next call tries again.
    """
    start = time.monotonic()
    if start < self._next and not now:
      return
    try:
      for file in sorted(filter(Path.is_file, self.local.rglob("*"))):
        name = file.relative_to(self.local).as_posix()
        size = file.stat().st_size
        if self._uploaded.get(name) != size:
          upload(file, self._folder / name)
          self._uploaded[name] = size
    except OSError as error:
      if now:
        raise
      logging.warning("%s can't be written yet: %s", self._folder, error)
    end = time.monotonic()
    self._next = end + max(_UPLOAD_SECONDS, (end - start) / _UPLOAD_SHARE)

  def close(self) -> None:
    """Uploads what is left, and removes the local folder."""
    try:
      self.sync(now=True)
    finally:
      self._temporary.cleanup()
