"""Gives the errors of libraries for object stores a reason in one line."""

import errno
import os

# Of other failures of a store. EIO would mean a damaged disk.
_FAILED = errno.EPROTO
_MAX_REASON = 300  # Characters of a library's error that are quoted.
_GOOGLE_CREDENTIALS = (
  "run `gcloud auth application-default login`, or set"
  " GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account"
)
_AWS_CREDENTIALS = (
  "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


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
    reason = f"no valid credentials ({text}); {_GOOGLE_CREDENTIALS}"
    return PermissionError(errno.EACCES, reason, where)
  if library.startswith("botocore") and "Credential" in type(error).__name__:
    reason = f"no valid credentials ({text}); {_AWS_CREDENTIALS}"
    return PermissionError(errno.EACCES, reason, where)
  if isinstance(error, PermissionError) or (
    isinstance(error, OSError) and text.startswith("Forbidden")
  ):
    return PermissionError(errno.EACCES, f"permission denied ({text})", where)
  if code.startswith("5") or code in ("408", "429"):
    reason = f"the server still answers {code} after several tries ({text})"
    return OSError(_FAILED, reason, where)
  if library.partition(".")[0] in ("aiohttp", "requests", "asyncio"):
    reason = f"the server gave no answer to several tries ({text})"
    return OSError(_FAILED, reason, where)
  return error if isinstance(error, OSError) else OSError(_FAILED, text, where)
