"""Errors and time limits of gcsfs, the file system of Cloud Storage.

`store` combines it with gcsfs's class.
"""

import errno
import os
from typing import Any

from fsspec import asyn

# Seconds without an answer to a request after which it is sent again.
_ANSWER_SECONDS = 120.0
_MAX_REASON = 300  # Characters of a library's error that are quoted.
_CREDENTIALS = (
  "run `gcloud auth application-default login`, or set"
  " GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account"
)


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
      raise os_error(error, "/".join(map(str, args)) or path) from error

  call = asyn.sync_wrapper(_call)

  async def _isdir(self, path: str) -> bool:
    # gcsfs returns False for other errors too, such as those of the network.
    try:
      return (await self._info(path))["type"] == "directory"
    except FileNotFoundError:
      return False


def os_error(error: Exception, where: str) -> OSError:
  """Returns an `OSError` that gives the reason of a library's error."""
  text = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
  code = str(getattr(error, "code", None) or "")
  library = type(error).__module__
  if isinstance(error, FileNotFoundError):
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
  if isinstance(error, FileExistsError):
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), where)
  if code == "401" or library.startswith("google.auth"):
    reason = f"no valid credentials ({text}); {_CREDENTIALS}"
    return PermissionError(errno.EACCES, reason, where)
  if isinstance(error, OSError) and text.startswith("Forbidden"):
    return PermissionError(errno.EACCES, f"permission denied ({text})", where)
  if code.startswith("5") or code in ("408", "429"):
    reason = f"the server still answers {code} after several tries ({text})"
    return OSError(errno.EIO, reason, where)
  if library.partition(".")[0] in ("aiohttp", "requests", "asyncio"):
    reason = f"the server gave no answer to several tries ({text})"
    return OSError(errno.EIO, reason, where)
  return (
    error if isinstance(error, OSError) else OSError(errno.EIO, text, where)
  )
