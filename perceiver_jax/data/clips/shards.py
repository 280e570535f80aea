"""Clips in ArrayRecord files: frames as JPEG, audio as 16-bit samples.

Every frame can be decoded without those before it. A split consists of
SPLIT.json and SPLIT-00000-of-00016.array_record and so on, written by
`scripts.data.prepare_clips`.
"""

import os
from collections.abc import Sequence

import cv2
import numpy as np

from perceiver_jax.data.clips.windows import MISSING, Window
from perceiver_jax.data.core import records
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec, resizing
from perceiver_jax.errors import UserError
from perceiver_jax.limits import MAX_SAMPLE_RATE

_FULL_SCALE = 2**15 - 1


class ClipShards:
  """Clips of prepared files; see `shards`.

  Args:
    stored: record of each clip.
    labels: indices of each clip's classes in `class_names`.
    class_names: name of each class.
    rates: stored frames and samples per second.
    names: name of each clip.
  """

  in_memory = False

  def __init__(
    self,
    stored: records.Records,
    labels: Sequence[Sequence[int]],
    class_names: Sequence[str],
    rates: tuple[float, int],
    names: Sequence[str],
  ):
    self.names = tuple(names)
    self.labels = tuple(map(tuple, labels))
    self.class_names = tuple(class_names)
    self._records, self._rates = stored, rates

  def __len__(self) -> int:
    return len(self.labels)

  def read(self, index: int, window: Window, position: float) -> Example:
    """Reads a part of a clip; see `windows.Clips.read`."""
    self.check_window(window)
    try:
      return decode(self._records[index], window, position, self._rates)
    except UserError as error:
      raise UserError(f"clip {self.names[index]!r}: {error}") from error

  def check_window(self, window: Window) -> None:
    """Raises UserError if the clips lack the modalities of the window."""
    fps, sample_rate = self._rates
    if window.num_frames and not fps:
      raise UserError(
        "the clips were prepared with --fps=0, without video, which the model"
        " takes; prepare them again, or choose a model of audio"
      )
    if window.num_samples and not sample_rate:
      raise UserError(
        "the clips were prepared with --sample_rate=0, without audio, which the"
        " model takes; prepare them again, or choose a model of video"
      )
    if window.num_samples and window.sample_rate != sample_rate:
      raise UserError(
        f"audio is stored at {sample_rate} Hz and not {window.sample_rate};"
        " set config.data.sample_rate, or prepare the clips again"
      )

  def check_files(self) -> None:
    """Raises UserError if a file is damaged or holds other clips."""
    self._records.check_files()

  def file_of(self, index: int) -> str:
    """Returns the path of the file that holds a clip."""
    return self._records.file_of(index)


def encode(
  frames: list[np.ndarray], audio: np.ndarray, quality: int = 90
) -> bytes:
  """Encodes a clip as a record.

  Args:
    frames: uint8 [H, W, 3] each; empty for a clip without video.
    audio: float32 [S, 1] in [-1, 1]; empty for a clip without audio.
    quality: JPEG quality, up to 100.
  """
  options = [cv2.IMWRITE_JPEG_QUALITY, quality]
  files = [
    cv2.imencode(".jpg", frame[..., ::-1], options)[1] for frame in frames
  ]
  samples = np.rint(np.clip(audio[:, 0], -1, 1) * _FULL_SCALE).astype(np.int16)
  return records.encode(
    {
      "frames": np.concatenate(files) if files else np.zeros(0, np.uint8),
      "ends": np.cumsum([len(each) for each in files], dtype=np.int64),
      "audio": samples,
    }
  )


def decode(
  record: bytes, window: Window, position: float, rates: tuple[float, int]
) -> Example:
  """Decodes a part of a stored clip; see `windows.Clips.read`.

  Args:
    record: a record of `encode`.
    window: size of the part, at the sampling rate of the record.
    position: relative position of the part, from 0 to 1.
    rates: frames and samples per second of the record.

  Raises:
    UserError: the record is damaged, or the clip too short.
  """
  fps, sample_rate = rates
  arrays = records.decode(record)
  try:
    frames, ends, audio = (arrays[k] for k in ("frames", "ends", "audio"))
  except KeyError as error:
    raise UserError(f"damaged (no {error}); prepare it again") from error
  lengths = []
  if window.num_frames:
    lengths.append(len(ends) / fps)
  if window.num_samples:
    lengths.append(len(audio) / sample_rate)
  start = position * max(0.0, min(lengths) - window.seconds)
  example = {}
  if window.num_frames:
    # The frame on screen at each time, which after the end is the last one.
    times = start + np.arange(window.num_frames) / window.fps
    numbers = np.floor(times * fps + 1e-6).astype(int)
    if not len(ends) or numbers[-1] >= len(ends) + MISSING * fps:
      raise _too_short(len(ends) / fps, window)
    numbers = numbers.clip(max=len(ends) - 1)
    example["image"] = _decode_frames(frames, ends, numbers, window.size)
  if window.num_samples:
    part = audio[round(start * sample_rate) :][: window.num_samples]
    missing = window.num_samples - len(part)
    if not len(part) or missing > MISSING * sample_rate:
      raise _too_short(len(audio) / sample_rate, window)
    part = np.pad(part, (0, missing)).astype(np.float32) / _FULL_SCALE
    example["audio"] = part[:, None]
  return example


def shards(directory: str | os.PathLike[str], split: str) -> ClipShards:
  """Opens the clips that `scripts.data.prepare_clips` has written.

  Args:
    directory: folder of the files.
    split: name of the list or folder from which they were made.

  Raises:
    UserError: the split is missing or incomplete.
  """
  contents, stored = records.open_split(
    directory,
    split,
    "config.data.source_args.shards.directory",
    "scripts.data.prepare_clips",
  )
  rates = contents.get("fps"), contents.get("sample_rate")
  for rate in rates:
    if type(rate) not in (int, float) or not 0 <= rate <= MAX_SAMPLE_RATE:
      raise UserError(
        f"'{split}.json' in {str(directory)!r} has 'fps' and 'sample_rate'"
        f" {rates}; give numbers from 0 to {MAX_SAMPLE_RATE:,}, or prepare the"
        " clips again"
      )
  return ClipShards(
    stored,
    contents["labels"],
    contents["class_names"],
    rates,
    contents["names"],
  )


def _decode_frames(
  frames: np.ndarray,
  ends: np.ndarray,
  numbers: np.ndarray,
  size: tuple[int, ...],
) -> np.ndarray:
  """Decodes frames by number, each once; returns uint8 [T, H, W, 3]."""
  starts = np.concatenate([[0], ends[:-1]])
  decoded = {}
  for number in np.unique(numbers):
    data = frames[starts[number] : ends[number]].tobytes()
    image = codec.decode_image(data, name="a frame")
    decoded[number] = resizing.fit(image, *size) if size else image
  return np.stack([decoded[number] for number in numbers])


def _too_short(seconds: float, window: Window) -> UserError:
  return UserError(
    f"{seconds:.2f} seconds and not {window.seconds:.2f}; leave it out or take"
    " fewer frames"
  )
