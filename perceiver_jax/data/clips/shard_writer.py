"""Writes clips into ArrayRecord files, which `clip_shards` reads.

A file is complete or not there, and a note beside it says what it holds.
`scripts.data.prepare_clips` makes all files of a split.
"""

import dataclasses
import glob
import hashlib
import itertools
import json
import os
from collections.abc import (
  Iterable,
  Sequence,
)
from pathlib import Path
from typing import (
  Any,
  NamedTuple,
)

import numpy as np

from perceiver_jax.data.clips import audio, video
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.files import Segment
from perceiver_jax.data.images import resizing
from perceiver_jax.errors import UserError

# Most seconds of a clip.
_LONGEST = 60.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """How clips are stored.

  Attributes:
    fps: frames per second; 0 for no pictures.
    sample_rate: samples per second; 0 for no sound.
    size: pixels of the short side, for larger pictures.
    quality: of the JPEGs, up to 100.
  """

  fps: float
  sample_rate: int
  size: int
  quality: int


class Job(NamedTuple):
  """A file to be written.

  Attributes:
    path: without its ending.
    clips: by their numbers in the split.
    fingerprint: of the clips.
  """

  path: Path
  clips: Sequence[tuple[int, Segment]]
  fingerprint: str


def fingerprint(segments: Iterable[Segment], root: str) -> str:
  """A hash that changes with any clip, or with the order of the clips.

  Args:
    segments: the clips.
    root: the folder of all data, which may be moved.
  """
  digest = hashlib.sha256()
  for path, start, stop, _ in segments:
    clip = [os.path.relpath(path, root), start, stop]
    digest.update(json.dumps(clip).encode() + b"\n")
  return digest.hexdigest()


def write_file(settings: Settings, job: Job) -> dict[str, Any]:
  """Writes a file with its note, or finds both there.

  Args:
    settings: how clips are stored.
    job: the file.

  Returns:
    The note: `kept`, the numbers of the clips in the file, `bad`, what is wrong
    with others, and what else says that the file need not be made again.
  """
  from array_record.python import array_record_module

  target = job.path.with_name(f"{job.path.name}.array_record")
  # Written last: where it is, the file was complete.
  note_path = job.path.with_name(f"{job.path.name}.note.json")
  made_of = {**dataclasses.asdict(settings), "list": job.fingerprint}
  note = _read_note(note_path, target)
  if note.get("made_of") == made_of:
    return note
  partial = job.path.with_name(f".{job.path.name}.{os.getpid()}.tmp")
  kept, bad = [], []
  writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
  for number, segment in job.clips:
    try:
      record = read_whole(segment, settings)
    except UserError as error:
      bad.append(str(error))
      continue
    writer.write(record)
    kept.append(number)
  writer.close()
  if kept:
    os.replace(partial, target)
  else:
    partial.unlink()
  note = {
    "made_of": made_of,
    "kept": kept,
    "bad": bad,
    "checksum": _checksum(target),
  }
  write_json(note_path, note)
  return note


def remove_stale(index: Path) -> None:
  """Removes what processes that were killed left half written of a split.

  Args:
    index: SPLIT.json.
  """
  name = glob.escape(index.stem)
  for pattern in ("-[0-9]*-of-[0-9]*", ".*json*"):
    for path in index.parent.glob(f".{name}{pattern}.tmp"):
      path.unlink()


def _read_note(note_path: Path, target: Path) -> dict[str, Any]:
  """The note of a file that is as it was written, else {}."""
  try:
    note = json.loads(note_path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return note if note.get("checksum") == _checksum(target) else {}


def _checksum(path: Path) -> str:
  """Of a file's content; "" if there is no file."""
  if not path.is_file():
    return ""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_whole(segment: Segment, settings: Settings) -> bytes:
  """Decodes a clip and stores it; see `clip_shards.encode`.

  Raises:
    UserError: it can't be read.
  """
  path, start = segment.path, segment.start
  kinds = ["video"] * bool(settings.fps)
  kinds += ["audio"] * bool(settings.sample_rate)
  length = min(clip_files.seconds(segment, *kinds), _LONGEST)
  pictures: list[np.ndarray] = []
  if settings.fps:
    count = max(1, round(length * settings.fps))
    shown = video.frames(path, settings.fps, start)
    pictures = [
      _smaller(picture, settings.size)
      for _, picture in itertools.islice(shown, count)
    ]
    if not pictures:
      raise UserError(
        f"{path!r} has no frame from second {start:.2f} on; give another file"
      )
  sound = np.zeros((0, 1), np.float32)
  if settings.sample_rate:
    count = max(1, int(length * settings.sample_rate))
    sound = audio.read_audio(path, settings.sample_rate, start, count)
  return clip_shards.encode(
    pictures, sound.mean(axis=1, keepdims=True), settings.quality
  )


def _smaller(picture: np.ndarray, size: int) -> np.ndarray:
  """Shrinks a picture so that its short side has `size` pixels."""
  height, width = picture.shape[:2]
  scale = size / min(height, width)
  if scale >= 1:
    return picture
  return resizing.resize(picture, round(height * scale), round(width * scale))


def write_json(path: Path, value: Any) -> None:
  """Writes a file completely or not at all."""
  partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  partial.write_text(json.dumps(value), encoding="utf-8")
  os.replace(partial, path)
