"""Copies files of buckets to a local cache, for code that reads local ones."""

import contextlib
import datetime
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath
from fsspec import callbacks

from perceiver_jax.buckets.store import explained, filesystem, only_files

_LARGE = 2**30  # Bytes from which on copying is announced.
_AT_ONCE = 64  # Files that are copied at the same time.


def local_copy(path: epath.Path) -> Path:
  """Returns a local copy of a file or folder, for code that reads local ones.

  It is in the folder `perceiver_jax/buckets` of XDG_CACHE_HOME or ~/.cache,
  which is never emptied. Only files that have changed are copied again, and
  those that are no longer in the bucket are removed.

  Raises:
    OSError: The file or folder can't be read, or the copy can't be written.
  """
  url = os.fspath(path)
  with explained(path):
    found = only_files(filesystem(path).find(url, detail=True))
  if not found:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
  _remove_others(url, found)
  _copy(path, found)
  return _cached(url)


def local_matches(pattern: str) -> list[Path]:
  """Returns local copies of files that match a pattern or are in a folder.

  Raises:
    OSError: A file can't be read, or the copy can't be written.
  """
  with explained(pattern):
    store = filesystem(pattern)
    found = only_files(store.find(pattern, detail=True))
    if found:  # It is a file or folder, and not a pattern.
      _remove_others(pattern, found)
    else:
      found = only_files(store.glob(pattern, detail=True))
  scheme = pattern.partition("://")[0]
  _copy(pattern, found)
  return [_cached(f"{scheme}://{name.lstrip('/')}") for name in found]


def _cached(url: str) -> Path:
  """Returns the place of a URL in the cache.

  Raises:
    OSError: It would be outside the cache.
  """
  scheme, _, name = url.partition("://")
  if ".." in name.split("/"):
    raise OSError(errno.EINVAL, "the name of an object contains '..'", url)
  return _root() / scheme / name


def _root() -> Path:
  """Returns the folder of the cache."""
  home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
  return home / "perceiver_jax" / "buckets"


def _remove_others(url: str, found: Mapping[str, Any]) -> None:
  """Removes copies of files that are no longer below a URL.

  Args:
    url: A file or folder of a bucket.
    found: fsspec's information on the files that are there, by name.

  Raises:
    OSError: The copies are outside the cache, through a link.
  """
  top = _cached(url)
  if not top.resolve().is_relative_to(_root().resolve()):
    raise OSError(
      errno.EINVAL,
      f"{top} is a link to another folder; set XDG_CACHE_HOME to keep the cache"
      " elsewhere",
      url,
    )
  scheme = url.partition("://")[0]
  kept = {_cached(f"{scheme}://{name.lstrip('/')}") for name in found}
  folders: set[Path] = set()
  for path in kept:
    for folder in path.parents:
      if folder in folders:
        break
      folders.add(folder)
  _remove(top, kept, folders)


def _remove(path: Path, kept: Set[Path], folders: Set[Path]) -> None:
  """Removes a file, or those below a folder, unless they are kept.

  Another process may do the same. Links are removed and not followed.

  Args:
    path: The file or folder.
    kept: Files to keep.
    folders: All folders that contain them.
  """
  with contextlib.suppress(FileNotFoundError):
    if path.is_symlink() or not path.is_dir():
      if path not in kept:
        path.unlink()
      return
    for inner in list(path.iterdir()):
      _remove(inner, kept, folders)
    if path not in folders:
      path.rmdir()


def _copy(path: str | os.PathLike, found: Mapping[str, Any]) -> None:
  """Copies files of a bucket to the cache if they have changed.

  Args:
    path: Any path in the bucket.
    found: fsspec's information on each file, by name.
  """
  scheme = os.fspath(path).partition("://")[0]
  changed = []
  for name, info in found.items():
    target = _cached(f"{scheme}://{name.lstrip('/')}")
    try:
      status = target.stat()
      if (status.st_size, status.st_mtime_ns) == (info["size"], _time(info)):
        continue
    except FileNotFoundError:
      pass
    changed.append((name, target, info))
  size = sum(info["size"] for _, _, info in changed)
  if size > _LARGE:
    logging.info(
      "copying %d files (%.1f GB) of %s to the cache", len(changed), size / 1e9,
      path,
    )  # fmt: skip
  if not changed:
    return
  with _temporary_folder(_cached(f"{scheme}://")) as temporary:
    for start in range(0, len(changed), _AT_ONCE):
      _copy_together(path, changed[start : start + _AT_ONCE], temporary)


@contextlib.contextmanager
def _temporary_folder(cache: Path) -> Iterator[str]:
  """Creates a folder for incomplete files, and removes those of dead processes.

  It is beside those of the buckets, whose names never start with a dot, so that
  `_remove_others` of another process leaves it alone.

  Args:
    cache: The folder of all buckets of one kind.
  """
  cache.mkdir(parents=True, exist_ok=True)
  with open(cache / ".lock", "a+") as lock:
    # Processes that copy share the lock, which the system releases when one
    # ends in any way. One that gets it alone finds only what dead ones left.
    # Nothing is removed on file systems without locks.
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      for left in cache.glob(".*/"):
        shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):
      fcntl.flock(lock, fcntl.LOCK_SH)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".") as temporary:
      yield temporary


class _Each(callbacks.Callback):
  """Calls a function with the name and the copy of each file that is copied."""

  def __init__(self, function: Callable[[str, str], None]):
    super().__init__()
    self._function = function

  @contextlib.contextmanager
  def branched(
    self, path_1: str, path_2: str, **kwargs: Any
  ) -> Iterator[callbacks.Callback]:
    yield callbacks.DEFAULT_CALLBACK
    self._function(path_1, path_2)


def _copy_together(
  path: str | os.PathLike,
  part: Sequence[tuple[str, Path, Mapping[str, Any]]],
  temporary: str,
) -> None:
  """Copies files at the same time; each appears when it is complete."""
  places = {
    f"{temporary}/{number}": (target, info)
    for number, (_, target, info) in enumerate(part)
  }

  def move(name: str, file: str) -> None:
    target, info = places[file]
    if os.path.getsize(file) != info["size"]:
      raise OSError(errno.EIO, "it changed while it was copied", name)
    os.utime(file, ns=(_time(info), _time(info)))
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)

  names = [name for name, _, _ in part]
  with explained(path):
    filesystem(path).get(names, list(places), callback=_Each(move))


def _time(info: Mapping[str, Any]) -> int:
  """Returns when a file was written, in nanoseconds."""
  time = info.get("mtime") or info.get("LastModified") or info.get("created")
  if isinstance(time, str):
    time = datetime.datetime.fromisoformat(time)
  if isinstance(time, datetime.datetime):
    time = time.timestamp()
  return int((time or 0) * 1e6) * 1000
