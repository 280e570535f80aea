"""Reads audio from audio and video files, and writes .wav files.

Shapes: S samples, usually in [-1, 1]. Times are in seconds from the beginning
of the file, as in `video`.
"""

import contextlib
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax import files, limits
from perceiver_jax.data.clips import av_decoding
from perceiver_jax.errors import UserError

# Decoders and the resampler start from silence, and need audio before the clip
# to settle. Another second aligns the start with whole samples at both rates.
_BEFORE = 2.0
# Audio around the clip that the resampler needs.
_MARGIN = 0.1
# Audio often ends slightly before video; up to this much is padded with
# silence.
_MISSING = 0.1
# Matroska rounds times to milliseconds. Gaps and overlaps up to this are
# rounding errors, and are closed to avoid clicks.
_JITTER = 0.01
_RIFF_SLACK = 1024  # Tolerated error of sizes in .wav headers, in bytes.


class _Part(NamedTuple):
  """Audio [S, channels] at its own rate, from sample `first` of the file."""

  samples: np.ndarray
  rate: int
  first: int


def read_audio(
  path: str | os.PathLike[str],
  sample_rate: int = 48_000,
  start: float = 0.0,
  num_samples: int | None = None,
) -> np.ndarray:
  """Reads audio at any sampling rate.

  Sample k is at `start + k / sample_rate`, to the nearest sample (in Matroska
  and WebM, whose times are coarse, to about a millisecond).

  Args:
    path: an audio or video file that FFmpeg decodes: wav, flac, mp3, mp4, mkv,
      webm and others.
    sample_rate: samples per second; the papers use 48,000.
    start: start in seconds.
    num_samples: S; by default, reads to the end. If up to 0.1 seconds are
      missing at the end, they are padded with silence.

  Returns:
    float32 [S, channels], with all channels of the file.

  Raises:
    UserError: the file is missing, damaged or too short, has no audio or values
      that are not finite, or an argument is out of range.
  """
  if sample_rate < 1 or (num_samples is not None and num_samples < 1):
    raise UserError(
      f"sample_rate and num_samples must be at least 1, got {sample_rate} and "
      f"{num_samples}"
    )
  av_decoding.check_start(start)
  length = math.inf if num_samples is None else num_samples / sample_rate
  part = _read(path, start, start + length, sample_rate)
  if not np.isfinite(part.samples).all():
    raise UserError(
      f"{str(path)!r} has samples that are not finite numbers; replace the file"
    )
  audio = _resample(part, sample_rate)
  skipped = round(start * sample_rate) - part.first * sample_rate // part.rate
  clip = audio[skipped:][:num_samples]
  missing = 0 if num_samples is None else num_samples - len(clip)
  if not len(clip) or missing > _MISSING * sample_rate:
    needed = "" if num_samples is None else f" and not {length:.2f}"
    raise UserError(
      f"{str(path)!r} has {len(clip) / sample_rate:.2f} seconds of audio from "
      f"second {start:g} on{needed}; start earlier or give a longer file"
    )
  return np.pad(clip, ((0, missing), (0, 0)))


def write_wav(
  path: str | os.PathLike[str], audio: np.ndarray, sample_rate: int = 48_000
) -> None:
  """Writes a 16-bit .wav file.

  Args:
    path: path of the file, ending in .wav.
    audio: floats [S] or [S, channels]; values are clipped to [-1, 1].
    sample_rate: samples of `audio` per second.

  Raises:
    UserError: the path does not end in .wav, soundfile is not installed, or the
      file cannot be written.
    ValueError: `audio` is not valid audio.
  """
  if Path(path).suffix.lower() != ".wav":
    raise UserError(f"audio is written to .wav files, not {Path(path).name!r}")
  if audio.ndim not in (1, 2) or not np.issubdtype(audio.dtype, np.floating):
    raise ValueError(f"audio must be floats [S, channels], got {audio.shape}")
  try:
    import soundfile
  except ImportError as error:
    raise UserError(
      "writing audio needs soundfile: pip install 'perceiver_jax[media]'"
    ) from error
  try:
    with files.replacing(path) as partial:
      samples = np.clip(audio, -1, 1)
      soundfile.write(partial, samples, sample_rate, "PCM_16", format="WAV")
  except (soundfile.SoundFileError, OSError) as error:
    raise UserError(f"cannot write the audio {str(path)!r}: {error}") from error


def _read(
  path: str | os.PathLike[str], start: float, stop: float, sample_rate: int
) -> _Part:
  """Reads audio from a little before `start` to a little after `stop`."""
  if Path(path).suffix.lower() in (".wav", ".flac"):
    _check_riff(path)
    with contextlib.suppress(ImportError, OSError):
      local = files.local_file(path)  # `_read_av` reports other files.
      part = _read_soundfile(local, start, stop, sample_rate)
      if part:
        return part
  return _read_av(path, start, stop, sample_rate)


def _check_riff(path: str | os.PathLike[str]) -> None:
  """Raises UserError for a truncated .wav file, which decoders accept."""
  try:
    with files.open_regular(path) as file:
      head = file.read(12)
    size = files.size(files.as_path(path))
  except OSError:
    return  # The decoders report the error.
  missing = int.from_bytes(head[4:8], "little") + 8 - size
  # Programs that stream audio write a size near 2^31 or 2^32.
  if head[:4] == b"RIFF" and _RIFF_SLACK < missing < 2**31 - 2**16:
    raise UserError(
      f"{str(path)!r} is incomplete: {missing:,} bytes are missing at its end; "
      "get the whole file"
    )


def _read_soundfile(
  path: str | os.PathLike[str], start: float, stop: float, sample_rate: int
) -> _Part | None:
  """Reads with soundfile; returns None for unsupported formats."""
  import soundfile

  try:
    file = soundfile.SoundFile(path)
  except soundfile.SoundFileError:
    return None
  with file:
    _check_rate(path, file.samplerate)
    first = min(_first(start, file.samplerate, sample_rate), file.frames)
    last = min((stop + _MARGIN) * file.samplerate, file.frames)
    count = math.ceil(last) - first
    _check_length(path, count * file.channels, file.samplerate, sample_rate)
    try:
      file.seek(first)
      samples = file.read(count, "float32", always_2d=True)
    except soundfile.SoundFileError as error:
      raise UserError(
        f"{str(path)!r} is damaged or incomplete; get the whole file"
      ) from error
    return _Part(samples, file.samplerate, first)


def _read_av(
  path: str | os.PathLike[str], start: float, stop: float, sample_rate: int
) -> _Part:
  to_float = av_decoding.import_av().AudioResampler("fltp")
  parts: list[tuple[int, np.ndarray]] = []
  rate, position = 1, 0
  for timed in av_decoding.decode(path, "audio", max(0.0, start - _BEFORE)):
    rate = timed.frame.sample_rate
    _check_rate(path, rate)
    ended = timed.start >= stop + _MARGIN
    if ended and parts:
      break
    start_sample = round(timed.start * rate)
    if not parts or abs(start_sample - position) > _JITTER * rate:
      position = start_sample
    part = _to_array(to_float, timed.frame, path)
    if ended:
      # The audio starts after the clip, so the clip is silent.
      parts.append((math.ceil((stop + _MARGIN) * rate), part[:0]))
      break
    parts.append((position, part))
    position += len(part)
    total = (position - parts[0][0]) * part.shape[1]
    _check_length(path, total, rate, sample_rate)
  first = _first(start, rate, sample_rate)
  return _Part(_join(parts, first), rate, first)


def _check_rate(path: str | os.PathLike[str], rate: int) -> None:
  low, high = limits.MIN_SAMPLE_RATE, limits.MAX_SAMPLE_RATE
  if not low <= rate <= high:
    raise UserError(
      f"{str(path)!r} has {rate:,} samples per second; {low:,} to {high:,} are"
      " read: convert it first"
    )


def _check_length(
  path: str | os.PathLike[str], count: int, rate: int, sample_rate: int
) -> None:
  """Checks the samples of all channels, as they are and at the new rate."""
  count = max(count, count * sample_rate // rate)
  if count > limits.MAX_SAMPLES:
    raise UserError(
      f"{str(path)!r} has {count:,} samples from its start on, and at most"
      f" {limits.MAX_SAMPLES:,} are read at once; give a shorter file"
    )


def _first(start: float, rate: int, sample_rate: int) -> int:
  """Returns the index of a sample before `start` that is at both rates."""
  step = rate // math.gcd(rate, sample_rate)
  return max(0, math.floor((start - _MARGIN) * rate)) // step * step


def _to_array(
  to_float: Any, frame: Any, path: str | os.PathLike[str]
) -> np.ndarray:
  """Converts a PyAV frame to float32 [S, channels]."""
  try:
    parts = [part.to_ndarray() for part in to_float.resample(frame)]
  except ValueError as error:
    raise UserError(
      f"{str(path)!r} changes its sampling rate or channels midway; convert it "
      "first"
    ) from error
  return np.concatenate(parts, axis=1).T


def _join(parts: list[tuple[int, np.ndarray]], first: int) -> np.ndarray:
  """Joins parts at their positions, with silence in gaps; [S, channels]."""
  stop = max(start + len(part) for start, part in parts)
  out = np.zeros((max(0, stop - first), parts[0][1].shape[1]), np.float32)
  for start, part in parts:
    part = part[max(0, first - start) :]
    start = max(start, first) - first
    out[start : start + len(part)] = part
  return out


def _resample(part: _Part, sample_rate: int) -> np.ndarray:
  """Resamples the part with soxr at "HQ" quality; [S, channels]."""
  if part.rate == sample_rate or not len(part.samples):
    return part.samples
  try:
    import soxr
  except ImportError as error:
    raise UserError(
      "audio at another rate needs the package soxr: pip install"
      " 'perceiver_jax[media]'"
    ) from error
  return soxr.resample(part.samples, part.rate, sample_rate)
