"""Decodes video and audio files with PyAV (FFmpeg's libraries).

`video` and `audio` build on this module. Files must be local and of a known
format. Times are in seconds from the beginning of the file.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from perceiver_jax import files, limits
from perceiver_jax.errors import UserError

# Other formats of FFmpeg may open further files or URLs, or accept any text.
_FORMATS = (
  "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,gif,"
  "wav,w64,aiff,flac,mp3,aac,ogg"
)
# Formats with the duration in the header (FFmpeg guesses it for others), and
# the seconds that may be missing, since tracks end at different times.
_HEADER_TOLERANCE = {
  "mov,mp4,m4a,3gp,3g2,mj2": 1.0,
  "matroska,webm": 1.0,
  "flac": 0.1,
}
# With variable frame rates, many writers store a duration of one tick for
# every frame.
_MIN_DURATION = 0.002  # seconds
_SECOND = 1_000_000  # FFmpeg's unit of a file's duration is a microsecond.
# Seconds: 30 years. FFmpeg counts in 64 bits.
_MAX_START = 10**9


class Timed(NamedTuple):
  """A decoded frame with its start and stop in seconds."""

  start: float
  stop: float
  frame: Any  # av.VideoFrame or av.AudioFrame


def import_av() -> ModuleType:
  """Imports PyAV; raises UserError if it is not installed."""
  try:
    import av
  except ImportError as error:
    raise UserError(
      "video and compressed audio need PyAV: pip install 'perceiver_jax[media]'"
    ) from error
  return av


def check_start(start: float) -> None:
  """Checks the second of a file at which to start.

  Raises:
    UserError: it is negative, not a number, or too large.
  """
  if not 0 <= start <= _MAX_START:
    raise UserError(
      f"start must be 0 or more seconds, and at most {_MAX_START:,}, got"
      f" {start}"
    )


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], kind: str) -> Iterator[Any]:
  """Opens a file; FFmpeg's errors inside the block become UserErrors.

  Args:
    path: a file; its format is detected from its content.
    kind: 'video' or 'audio'. Cover images of audio files are not video.

  Yields:
    The first track of that kind, a PyAV stream with its `container`.

  Raises:
    UserError: the file is missing, empty, damaged or of an unsupported format,
      or has no such track.
  """
  av = import_av()
  if files.is_remote(path):
    path = files.local_folder(path)
  # Opening a pipe would block until another process writes to it.
  if not os.path.isfile(path):
    why = "is not a file" if os.path.exists(path) else "does not exist"
    raise UserError(f"{str(path)!r} {why}; give a video or audio file")
  if not os.path.getsize(path):
    raise UserError(f"{str(path)!r} is empty (0 bytes); give another file")
  options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
  try:
    # Without the prefix, "a:b.mp4" would be read as a URL.
    with av.open(
      f"file:{os.fspath(path)}", options=options, metadata_errors="replace"
    ) as container:
      yield _track(container, kind, path)
  except av.error.FFmpegError as error:
    raise UserError(
      f"{str(path)!r} cannot be read as video or audio: it is damaged, "
      f"incomplete or of another type ({error.strerror}); give another file"
    ) from error


def decode(
  path: str | os.PathLike[str], kind: str, start: float = 0.0
) -> Iterator[Timed]:
  """Decodes a track.

  Args:
    path: as in `opened`.
    kind: as in `opened`.
    start: seconds from the beginning of the file.

  Yields:
    Frames in order of time, starting at or before `start` if possible.

  Raises:
    UserError: as in `opened`; also if the file holds no frame, or is much
      shorter than its header says.
  """
  if start > 0:
    with opened(path, kind) as track, contextlib.suppress(StopIteration):
      if _seek(track, start):
        frames = _decode(track, path)
        first = next(frames)
        # Without a time stamp, the position after seeking is unknown.
        if first.frame.pts is not None and first.start <= start:
          yield first
          yield from frames
          return
  # Also decodes from the beginning if the format has no index and the seek
  # overshot.
  with opened(path, kind) as track:
    empty = True
    for timed in _decode(track, path):
      empty = False
      yield timed
    if empty:
      raise UserError(
        f"the {kind} of {str(path)!r} is empty; give another file"
      )


def frame_rate(track: Any) -> float:
  """Returns the average frames per second of a video track."""
  return float(track.average_rate or track.guessed_rate or 25)


def duration(path: str | os.PathLike[str], kind: str) -> float:
  """Returns the duration of a track in seconds, from the header if possible.

  Otherwise (live recordings, for example) the whole file is read.

  Raises:
    UserError: as in `opened`; also if the track holds no frame.
  """
  with opened(path, kind) as track:
    if track.duration and track.time_base:
      return float(track.duration * track.time_base)
    if track.container.duration:
      return track.container.duration / _SECOND
    ends = [
      float((packet.pts + (packet.duration or 0)) * packet.time_base)
      for packet in _packets(track, path)
      if packet.pts is not None and packet.stream.index == track.index
    ]
    seconds = max(ends, default=0.0) - _origin(track)
  return seconds if seconds > 0 else max(t.stop for t in decode(path, kind))


def _track(container: Any, kind: str, path: str | os.PathLike[str]) -> Any:
  cover = import_av().stream.Disposition.attached_pic
  for stream in getattr(container.streams, kind):
    if stream.codec_context and not stream.disposition & cover:
      stream.thread_type = "AUTO"
      if kind == "video":
        _limit_pixels(stream.codec_context, path)
      return stream
  raise UserError(
    f"{str(path)!r} has no {kind} track that can be decoded; give another file"
  )


def _limit_pixels(codec: Any, path: str | os.PathLike[str]) -> None:
  """Limits the size of frames, also if it changes within the file."""
  if codec.width * codec.height > limits.MAX_PIXELS:
    raise UserError(
      f"{str(path)!r} has frames of {codec.width} x {codec.height} pixels, more"
      f" than {limits.MAX_PIXELS:,}; the environment variable"
      f" {limits.PIXELS_VARIABLE} sets this limit"
    )
  codec.options = {**codec.options, "max_pixels": str(limits.MAX_PIXELS)}


def _origin(track: Any) -> float:
  """Returns the time stamp of the beginning of the file, in seconds."""
  return (track.container.start_time or 0) / _SECOND


def _seek(track: Any, start: float) -> bool:
  """Seeks to the last key frame before `start`; returns whether it worked."""
  try:
    track.container.seek(round((start + _origin(track)) * _SECOND))
  except import_av().error.FFmpegError:
    return False
  return True


def _packets(track: Any, path: str | os.PathLike[str]) -> Iterator[Any]:
  """Iterates over the packets of all tracks from the current position."""
  try:
    yield from track.container.demux()
  except IndexError as error:  # Damaged data names an unknown track.
    raise UserError(
      f"{str(path)!r} is damaged or incomplete; get the whole file"
    ) from error


def _decode(track: Any, path: str | os.PathLike[str]) -> Iterator[Timed]:
  """Decodes from the current position of the file."""
  invalid = import_av().error.InvalidDataError
  reached, timed = 0.0, None
  # Considers all tracks, as any of them may be shorter than the file.
  for packet in _packets(track, path):
    if packet.pts is not None:
      ticks = packet.pts + (packet.duration or 0)
      reached = max(reached, float(ticks * packet.time_base) - _origin(track))
    if packet.stream.index != track.index:
      continue
    try:
      frames = packet.decode()
    except invalid:
      # After a seek, frames before a key frame can't be decoded.
      if timed:
        raise
      continue
    for frame in frames:
      timed = _timed(frame, track, timed)
      yield timed
  _check_end(track, reached, path)


def _timed(frame: Any, track: Any, last: Timed | None) -> Timed:
  """Adds start and stop to a frame, given the previous one."""
  start = last.stop if last else 0.0
  if frame.pts is not None:
    start = float(frame.pts * frame.time_base) - _origin(track)
  if track.type == "audio":
    return Timed(start, start + frame.samples / frame.sample_rate, frame)
  length = float((frame.duration or 0) * frame.time_base)
  if length < _MIN_DURATION:
    length = start - last.start if last else 1 / frame_rate(track)
  return Timed(start, start + length, frame)


def _check_end(
  track: Any, reached: float, path: str | os.PathLike[str]
) -> None:
  """Raises UserError if the file is much shorter than its header says."""
  slack = _HEADER_TOLERANCE.get(track.container.format.name, math.inf)
  promised = (track.container.duration or 0) / _SECOND
  if track.type == "video":
    slack += 2 / frame_rate(track)
  if reached + slack < promised:
    raise UserError(
      f"{str(path)!r} is incomplete: it ends after {reached:.2f} of "
      f"{promised:.2f} seconds; get the whole file"
    )
