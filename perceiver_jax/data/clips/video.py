"""Reads video files as NumPy arrays, by the timestamps of their frames.

Shapes: T frames, H height, W width; pixels are uint8 RGB. Times are in seconds
from the beginning of the file, the same for video and audio.
"""

import itertools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from perceiver_jax.data.clips import av_decoding
from perceiver_jax.data.clips.av_decoding import Timed
from perceiver_jax.data.images import resizing
from perceiver_jax.errors import UserError

# Matroska rounds times to milliseconds, so frames may appear this much late.
_ROUNDING = 0.001


def read_video(
  path: str | os.PathLike[str],
  num_frames: int,
  fps: float = 25.0,
  start: float = 0.0,
  size: tuple[int, int] | None = None,
) -> np.ndarray:
  """Reads a clip at a constant frame rate.

  Frame k is the one on screen at `start + k / fps`, independent of the file's
  own frame rate, which may vary.

  Args:
    path: a file that FFmpeg decodes: mp4, mkv, webm, avi and others.
    num_frames: T.
    fps: frames per second of the result; the papers use 25.
    start: start in seconds.
    size: (H, W) to which the largest central crop of that aspect ratio is
      resized. Defaults to the video's own size.

  Returns:
    uint8 [T, H, W, 3].

  Raises:
    UserError: the file is missing, damaged, has no or too few frames, or an
      argument is out of range.
  """
  if num_frames < 1:
    raise UserError(f"num_frames must be at least 1, got {num_frames}")
  clip = itertools.islice(frames(path, fps, start, size), num_frames)
  images = [image for _, image in clip]
  if len(images) < num_frames:
    raise UserError(
      f"{str(path)!r} has {len(images)} frames at {fps:g} per second from "
      f"second {start:g} on and not {num_frames}; start earlier or give a "
      "longer video"
    )
  return np.stack(images)


def frames(
  path: str | os.PathLike[str],
  fps: float | None = None,
  start: float = 0.0,
  size: tuple[int, int] | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
  """Reads a video frame by frame, with one frame in memory.

  Args:
    path: as in `read_video`.
    fps: frames per second of the result; defaults to the file's own frames.
    start: start in seconds; the first frame is the one on screen at this time.
    size: as in `read_video`.

  Returns:
    An iterator over seconds and uint8 [H, W, 3].

  Raises:
    UserError: as in `read_video`, also while iterating.
  """
  if fps is not None and not 0 < fps < math.inf:
    raise UserError(f"fps must be a positive number, got {fps}")
  av_decoding.check_start(start)
  return _frames(path, fps, start, size)


def frame_rate(path: str | os.PathLike[str]) -> float:
  """Returns a video's average frames per second; may raise UserError."""
  with av_decoding.opened(path, "video") as track:
    return av_decoding.frame_rate(track)


def _frames(
  path: str | os.PathLike[str],
  fps: float | None,
  start: float,
  size: tuple[int, int] | None,
) -> Iterator[tuple[float, np.ndarray]]:
  timed_frames = _without_gaps(av_decoding.decode(path, "video", start))
  if fps is None:
    early = start + _ROUNDING
    timed_frames = itertools.dropwhile(
      lambda timed: timed.stop <= early, timed_frames
    )
  else:
    timed_frames = _at_constant_rate(timed_frames, fps, start)
  for time, _, frame in timed_frames:
    image = _to_rgb(frame)
    # A stream may change its size, but the output has a constant size.
    size = size or image.shape[:2]
    yield time, resizing.fit(image, *size)


def _without_gaps(timed_frames: Iterator[Timed]) -> Iterator[Timed]:
  """Extends every frame to the start of the next."""
  for timed, after in itertools.pairwise(itertools.chain(timed_frames, [None])):
    yield timed._replace(stop=after.start) if after else timed


def _at_constant_rate(
  timed_frames: Iterator[Timed], fps: float, start: float
) -> Iterator[Timed]:
  """Repeats and drops frames, so that frame k is at `start + k / fps`."""
  number = 0
  # The first frame is also used for times before it.
  for _, stop, frame in timed_frames:
    while (time := start + number / fps) < stop - _ROUNDING:
      number += 1
      yield Timed(time, start + number / fps, frame)


def _to_rgb(frame: Any) -> np.ndarray:
  """Converts a PyAV frame to uint8 [H, W, 3], upright."""
  image = frame.to_ndarray(format="rgb24")
  # Phones store video sideways, with the rotation as metadata.
  return np.rot90(image, round(frame.rotation / 90))
