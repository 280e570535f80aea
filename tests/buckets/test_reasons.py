"""Tests of the reasons that errors of object stores are given."""

import errno

import pytest

from perceiver_jax.buckets import reasons


class HttpError(Exception):
  """An error like that of gcsfs."""

  def __init__(self, code, message):
    super().__init__(message)
    self.code = code


class Timeout(Exception):
  """An error like those of aiohttp."""

  __module__ = "aiohttp.client_exceptions"


class NoCredentialsError(Exception):
  """An error like that of botocore."""

  __module__ = "botocore.exceptions"


class Refresh(Exception):
  """An error like that of google-auth."""

  __module__ = "google.auth.exceptions"


@pytest.mark.parametrize(
  ("error", "number", "parts"),
  [
    (FileNotFoundError("b/x"), errno.ENOENT, ["No such file"]),
    (FileExistsError("b/x"), errno.EEXIST, ["exists"]),
    (
      HttpError(401, "Anonymous caller, 401"),
      errno.EACCES,
      ["no valid credentials", "gcloud auth application-default login"],
    ),
    (Refresh("expired"), errno.EACCES, ["no valid credentials", "expired"]),
    (
      OSError("Forbidden: b/x\nno storage.objects.create"),
      errno.EACCES,
      ["permission denied", "storage.objects.create"],
    ),
    (
      NoCredentialsError("Unable to locate credentials"),
      errno.EACCES,
      ["no valid credentials", "Unable", "aws configure"],
    ),
    (
      PermissionError("Access Denied"),
      errno.EACCES,
      ["permission denied", "Access Denied"],
    ),
    (HttpError(503, "busy, 503"), errno.EPROTO, ["still answers 503", "busy"]),
    (HttpError(429, "slow down"), errno.EPROTO, ["still answers 429"]),
    (Timeout(), errno.EPROTO, ["no answer", "Timeout"]),
    (RuntimeError("x" * 999), errno.EPROTO, ["xxx"]),
  ],
)
def test_an_error_has_a_reason_in_one_line(error, number, parts):
  explained = reasons.os_error(error, "bucket/x")
  assert explained.errno == number
  assert explained.filename == "bucket/x"
  for part in parts:
    assert part in explained.strerror
  assert "\n" not in explained.strerror
  assert len(explained.strerror) < 600
