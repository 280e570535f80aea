"""Clips in files: a list of segments and a folder, or a folder a class."""

import functools
import itertools
import os
from collections.abc import (
  Callable,
  Mapping,
  Sequence,
)
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from perceiver_jax.data.clips import (
  audio,
  av_decoding,
  file_lookup,
  segment_lists,
  video,
)
from perceiver_jax.data.clips.segment_lists import Row
from perceiver_jax.data.clips.windows import MISSING, Window
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError

# A clip that lacks more of what its list says is reported.
_SHORTER = 1.0  # seconds
# Clips whose lengths are kept: each is a file that need not be opened again.
_KEPT = 1 << 16
# Missing clips that a warning names, and short ones.
_NAMED = 3
_EXPECTED = (
  "expected DIRECTORY/SPLIT.csv (AudioSet's, Kinetics' or your own) with the"
  " clips anywhere below DIRECTORY, or DIRECTORY/SPLIT/CLASS/*.mp4"
)


class Segment(NamedTuple):
  """A clip.

  Attributes:
    path: of its file.
    start: second of the file at which it begins.
    stop: second at which it ends; 0 for the end of the file.
    listed: seconds that it should last; 0 if no list says so.
  """

  path: str
  start: float = 0.0
  stop: float = 0.0
  listed: float = 0.0


class ClipFiles:
  """Clips decoded when asked for.

  Args:
    segments: the clips.
    labels: positions of each clip's classes in `class_names`.
    class_names: name of each class.
    missing: names of the clips of the list that have no file.
    root: the folder of all data.
  """

  in_memory = False

  def __init__(
    self,
    segments: Sequence[Segment],
    labels: Sequence[Sequence[int]],
    class_names: Sequence[str],
    missing: Sequence[str] = (),
    root: str = "",
  ):
    self.segments = tuple(segments)
    self.labels = tuple(map(tuple, labels))
    self.class_names = tuple(class_names)
    self.missing = tuple(missing)
    self.root = root

  def __len__(self) -> int:
    return len(self.segments)

  def read(self, index: int, window: Window, place: float) -> Example:
    """See `windows.Clips`."""
    return read_window(self.segments[index], window, place)


def read_window(segment: Segment, window: Window, place: float) -> Example:
  """Decodes a part of a clip; see `windows.Clips.read`.

  Sound of several channels is averaged.

  Raises:
    UserError: the file is missing, damaged, too short, or lacks a track.
  """
  path, start = segment.path, segment.start
  kinds = ["video"] * bool(window.num_frames)
  kinds += ["audio"] * bool(window.num_samples)
  start += place * max(0.0, seconds(segment, *kinds) - window.seconds)
  found = {}
  if window.num_frames:
    found["image"] = _pictures(path, window, start)
  if window.num_samples:
    samples = audio.read_audio(
      path, window.sample_rate, start, window.num_samples
    )
    found["audio"] = samples.mean(axis=1, keepdims=True)
  return found


@functools.lru_cache(_KEPT)
def seconds(segment: Segment, *kinds: str) -> float:
  """How long a clip lasts; a warning says if that is less than it should.

  Args:
    segment: the clip.
    *kinds: "video", "audio" or both: the shorter one counts.

  Raises:
    UserError: the file can't be read, or ends before the clip starts.
  """
  path, start, stop, listed = segment
  end = min(av_decoding.duration(path, kind) for kind in kinds)
  if end <= start:
    raise UserError(
      f"{path!r} ends after {end:.2f} seconds, before its clip starts at"
      f" {start:.2f}; correct the list, or get the whole video"
    )
  found = min(end, stop) - start if stop > start else end - start
  if found < listed - _SHORTER:
    logging.log_first_n(
      logging.WARNING, "%r has %.2f of the %.2f seconds of its list", _NAMED,
      path, found, listed,
    )  # fmt: skip
  return found


def files(
  directory: str | os.PathLike[str],
  split: str,
  classes: str = "",
  cut: bool = True,
  pictures: bool = True,
) -> ClipFiles:
  """Clips of AudioSet, of Kinetics or of one's own.

  With DIRECTORY/SPLIT.csv (see `segment_lists`), the file of a line may lie
  anywhere below DIRECTORY. Its name, without what follows the last dot, is
  the video's, or that with the start, or start and stop, in seconds or
  milliseconds: VIDEO_30, VIDEO_30.000_40.000, VIDEO_30000_40000,
  VIDEO_000030_000040; "Y" may stand before any of them. Lines without a file
  are counted in a warning and left out. Without the list, clips are
  DIRECTORY/SPLIT/CLASS/*.

  Args:
    directory: holds lists and clips.
    split: name of the list or of the folder.
    classes: file of all classes (see `read_classes`). If not given,
      DIRECTORY/class_labels_indices.csv where there is one; else the classes
      of all lists or folders, sorted.
    cut: whether files hold just the segment; else the whole video.
    pictures: whether pictures are wanted: where ID.mp4 and ID.wav are there,
      the former is taken, else the latter.

  Raises:
    UserError: a list is damaged, a class is unknown, or there is no clip.
  """
  if not directory:
    raise UserError(
      "no directory is given; set config.data.source_args.files.directory,"
      f" {_EXPECTED}"
    )
  root = Path(directory).expanduser()
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {_EXPECTED}")
  listed = root / f"{split}.csv"
  if listed.is_file():
    return _of_list(root, listed, classes, cut, pictures)
  return _of_folders(root, split, classes)


def _of_list(
  root: Path, listed: Path, classes: str, cut: bool, pictures: bool
) -> ClipFiles:
  rows = segment_lists.read_rows(listed)
  names = _classes(root, classes, lambda: _listed_classes(root))
  numbers = {name: i for i, name in enumerate(names)}
  found = file_lookup.by_stem(root, pictures)
  segments, labels, missing = [], [], []
  for row in rows:
    segment = _find(row, root, found, cut)
    if segment is None:
      missing.append(row.file or row.video)
      continue
    unknown = [label for label in row.labels if label not in numbers]
    if unknown:
      raise UserError(
        f"{str(listed)!r} has the class {unknown[0]!r}, which is none of the"
        f" {len(names)} known; give"
        " config.data.source_args.files.classes=FILE with all of them"
      )
    segments.append(segment)
    labels.append([numbers[label] for label in row.labels])
  if missing:
    logging.warning(
      "%s: %s of %s clips have no file and are left out, the first of them: %s",
      listed, f"{len(missing):,}", f"{len(rows):,}",
      ", ".join(missing[:_NAMED]),
    )  # fmt: skip
  if not segments:
    raise UserError(
      f"empty dataset: none of the {len(rows):,} clips of {str(listed)!r} has"
      f" a file below {str(root)!r}; {_EXPECTED}"
    )
  return ClipFiles(segments, labels, tuple(names.values()), missing, str(root))


def _of_folders(root: Path, split: str, classes: str) -> ClipFiles:
  folder = root / split
  if not folder.is_dir():
    raise UserError(
      f"there is neither {split}.csv nor the folder {split!r} in"
      f" {str(root)!r}; {_EXPECTED}"
    )
  names = _classes(root, classes, lambda: _folder_classes(root))
  segments, labels = [], []
  for number, name in enumerate(names):
    for path in _clip_paths(folder / name):
      segments.append(Segment(str(path)))
      labels.append([number])
  if not segments:
    raise UserError(f"empty dataset: no clip in {str(folder)!r}; {_EXPECTED}")
  return ClipFiles(segments, labels, tuple(names.values()), root=str(root))


def _classes(
  root: Path, given: str, seen: Callable[[], set[str]]
) -> Mapping[str, str]:
  """Classes as lists call them, with their names for people."""
  if given:
    return segment_lists.read_classes(Path(given).expanduser())
  official = root / segment_lists.AUDIOSET_CLASSES
  if official.is_file():
    return segment_lists.read_classes(official)
  return {name: name for name in sorted(seen())}


def _listed_classes(root: Path) -> set[str]:
  """Classes of all lists that have labels; Kinetics' test.csv has none."""
  found: set[str] = set()
  for path in sorted(root.glob("*.csv")):
    try:
      rows = segment_lists.read_rows(path)
    except segment_lists.NoColumnError as error:
      logging.warning("not looked into for classes: %s", error)
      continue
    found.update(label for row in rows for label in row.labels)
  return found


def _folder_classes(root: Path) -> set[str]:
  return {path.name for path in root.glob("*/*") if _holds_clips(path)}


def _holds_clips(folder: Path) -> bool:
  if folder.name.startswith(".") or not folder.is_dir():
    return False
  return any(file_lookup.is_clip(path.name) for path in folder.iterdir())


def _clip_paths(folder: Path) -> list[Path]:
  if not folder.is_dir():
    return []
  return sorted(p for p in folder.iterdir() if file_lookup.is_clip(p.name))


def _find(
  row: Row, root: Path, found: Mapping[str, str], cut: bool
) -> Segment | None:
  """The clip of a line of a list, or None if it has no file."""
  if row.file:
    path = root / row.file
    return Segment(str(path)) if path.is_file() else None
  path = file_lookup.find(row, found)
  if path is None:
    return None
  listed = row.stop - row.start
  if cut:
    return Segment(path, listed=listed)
  return Segment(path, row.start, row.stop, listed)


def _pictures(path: str, window: Window, start: float) -> np.ndarray:
  """Frames uint8 [T, H, W, 3]; the last stays if they end a little early."""
  count = window.num_frames
  shown = video.frames(path, window.fps, start, window.size or None)
  frames = [picture for _, picture in itertools.islice(shown, count)]
  missing = count - len(frames)
  if not frames or missing > MISSING * window.fps:
    raise UserError(
      f"{path!r} has {len(frames)} frames at {window.fps:g} a second from"
      f" second {start:.2f} on and not {count}; give a longer clip"
    )
  return np.stack(frames + frames[-1:] * missing)
