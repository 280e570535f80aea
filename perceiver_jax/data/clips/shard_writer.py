"""Writes clips to ArrayRecord files, which `shards` reads.

Files appear only when complete, each with a note that lists its contents.
`scripts.data.prepare_clips` writes all files of a split.
"""

import dataclasses
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax.data.clips import audio, video
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.files import Segment
from perceiver_jax.data.core import records
from perceiver_jax.data.images import resizing
from perceiver_jax.errors import UserError

_MAX_SECONDS = 60.0  # Longer clips are truncated.


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of stored clips.

  Attributes:
    fps: frames per second; 0 for no video.
    sample_rate: samples per second; 0 for no audio.
    size: short side in pixels to which larger frames are resized.
    quality: JPEG quality, up to 100.
  """

  fps: float
  sample_rate: int
  size: int
  quality: int


class Job(NamedTuple):
  """A file to be written.

  Attributes:
    path: path without suffix.
    clips: clips with their numbers in the split.
    fingerprint: hash of the clips.
  """

  path: Path
  clips: Sequence[tuple[int, Segment]]
  fingerprint: str


def fingerprint(segments: Iterable[Segment], root: str) -> str:
  """Returns a hash of the clips and their order.

  Args:
    segments: the clips.
    root: root folder of the data set; the hash is of paths relative to it.
  """
  digest = hashlib.sha256()
  for path, start, stop, _ in segments:
    clip = [os.path.relpath(path, root), start, stop]
    digest.update(json.dumps(clip).encode() + b"\n")
  return digest.hexdigest()


def write_file(settings: Settings, job: Job) -> dict[str, Any]:
  """Writes a file with its note, unless both exist already.

  Args:
    settings: settings of stored clips.
    job: the file.

  Returns:
    The note: `kept`, the numbers of the clips in the file; `bad`, the errors of
    unreadable clips; and `made_of` and `checksum`, which identify the file.
  """
  target = job.path.with_name(f"{job.path.name}.array_record")
  # Written last, so that its existence implies a complete file.
  note_path = job.path.with_name(f"{job.path.name}.note.json")
  made_of = {**dataclasses.asdict(settings), "list": job.fingerprint}
  note = _read_note(note_path, target)
  if note.get("made_of") == made_of:
    return note
  kept: list[int] = []
  bad: list[str] = []
  records.write_records(target, _readable(settings, job, kept, bad))
  note = {
    "made_of": made_of,
    "kept": kept,
    "bad": bad,
    "checksum": records.checksum(target),
  }
  records.write_json(note_path, note)
  return note


def _readable(
  settings: Settings, job: Job, kept: list[int], bad: list[str]
) -> Iterator[bytes]:
  """Yields the records of readable clips; fills `kept` and `bad`."""
  for number, segment in job.clips:
    try:
      record = read_whole(segment, settings)
    except UserError as error:
      bad.append(str(error))
      continue
    yield record
    kept.append(number)


def remove_stale(index: Path) -> None:
  """Removes partial files of a split left by killed processes.

  Args:
    index: path of SPLIT.json.
  """
  name = glob.escape(index.stem)
  for pattern in ("-[0-9]*-of-[0-9]*", ".*json*"):
    for path in index.parent.glob(f".{name}{pattern}.tmp"):
      path.unlink()


def _read_note(note_path: Path, target: Path) -> dict[str, Any]:
  """Reads the note of a file; {} if the file was changed since."""
  try:
    note = json.loads(note_path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return note if note.get("checksum") == records.checksum(target) else {}


def read_whole(segment: Segment, settings: Settings) -> bytes:
  """Decodes and encodes a clip; see `shards.encode`.

  Raises:
    UserError: the clip can't be read.
  """
  path, start = segment.path, segment.start
  kinds = ["video"] * bool(settings.fps)
  kinds += ["audio"] * bool(settings.sample_rate)
  length = min(clip_files.seconds(segment, *kinds), _MAX_SECONDS)
  frames: list[np.ndarray] = []
  if settings.fps:
    count = max(1, round(length * settings.fps))
    timed_frames = video.frames(path, settings.fps, start)
    frames = [
      _shrink(frame, settings.size)
      for _, frame in itertools.islice(timed_frames, count)
    ]
    if not frames:
      raise UserError(
        f"{path!r} has no frame from second {start:.2f} on; give another file"
      )
  samples = np.zeros((0, 1), np.float32)
  if settings.sample_rate:
    count = max(1, int(length * settings.sample_rate))
    samples = audio.read_audio(path, settings.sample_rate, start, count)
  return clip_shards.encode(
    frames, samples.mean(axis=1, keepdims=True), settings.quality
  )


def _shrink(frame: np.ndarray, size: int) -> np.ndarray:
  """Shrinks a frame to a short side of at most `size` pixels."""
  height, width = frame.shape[:2]
  scale = size / min(height, width)
  if scale >= 1:
    return frame
  return resizing.resize(frame, round(height * scale), round(width * scale))
