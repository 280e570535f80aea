"""Errors of s3fs, the file system of S3; `store` combines it with s3fs's class.

Orbax writes no checkpoints to S3, so that only files are read and written here.
"""

import errno
from typing import Any

from fsspec import asyn

from perceiver_jax.buckets import reasons


class Explained:
  """s3fs's file system, with errors of one line."""

  def check(self, bucket: str, key: str) -> None:
    """Raises an `OSError` if a folder of a bucket can't be listed."""
    try:
      self.call("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    except FileNotFoundError:
      raise OSError(
        errno.ENOENT, f"there is no bucket {bucket!r}", bucket
      ) from None

  async def _call_s3(self, method: str, *args: Any, **options: Any):
    try:
      return await super()._call_s3(method, *args, **options)
    except Exception as error:
      names = [options.get("Bucket", ""), options.get("Key", "")]
      raise reasons.os_error(error, "/".join(names)) from error

  call = asyn.sync_wrapper(_call_s3)
