"""Where the clips of a list lie, whatever they are called."""

import os
from collections.abc import (
  Iterable,
  Iterator,
  Mapping,
)
from pathlib import Path

from perceiver_jax.data.clips.segment_lists import Row

_VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_SOUND = (".wav", ".flac", ".m4a", ".mp3", ".ogg")


def is_clip(name: str) -> bool:
  """Whether a file is one of video or sound, by its name."""
  suffixes = (*_VIDEO, *_SOUND)
  return not name.startswith(".") and name.lower().endswith(suffixes)


def by_stem(root: Path, pictures: bool) -> dict[str, str]:
  """Paths of all clips below a folder by their names without the suffix.

  Of several with the same name, it is the first one of the wanted kind; links
  to other folders are followed.

  Args:
    root: the folder.
    pictures: whether files of video are wanted, else of sound.
  """
  wanted = _VIDEO if pictures else _SOUND
  found: dict[str, str] = {}
  for folder, names in _folders(root):
    for name in filter(is_clip, names):
      stem = name.rpartition(".")[0]
      if stem not in found or (
        name.lower().endswith(wanted)
        and not found[stem].lower().endswith(wanted)
      ):
        found[stem] = os.path.join(folder, name)
  return found


def find(row: Row, found: Mapping[str, str]) -> str | None:
  """Path of the video of a line of a list, None if there is none.

  Args:
    row: the line.
    found: of `by_stem`.
  """
  return next((found[stem] for stem in _stems(row) if stem in found), None)


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
  """All folders with the names of their files, in the order of the names."""
  seen = set()
  for folder, folders, names in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:  # A link to where we have been, maybe above it.
      folders.clear()
      continue
    seen.add(real)
    folders.sort()
    yield folder, sorted(names)


def _stems(row: Row) -> Iterable[str]:
  """Names under which the clip of a line may be stored."""
  plain = lambda seconds: f"{seconds:g}"
  exact = lambda seconds: f"{seconds:.3f}"
  milliseconds = lambda seconds: str(round(seconds * 1000))
  padded = lambda seconds: f"{round(seconds):06d}"
  for video in (row.video, f"Y{row.video}"):
    for shown in (padded, exact, milliseconds, plain):
      start, stop = shown(row.start), shown(row.stop)
      yield f"{video}_{start}_{stop}"
      yield f"{video}_{start}"
    yield video
