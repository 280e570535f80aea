"""Errors and time limits of gcsfs, the file system of Cloud Storage.

`store` combines it with gcsfs's class.
"""

import errno
from typing import Any

from fsspec import asyn

from perceiver_jax.buckets import reasons

# Seconds without an answer to a request after which it is sent again.
_ANSWER_SECONDS = 120.0


class Explained:
  """gcsfs's file system, with errors of one line and a limit on each wait."""

  def __init__(self, *args: Any, **options: Any):
    import aiohttp

    options.setdefault(
      "requests_timeout",
      aiohttp.ClientTimeout(
        total=None, sock_connect=30.0, sock_read=_ANSWER_SECONDS
      ),
    )
    options.setdefault("consistency", "md5")
    super().__init__(*args, **options)

  def check(self, bucket: str, key: str) -> None:
    """Raises an `OSError` if a folder of a bucket can't be listed."""
    try:
      self.call(
        "GET", "b/{}/o", bucket, prefix=key, maxResults=1, json_out=True
      )
    except FileNotFoundError:
      raise OSError(
        errno.ENOENT, f"there is no bucket {bucket!r}", bucket
      ) from None

  async def _call(self, method: str, path: str, *args: Any, **options: Any):
    try:
      return await super()._call(method, path, *args, **options)
    except Exception as error:
      raise reasons.os_error(error, "/".join(map(str, args)) or path) from error

  call = asyn.sync_wrapper(_call)

  async def _isdir(self, path: str) -> bool:
    # gcsfs returns False for other errors too, such as those of the network.
    try:
      return (await self._info(path))["type"] == "directory"
    except FileNotFoundError:
      return False
