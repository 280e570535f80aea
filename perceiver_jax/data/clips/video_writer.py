"""Writes video with audio that browsers can play: mp4 with H.264 and AAC.

Shapes: T frames, H height, W width; S samples.
"""

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from perceiver_jax import files
from perceiver_jax.data.clips import av_decoding
from perceiver_jax.errors import UserError

# FFmpeg's constants of the color space, which players read from the file.
_BT709 = 1
_LIMITED_RANGE = 1
# Visually lossless, in a third of the time of the default preset.
_H264 = {"crf": "18", "preset": "veryfast"}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_SAMPLES = 1024  # Samples of an AAC frame.
# Bits per second and channel. FFmpeg's default has audible artifacts on tones.
_AAC_BITS = 128_000
_AAC_BITS_PER_SAMPLE = 6  # The maximum for AAC.

# Start in seconds, track, and frame.
_Item = tuple[Fraction, Any, Any]


def write_video(
  path: str | os.PathLike[str],
  frames: Iterable[np.ndarray],
  fps: float,
  audio: np.ndarray | None = None,
  sample_rate: int = 48_000,
) -> None:
  """Writes a video; the file appears only when it is complete.

  The last row or column of odd heights or widths is repeated, as H.264 requires
  even sizes.

  Args:
    path: path of the file, ending in .mp4.
    frames: uint8 [T, H, W, 3], or an iterable of [H, W, 3].
    fps: frames per second.
    audio: floats [S] or [S, channels], starting with the first frame, with 1, 2
      or 6 channels; values are clipped to [-1, 1].
    sample_rate: samples of `audio` per second; must be supported by AAC.

  Raises:
    UserError: the path, a rate or the number of channels is invalid, there are
      no frames, or the file cannot be written.
    ValueError: frames or audio have an invalid shape or type.
  """
  path = files.as_path(path)
  if path.suffix.lower() != ".mp4":
    raise UserError(f"video is written to .mp4 files, not {path.name!r}")
  if not 0.01 <= fps <= 1000:
    raise UserError(f"fps must be from 0.01 to 1000, got {fps}")
  av = av_decoding.import_av()
  # Writes the index first, so that browsers can start before the end.
  options = {"movflags": "+faststart"}
  try:
    with (
      files.replacing(path) as partial,
      av.open(f"file:{partial}", "w", "mp4", options=options) as container,
    ):
      items = [_video_items(container, frames, fps)]
      if audio is not None and audio.size:
        items.append(_audio_items(container, audio, sample_rate))
      for _, track, frame in heapq.merge(*items, key=lambda item: item[0]):
        container.mux(track.encode(frame))
      for track in container.streams:
        container.mux(track.encode())
  except av.error.FFmpegError as error:
    raise UserError(
      f"cannot write the video {str(path)!r}: {error.strerror.lower()}"
    ) from error


def _video_items(
  container: Any, frames: Iterable[np.ndarray], fps: float
) -> Iterator[_Item]:
  """Adds a video track; iterates over its frames."""
  frames = iter(frames)
  first = next(frames, None)
  if first is None:
    raise UserError("there are no frames to write")
  rate = Fraction(fps).limit_denominator(1001)
  track = container.add_stream("libx264", rate=rate, options=_H264)
  track.height, track.width = (n + n % 2 for n in first.shape[:2])
  track.pix_fmt = "yuv420p"
  context = track.codec_context
  context.colorspace = context.color_primaries = context.color_trc = _BT709
  context.color_range = _LIMITED_RANGE

  def items() -> Iterator[_Item]:
    for number, image in enumerate(itertools.chain([first], frames)):
      if image.shape != (*first.shape[:2], 3) or image.dtype != np.uint8:
        raise ValueError(
          f"frames must be uint8 [H, W, 3] of one size, got {image.dtype} "
          f"{image.shape}; the first is {first.shape}"
        )
      yield number / rate, track, _from_rgb(image, number)

  return items()


def _from_rgb(image: np.ndarray, number: int) -> Any:
  """Converts uint8 [H, W, 3] to a frame of the encoder."""
  padding = [(0, n % 2) for n in image.shape]
  padding[2] = (0, 0)
  frame = av_decoding.import_av().VideoFrame.from_ndarray(
    np.pad(image, padding, mode="edge"), format="rgb24"
  )
  frame = frame.reformat(
    format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE
  )
  frame.pts = number
  return frame


def _audio_items(
  container: Any, audio: np.ndarray, sample_rate: int
) -> Iterator[_Item]:
  """Adds an audio track; iterates over its frames."""
  av = av_decoding.import_av()
  audio = audio[:, None] if audio.ndim == 1 else audio
  if audio.ndim != 2 or not np.issubdtype(audio.dtype, np.floating):
    raise ValueError(f"audio must be floats [S, channels], got {audio.shape}")
  rates = av.Codec("aac", "w").audio_rates
  layout = _LAYOUTS.get(audio.shape[1])
  if layout is None or sample_rate not in rates:
    raise UserError(
      f"audio of {audio.shape[1]} channels at {sample_rate} Hz cannot be "
      f"written to an mp4 file: channels are {_choices(_LAYOUTS)}, rates "
      f"{_choices(rates)}"
    )
  track = container.add_stream("aac", rate=sample_rate, layout=layout)
  bits = min(_AAC_BITS, _AAC_BITS_PER_SAMPLE * sample_rate)
  track.bit_rate = bits * audio.shape[1]

  def items() -> Iterator[_Item]:
    for first in range(0, len(audio), _SAMPLES):
      samples = np.clip(audio[first : first + _SAMPLES].T, -1, 1)
      frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples, np.float32), "fltp", layout
      )
      frame.sample_rate = sample_rate
      frame.pts = first
      yield Fraction(first, sample_rate), track, frame

  return items()


def _choices(values: Iterable[int]) -> str:
  return ", ".join(str(value) for value in sorted(values))
