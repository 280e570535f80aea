"""Clips in media files, by a list of segments or a folder per class."""

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from perceiver_jax import files as file_opening
from perceiver_jax.data.clips import (
  audio,
  av_decoding,
  file_lookup,
  segment_lists,
  video,
)
from perceiver_jax.data.clips.segment_lists import Row
from perceiver_jax.data.clips.windows import MISSING, Window
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError

# Clips shorter than listed by more than this are reported.
_MAX_SHORTFALL = 1.0  # seconds
_MAX_CACHED_DURATIONS = 1 << 16
_MAX_NAMED = 3  # Clips named in a warning.
_EXPECTED = (
  "expected DIRECTORY/SPLIT.csv (AudioSet's, Kinetics' or your own) with the"
  " clips anywhere below DIRECTORY, or DIRECTORY/SPLIT/CLASS/*.mp4, or"
  " DIRECTORY/CLASS/*.mp4"
)
# The split of a directory that holds the folders of the classes themselves.
ALL = "all"


class Segment(NamedTuple):
  """A segment of a media file.

  Attributes:
    path: path of the file.
    start: start of the segment in seconds.
    stop: end of the segment in seconds; 0 for the end of the file.
    listed: duration in seconds according to a list; 0 without a list.
  """

  path: str
  start: float = 0.0
  stop: float = 0.0
  listed: float = 0.0


class ClipFiles:
  """Clips that are decoded from files on access.

  Args:
    segments: the clips.
    labels: positions of each clip's classes in `class_names`.
    class_names: name of each class.
    missing: names of the listed clips without a file.
    root: root folder of the data set.
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

  def subset(self, order: Sequence[int]) -> "ClipFiles":
    """Returns some of the clips, by their indices."""
    segments, labels = (
      [x[i] for i in order] for x in (self.segments, self.labels)
    )
    return ClipFiles(segments, labels, self.class_names, root=self.root)

  def read(self, index: int, window: Window, position: float) -> Example:
    """Reads a part of a clip; see `windows.Clips.read`."""
    return read_window(self.segments[index], window, position)


def read_window(segment: Segment, window: Window, position: float) -> Example:
  """Decodes a part of a clip; see `windows.Clips.read`.

  The channels of the audio are averaged.

  Raises:
    UserError: the file is missing, damaged, too short, or lacks a track.
  """
  path, start = segment.path, segment.start
  kinds = ["video"] * bool(window.num_frames)
  kinds += ["audio"] * bool(window.num_samples)
  start += position * max(0.0, seconds(segment, *kinds) - window.seconds)
  example = {}
  if window.num_frames:
    example["image"] = _read_frames(path, window, start)
  if window.num_samples:
    samples = audio.read_audio(
      path, window.sample_rate, start, window.num_samples
    )
    example["audio"] = samples.mean(axis=1, keepdims=True)
  return example


@functools.lru_cache(_MAX_CACHED_DURATIONS)
def seconds(segment: Segment, *kinds: str) -> float:
  """Returns the duration of a clip; warns if it is shorter than listed.

  Args:
    segment: the clip.
    *kinds: "video", "audio" or both, of which the shorter counts.

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
  duration = min(end, stop) - start if stop > start else end - start
  if duration < listed - _MAX_SHORTFALL:
    logging.log_first_n(
      logging.WARNING, "%r has %.2f of the %.2f seconds listed", _MAX_NAMED,
      path, duration, listed,
    )  # fmt: skip
  return duration


def files(
  directory: str | os.PathLike[str],
  split: str,
  classes: str = "",
  trimmed: bool = True,
  prefer_video: bool = True,
) -> ClipFiles:
  """Finds the clips of AudioSet, Kinetics or a custom data set.

  With a list DIRECTORY/SPLIT.csv (see `segment_lists`), clips may be anywhere
  below DIRECTORY. The stem of a file is the name of the video, optionally
  with the start, or start and stop, in seconds or milliseconds: VIDEO_30,
  VIDEO_30.000_40.000, VIDEO_30000_40000, VIDEO_000030_000040. "Y" may precede
  any of them. Listed clips without a file are skipped with a warning. Without a
  list, clips are DIRECTORY/SPLIT/CLASS/*, or, of the split "all",
  DIRECTORY/CLASS/*.

  Args:
    directory: folder with lists and clips.
    split: name of the list or folder, or "all"; or a slice of one, see
      `data.core.splits`.
    classes: file of all classes (see `read_classes`). Defaults to
      DIRECTORY/class_labels_indices.csv if it exists, else to the classes of
      all lists or folders, sorted.
    trimmed: whether a file holds only the segment, not the whole video.
    prefer_video: whether to choose ID.mp4 over ID.wav if both exist.

  Raises:
    UserError: a list is damaged, a class is unknown, or no clip is found.
  """
  root = _root(directory)
  selected = splits.parse(split)
  listed = root / f"{selected.name}.csv"
  if listed.is_file():
    clips = _of_list(root, listed, classes, trimmed, prefer_video)
  else:
    clips = _of_folders(root, selected.name, classes)
  if not selected.is_slice:
    return clips
  names = [f"{os.path.relpath(s.path, root)} {s.start}" for s in clips.segments]
  return clips.subset(selected.order(names))


def clip_splits(directory: str | os.PathLike[str], **_: Any) -> list[str]:
  """Returns the sorted names of the splits in a folder of clips.

  Args:
    directory: see `files`, whose other arguments are ignored.

  Returns:
    The names of the lists, else of the folders of splits, or "all" alone if
    there are only folders of classes.

  Raises:
    UserError: there is no such directory, it has no folders, or a split has no
      classes.
  """
  root = _root(directory)
  lists = sorted(path.stem for path in root.glob("*.csv"))
  official = Path(segment_lists.AUDIOSET_CLASSES).stem
  if lists := [name for name in lists if name != official]:
    return lists
  folders = sorted(
    path.name
    for path in root.iterdir()
    if path.is_dir() and not path.name.startswith(".")
  )
  if not folders:
    raise UserError(f"no folder of clips in {str(root)!r}; {_EXPECTED}")
  flat = [name for name in folders if _holds_clips(root / name)]
  if not flat:
    return folders
  if reserved := sorted(splits.NAMES & set(folders)):
    raise UserError(
      f"{str(root)!r} has clips directly in {flat[0]!r}, not in folders of"
      f" classes; {reserved[0]!r} is read as a split, so rename it if it is a"
      f" class; {_EXPECTED}"
    )
  return [ALL]


def _root(directory: str | os.PathLike[str]) -> Path:
  if not directory:
    raise UserError(
      "no directory is set; set config.data.source_args.files.directory,"
      f" {_EXPECTED}"
    )
  root = file_opening.local_folder(directory)
  if not root.is_dir():
    raise UserError(f"no directory {str(root)!r}; {_EXPECTED}")
  return root


def _of_list(
  root: Path, listed: Path, classes: str, trimmed: bool, prefer_video: bool
) -> ClipFiles:
  rows = segment_lists.read_rows(listed)
  names = _classes(root, classes, lambda: _listed_classes(root))
  numbers = {name: i for i, name in enumerate(names)}
  paths = file_lookup.by_stem(root, prefer_video)
  segments, labels, missing = [], [], []
  for row in rows:
    segment = _find(row, root, paths, trimmed)
    if segment is None:
      missing.append(row.file or row.video)
      continue
    unknown = [label for label in row.labels if label not in numbers]
    if unknown:
      raise UserError(
        f"{str(listed)!r} has the class {unknown[0]!r}, which is not one"
        f" of the {len(names)} known; set"
        " config.data.source_args.files.classes to a file with all classes"
      )
    segments.append(segment)
    labels.append([numbers[label] for label in row.labels])
  if missing:
    logging.warning(
      "%s: %s of %s clips have no file and are skipped, the first of them: %s",
      listed, f"{len(missing):,}", f"{len(rows):,}",
      ", ".join(missing[:_MAX_NAMED]),
    )  # fmt: skip
  if not segments:
    raise UserError(
      f"empty dataset: none of the {len(rows):,} clips of {str(listed)!r} has"
      f" a file below {str(root)!r}; {_EXPECTED}"
    )
  return ClipFiles(segments, labels, tuple(names.values()), missing, str(root))


def _of_folders(root: Path, split: str, classes: str) -> ClipFiles:
  folder = root if split == ALL else root / split
  if not folder.is_dir():
    raise UserError(
      f"there is neither {split}.csv nor the folder {split!r} in"
      f" {str(root)!r}; {_EXPECTED}"
    )
  names = _classes(root, classes, lambda: _folder_classes(root, split))
  segments, labels = [], []
  for number, name in enumerate(names):
    for path in _clip_paths(folder / name):
      segments.append(Segment(str(path)))
      labels.append([number])
  if not segments:
    raise UserError(f"empty dataset: no clip in {str(folder)!r}; {_EXPECTED}")
  return ClipFiles(segments, labels, tuple(names.values()), root=str(root))


def _classes(
  root: Path, path: str, collect: Callable[[], set[str]]
) -> Mapping[str, str]:
  """Returns display names of the classes, by their names in lists."""
  if path:
    return segment_lists.read_classes(file_opening.as_path(path).expanduser())
  official = root / segment_lists.AUDIOSET_CLASSES
  if official.is_file():
    return segment_lists.read_classes(official)
  return {name: name for name in sorted(collect())}


def _listed_classes(root: Path) -> set[str]:
  """Returns the classes of all lists; Kinetics' test.csv has no labels."""
  names: set[str] = set()
  for path in sorted(root.glob("*.csv")):
    try:
      rows = segment_lists.read_rows(path)
    except segment_lists.NoColumnError as error:
      logging.warning("skipped when collecting classes: %s", error)
      continue
    names.update(label for row in rows for label in row.labels)
  return names


def _folder_classes(root: Path, split: str) -> set[str]:
  folders = root.glob("*" if split == ALL else "*/*")
  return {path.name for path in folders if _holds_clips(path)}


def _holds_clips(folder: Path) -> bool:
  if folder.name.startswith(".") or not folder.is_dir():
    return False
  return any(file_lookup.is_clip(path.name) for path in folder.iterdir())


def _clip_paths(folder: Path) -> list[Path]:
  if not folder.is_dir():
    return []
  return sorted(p for p in folder.iterdir() if file_lookup.is_clip(p.name))


def _find(
  row: Row, root: Path, paths: Mapping[str, str], trimmed: bool
) -> Segment | None:
  """Returns the clip of a row of a list, or None if it has no file."""
  if row.file:
    path = root / row.file
    return Segment(str(path)) if path.is_file() else None
  path = file_lookup.find(row, paths)
  if path is None:
    return None
  listed = row.stop - row.start
  if trimmed:
    return Segment(path, listed=listed)
  return Segment(path, row.start, row.stop, listed)


def _read_frames(path: str, window: Window, start: float) -> np.ndarray:
  """Reads uint8 [T, H, W, 3]; repeats the last frame if a few are missing."""
  count = window.num_frames
  timed_frames = video.frames(path, window.fps, start, window.size or None)
  frames = [frame for _, frame in itertools.islice(timed_frames, count)]
  missing = count - len(frames)
  if not frames or missing > MISSING * window.fps:
    raise UserError(
      f"{path!r} has {len(frames)} frames at {window.fps:g} per second from"
      f" second {start:.2f} on and not {count}; give a longer clip"
    )
  return np.stack(frames + frames[-1:] * missing)
