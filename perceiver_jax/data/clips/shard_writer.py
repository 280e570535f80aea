"""Reads whole clips and encodes them as the records that `shards` reads."""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable

import numpy as np

from perceiver_jax.data.clips import audio, video
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.files import Segment
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
