"""Finds the files of the clips of a list by their names."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from perceiver_jax.data.clips.segment_lists import Row

_VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_AUDIO = (".wav", ".flac", ".m4a", ".mp3", ".ogg")


def is_clip(name: str) -> bool:
  """Returns whether a file's name is that of a video or audio file."""
  suffixes = (*_VIDEO, *_AUDIO)
  return not name.startswith(".") and name.lower().endswith(suffixes)


def by_stem(root: Path, prefer_video: bool) -> dict[str, str]:
  """Returns the paths of all clips below a folder, by the stem of the name.

  If several files have the same stem, the first of the preferred kind is used.
  Links to other folders are followed.

  Args:
    root: the folder.
    prefer_video: whether to prefer video files to audio files.
  """
  preferred = _VIDEO if prefer_video else _AUDIO
  paths: dict[str, str] = {}
  for folder, names in _folders(root):
    for name in filter(is_clip, names):
      stem = name.rpartition(".")[0]
      if stem not in paths or (
        name.lower().endswith(preferred)
        and not paths[stem].lower().endswith(preferred)
      ):
        paths[stem] = os.path.join(folder, name)
  return paths


def find(row: Row, paths: Mapping[str, str]) -> str | None:
  """Returns the path of the clip of a row, or None if there is none.

  Args:
    row: row of a list.
    paths: result of `by_stem`.
  """
  return next((paths[stem] for stem in _stems(row) if stem in paths), None)


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
  """Iterates over all folders and the sorted names of their files."""
  seen = set()
  for folder, folders, names in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:  # A link to a visited folder, possibly a parent.
      folders.clear()
      continue
    seen.add(real)
    folders.sort()
    yield folder, sorted(names)


def _stems(row: Row) -> Iterable[str]:
  """Iterates over the stems that the file of a row may have."""
  plain = lambda seconds: f"{seconds:g}"
  exact = lambda seconds: f"{seconds:.3f}"
  milliseconds = lambda seconds: str(round(seconds * 1000))
  padded = lambda seconds: f"{round(seconds):06d}"
  for video in (row.video, f"Y{row.video}"):
    for text in (padded, exact, milliseconds, plain):
      start, stop = text(row.start), text(row.stop)
      yield f"{video}_{start}_{stop}"
      yield f"{video}_{start}"
    yield video
