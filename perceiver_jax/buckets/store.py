"""Files in buckets of object stores, through fsspec and etils' epath.

`files.as_path` returns the paths, whose methods raise `OSError`s with a reason
in one line. docs/buckets.md says what is tested, and what it costs.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import fsspec
from etils import epath

from perceiver_jax.buckets import cloud_storage, reasons, s3
from perceiver_jax.errors import UserError

# The package that reads each kind of URL that epath knows.
_PACKAGES = {
  "gs": "gcsfs",
  "s3": "s3fs",
  "az": "adlfs",
  "hf": "huggingface_hub",
}
_checked: set[tuple[str, str]] = set()

# With TensorFlow installed, epath would use its file systems instead.
os.environ.setdefault("EPATH_USE_TF", "false")


def as_path(url: str) -> epath.Path:
  """Returns the path of a file or folder in a bucket.

  Raises:
    UserError: The kind of URL is unknown, a package is missing, or the bucket
      is missing or can't be reached.
  """
  scheme, bucket, key = split(url)
  connect(scheme)
  _check(scheme, bucket, key, url)
  return epath.Path(url)


def split(url: str) -> tuple[str, str, str]:
  """Returns the kind, the bucket and the key of a URL.

  Raises:
    UserError: The kind of URL is unknown, or it names no bucket.
  """
  scheme, _, rest = url.partition("://")
  if scheme not in _PACKAGES:
    known = ", ".join(f"{name}://" for name in _PACKAGES)
    raise UserError(f"{url} is neither a local path nor one with {known}")
  bucket, _, key = rest.partition("/")
  if not bucket:
    raise UserError(f"{url} names no bucket; give {scheme}://BUCKET/FOLDER")
  return scheme, bucket, key


@functools.cache
def connect(scheme: str) -> None:
  """Prepares fsspec for URLs of this kind.

  Raises:
    UserError: The package that reads them is not installed.
  """
  package = _PACKAGES[scheme]
  if importlib.util.find_spec(package) is None:
    extra = {"gs": "-e '.[gcs]'", "s3": "-e '.[s3]'"}.get(scheme, package)
    raise UserError(
      f"{scheme}:// paths need the package {package}: pip install {extra}"
    )
  # TensorStore and other processes change folders that were listed before.
  fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
  if scheme == "gs":
    _register_gcsfs()
  if scheme == "s3":
    import s3fs

    # They would log where they have found credentials and the endpoint.
    logging.getLogger("aiobotocore").setLevel(logging.WARNING)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    cls = type("S3", (s3.Explained, s3fs.S3FileSystem), {})
    fsspec.register_implementation("s3", cls, clobber=True)


def _register_gcsfs() -> None:
  # The other class of gcsfs asks a second service for the kind of bucket.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  from gcsfs import core

  # gcsfs would print the traceback of an error that we report in a line.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  logging.getLogger("fsspec").setLevel(logging.WARNING)
  logging.getLogger("google.auth").setLevel(logging.ERROR)
  cls = type("CloudStorage", (cloud_storage.Explained, core.GCSFileSystem), {})
  for protocol in ("gs", "gcs"):
    fsspec.register_implementation(protocol, cls, clobber=True)


def filesystem(path: str | os.PathLike) -> fsspec.AbstractFileSystem:
  """Returns fsspec's file system of a path in a bucket."""
  scheme = os.fspath(path).partition("://")[0]
  connect(scheme)
  return fsspec.filesystem(scheme)


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
  """Turns errors of libraries for object stores into `OSError`s."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    # Libraries raise some errors of files without a reason.
    if isinstance(error, OSError) and error.strerror:
      raise
    raise reasons.os_error(error, os.fspath(path)) from error


def open_file(
  path: str | os.PathLike, mode: str = "rb", **options: Any
) -> IO[Any]:
  """Opens a file of a bucket for reading, with options of Python's `open`.

  Raises:
    OSError: It can't be read.
  """
  with explained(path):
    file = filesystem(path).open(os.fspath(path), "rb")
  return file if "b" in mode else io.TextIOWrapper(file, **options)


def read_bytes(path: str | os.PathLike) -> bytes:
  """Reads a file of a bucket with a single request.

  Raises:
    OSError: It can't be read.
  """
  with explained(path):
    return filesystem(path).cat_file(os.fspath(path))


def create(path: epath.Path, contents: bytes) -> bool:
  """Writes a file unless it exists; of several processes, one succeeds.

  Returns:
    Whether this call has written it.

  Raises:
    OSError: It can't be written.
  """
  with explained(path):
    try:
      filesystem(path).pipe_file(os.fspath(path), contents, mode="create")
    except FileExistsError:
      # An answer that was lost is followed by a second request.
      with contextlib.suppress(FileNotFoundError):
        return read_bytes(path) == contents
      return False
  return True


def upload(local: Path, path: epath.Path) -> None:
  """Copies a local file to a bucket, where it appears when it is complete.

  Raises:
    OSError: It can't be written.
  """
  with explained(path):
    filesystem(path).put_file(os.fspath(local), os.fspath(path))


def only_files(found: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the files of what fsspec has found, by name.

  Consoles and gcsfuse mark a folder with an empty object whose name ends in
  "/", which fsspec takes for a file.
  """
  return {
    name: info
    for name, info in found.items()
    if info["type"] == "file" and not name.endswith("/")
  }


def below(path: epath.Path) -> list[epath.Path]:
  """Returns the sorted paths of all files below a folder.

  Raises:
    OSError: They can't be listed.
  """
  with explained(path):
    names = only_files(filesystem(path).find(os.fspath(path), detail=True))
  scheme = os.fspath(path).partition("://")[0]
  return [
    epath.Path(f"{scheme}://{name.lstrip('/')}") for name in sorted(names)
  ]


def move_folder(path: epath.Path, target: epath.Path) -> None:
  """Moves all files of a folder of a bucket.

  Raises:
    OSError: A file can't be moved.
  """
  store = filesystem(path)
  with explained(path):
    for old in below(path):
      new = target / old.relative_to(path)
      store.mv(os.fspath(old), os.fspath(new))
    # With an object that marks it, the folder would still exist.
    for name in store.find(os.fspath(path)):
      if name.endswith("/"):
        store.rm_file(name)


def _check(scheme: str, bucket: str, key: str, url: str) -> None:
  """Checks that a bucket can be listed, once in each process."""
  if (scheme, bucket) in _checked:
    return
  check = getattr(filesystem(url), "check", None)
  if check:
    try:
      with explained(url):
        check(bucket, key)
    except OSError as error:
      raise UserError(f"{url} can't be read: {error.strerror}") from error
  _checked.add((scheme, bucket))
