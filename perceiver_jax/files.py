"""Opens files that a user gives, and writes files completely or not at all.

Every path that a user gives becomes one of `as_path`: local, or in a bucket.
Only regular files are read: opening a pipe may wait forever, and a device may
have no end. An error is an `OSError` or `ValueError` whose text tells the
reason, for the caller to add what the file is for.
"""

import contextlib
import errno
import glob
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from perceiver_jax import limits
from perceiver_jax.errors import UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a pipe",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
  stat.S_IFSOCK: "a socket",
}

# Errors of a disk that can't be written to. Libraries raise them as several
# types, whose messages contain the system's.
_NO_SPACE = {
  number: os.strerror(number)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
}

# The file that each thread has opened last, for warnings about slow files.
last_opened: dict[int, str] = {}


def as_path(path: str | os.PathLike) -> Path:
  """Returns a path that a user gives, local or in a bucket (gs://, s3://).

  Of a bucket it is an `etils.epath.Path`, which has the same methods.

  Raises:
    UserError: the bucket is missing or can't be reached.
  """
  if not is_remote(path):
    return Path(path)
  from perceiver_jax.buckets import store  # Takes 0.1 s.

  return store.as_path(os.fspath(path))


def is_remote(path: str | os.PathLike) -> bool:
  """Returns whether a path is in a bucket."""
  return _URL.match(os.fsdecode(path)) is not None


def open_regular(
  path: str | os.PathLike, mode: str = "rb", **options: Any
) -> IO[Any]:
  """Opens a regular file for reading, with the options of Python's `open`.

  Raises:
    OSError: the file can't be opened, or is a folder, pipe, device or socket.
  """
  _check_path(path)
  if is_remote(path):
    from perceiver_jax.buckets import store

    return store.open_file(path, mode, **options)
  return open(path, mode, opener=_opener, **options)


def local_file(path: str | os.PathLike) -> Path:
  """Returns the local path of a regular file, for a library that opens it.

  A file in a bucket is copied to the cache first.

  Raises:
    OSError: there is no such file, or it is not a regular one.
  """
  _check_path(path)
  if is_remote(path):
    from perceiver_jax.buckets import cache

    return cache.local_copy(as_path(path))
  _check_mode(os.stat(path).st_mode, path)
  return Path(path)


def read_bytes(path: str | os.PathLike) -> bytes:
  """Reads a regular file.

  Raises:
    OSError: the file can't be read.
  """
  if is_remote(path):
    from perceiver_jax.buckets import store

    _check_path(path)
    return store.read_bytes(path)
  with open_regular(path) as file:
    return file.read()


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
  """Reads a regular file of text, with any line ends as newlines.

  Raises:
    OSError: the file can't be read.
    ValueError: it is not text in this encoding.
  """
  with open_regular(path, "r", encoding=encoding) as file:
    return file.read()


def local_folder(path: str | os.PathLike) -> Path:
  """Returns the local path of a folder or file of data.

  What is in a bucket is copied to the cache first; see `buckets.cache`.

  Raises:
    UserError: there is nothing at a path in a bucket, or it can't be copied.
  """
  if not is_remote(path):
    return Path(path).expanduser()
  from perceiver_jax.buckets import cache

  with _copying(path):
    return cache.local_copy(as_path(path))


def local_matches(pattern: str) -> list[str]:
  """Returns the sorted local paths of the files that match a pattern.

  What is in a bucket is copied to the cache first; see `buckets.cache`.

  Args:
    pattern: A pattern such as 'a/*.txt', a file, or a folder, which is searched
      recursively.

  Raises:
    UserError: The files of a bucket can't be copied.
  """
  if not is_remote(pattern):
    where = os.path.expanduser(pattern)
    if os.path.isdir(where):
      where = os.path.join(glob.escape(where), "**")
    return sorted(filter(os.path.isfile, glob.glob(where, recursive=True)))
  from perceiver_jax.buckets import cache

  as_path(pattern)  # Checks the bucket.
  with _copying(pattern):
    return sorted(map(str, cache.local_matches(pattern)))


def on_disk(path: str | os.PathLike, flag: str) -> Path:
  """Returns the path of a flag that may not be in a bucket.

  Raises:
    UserError: It is in a bucket.
  """
  if is_remote(path):
    raise UserError(
      f"{flag}={path} must be on a disk; give a local path, and copy what is"
      " written with gcloud storage cp"
    )
  return Path(path).expanduser()


def check_takes_checkpoints(path: str | os.PathLike, flag: str) -> None:
  """Checks that Orbax can write checkpoints to a folder.

  Raises:
    UserError: The kind of URL is unknown, it names no bucket, or the bucket is
      of another kind than gs://.
  """
  if not is_remote(path):
    return
  from perceiver_jax.buckets import store

  if store.split(os.fspath(path))[0] != "gs":
    raise UserError(
      f"{flag}={path} can't hold checkpoints, which Orbax reads and writes only"
      f" on disks and in gs:// buckets; give another {flag}"
    )


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Lets a block write a file, which appears only when it is complete.

  Yields:
    The local path to write to. It replaces `path` afterwards; after an error it
    is removed, and an older file stays. A symbolic link stays a link.

  Raises:
    OSError: something else than a regular file is there.
  """
  path = as_path(path)
  if is_remote(path):
    from perceiver_jax.buckets import store

    with tempfile.TemporaryDirectory(prefix="perceiver-jax-") as folder:
      partial = Path(folder) / path.name
      yield partial
      store.upload(partial, path)
    return
  path = _target(path)
  partial = partial_path(path)
  try:
    yield partial
    os.replace(partial, path)
  except BaseException:
    with contextlib.suppress(OSError):
      partial.unlink()
    raise


def partial_path(path: Path) -> Path:
  """Returns where this process writes a file before it is complete."""
  return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_bytes(path: str | os.PathLike, contents: bytes) -> None:
  """Writes a file completely or not at all; replaces an older one.

  Raises:
    OSError: it can't be written.
  """
  with replacing(path) as partial:
    partial.write_bytes(contents)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a file of UTF-8 completely or not at all; replaces an older one.

  Raises:
    OSError: it can't be written.
  """
  write_bytes(path, text.encode("utf-8"))


def check_writable(path: Path) -> None:
  """Checks that a file can be written, without changing it.

  Raises:
    OSError: it can't be.
  """
  if is_remote(path):
    from perceiver_jax.buckets import store

    path = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    store.create(path, b"")
    path.unlink()
    return
  path = _target(path)
  existed = path.exists()
  path.open("a").close()
  if not existed:
    path.unlink(missing_ok=True)


def move_folder(path: Path, target: Path) -> None:
  """Moves a folder; in a bucket, file by file.

  Raises:
    OSError: it can't be moved.
  """
  if is_remote(path):
    from perceiver_jax.buckets import store

    store.move_folder(path, target)
  else:
    path.rename(target)


def below(path: Path, suffix: str) -> list[Path]:
  """Returns the sorted paths of all files below a folder with a suffix."""
  if not is_remote(path):
    return sorted(path.rglob(f"*{suffix}"))
  from perceiver_jax.buckets import store

  return [each for each in store.below(path) if each.name.endswith(suffix)]


def size(path: Path) -> int:
  """Returns the number of bytes of a file."""
  status = path.stat()
  return status.length if is_remote(path) else status.st_size


def no_space(error: BaseException) -> str:
  """Returns why a disk can't be written to, if that caused an error; or ""."""
  cause: BaseException | None = error
  while cause is not None:
    number = cause.errno if isinstance(cause, OSError) else None
    for known, reason in _NO_SPACE.items():
      if number == known or reason in str(cause):
        return reason.lower()
    cause = cause.__cause__ or cause.__context__
  return ""


def is_name(name: str) -> bool:
  """Returns whether a text names a file in a folder, and not elsewhere."""
  return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def read_json(
  path: str | os.PathLike, max_bytes: int = limits.MAX_JSON_BYTES
) -> Any:
  """Reads a regular file of JSON.

  Raises:
    OSError: the file can't be read.
    ValueError: it is not JSON, too large, or nested too deeply.
  """
  with open_regular(path) as file:
    data = file.read(max_bytes + 1)
  return parse_json(data.decode("utf-8"), max_bytes)


def parse_json(text: str, max_bytes: int = limits.MAX_JSON_BYTES) -> Any:
  """Parses JSON.

  Raises:
    ValueError: the text is not JSON, too large, or nested too deeply.
  """
  if len(text) > max_bytes:
    raise ValueError(f"JSON of more than {max_bytes:,} bytes")
  try:
    value = json.loads(text)
  except RecursionError:
    raise ValueError("JSON that is nested too deeply") from None
  level = [value]
  for _ in range(limits.MAX_JSON_DEPTH):
    level = [inner for outer in level for inner in _parts(outer)]
    if not level:
      return value
  raise ValueError("JSON that is nested too deeply")


def _parts(value: Any) -> Iterable[Any]:
  if isinstance(value, dict):
    return value.values()
  return value if isinstance(value, list) else ()


@contextlib.contextmanager
def _copying(path: str | os.PathLike) -> Iterator[None]:
  """Turns an `OSError` while copying from a bucket into a `UserError`."""
  try:
    yield
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"{path} can't be copied to the cache: {reason}") from error


def _opener(path: str, flags: int) -> int:
  # Without O_NONBLOCK, opening a pipe waits for another process.
  descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    _check_mode(os.fstat(descriptor).st_mode, path)
  except OSError:
    os.close(descriptor)
    raise
  return descriptor


def _target(path: Path) -> Path:
  """Returns the file that writing to a path makes or replaces.

  Raises:
    OSError: something else than a regular file is there.
  """
  path = Path(os.path.realpath(path))
  with contextlib.suppress(FileNotFoundError):
    _check_mode(path.stat().st_mode, path)
  return path


def _check_path(path: str | os.PathLike) -> None:
  last_opened[threading.get_ident()] = os.fsdecode(path)
  # The system would refuse it with a ValueError.
  if "\0" in os.fsdecode(path):
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _check_mode(mode: int, path: str | os.PathLike) -> None:
  if not stat.S_ISREG(mode):
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, f"it is {kind} and not a regular file", str(path))
