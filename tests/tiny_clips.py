"""Writes small clips for tests, intact and damaged."""

import json
from fractions import Fraction

import av
import numpy as np
import soundfile
from array_record.python import array_record_module

from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips import video_writer

FPS, RATE = 25, 48_000
_MILLISECOND = Fraction(1, 1000)


def gray_frames(count, size=(32, 48)):
  """Returns frames; frame k is gray of level 4 k."""
  levels = 4 * np.arange(count, dtype=np.uint8)
  return np.broadcast_to(levels[:, None, None, None], (count, *size, 3)).copy()


def tone(seconds, rate=RATE, pitch=440.0, channels=1):
  times = np.arange(round(seconds * rate)) / rate
  wave = 0.5 * np.sin(2 * np.pi * pitch * times)
  return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def write_clip(path, seconds=2.0, audio=True):
  """Writes a clip of `gray_frames` at 25 frames per second and a tone."""
  path.parent.mkdir(parents=True, exist_ok=True)
  samples = tone(seconds) if audio else None
  frames = gray_frames(round(seconds * FPS))
  video_writer.write_video(path, frames, FPS, samples, RATE)
  return path


def write_audio(path, seconds, rate, channels):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, tone(seconds, rate, channels=channels), rate)
  return path


def write_variable_rate(path, milliseconds):
  """Writes a video whose frame k is shown at milliseconds[k]."""
  with av.open(str(path), "w") as file:
    track = file.add_stream("libx264", rate=25)
    track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
    track.codec_context.time_base = _MILLISECOND
    images = gray_frames(len(milliseconds))
    for time, image in zip(milliseconds, images, strict=True):
      frame = av.VideoFrame.from_ndarray(image, "rgb24")
      frame.pts, frame.time_base = time, _MILLISECOND
      file.mux(track.encode(frame))
    file.mux(track.encode())
  return path


def write_shards(
  folder, split, labels, class_names=("a", "b"), fps=25.0, rate=RATE
):
  """Writes prepared clips of two seconds in one file."""
  folder.mkdir(parents=True, exist_ok=True)
  name = f"{split}.array_record"
  writer = array_record_module.ArrayRecordWriter(
    str(folder / name), "group_size:1"
  )
  frames = gray_frames(round(2 * fps))
  record = clip_shards.encode(list(frames), tone(2 if rate else 0, rate or 1))
  for _ in labels:
    writer.write(record)
  writer.close()
  index = {
    "files": {name: len(labels)},
    "names": [f"{split}-{i}" for i in range(len(labels))],
    "labels": labels,
    "class_names": class_names,
    "fps": fps,
    "sample_rate": rate,
  }
  (folder / f"{split}.json").write_text(json.dumps(index))
  return folder


def write_without_duration(path, count=50):
  """Writes a video whose header has no duration, as a live stream does."""
  with open(path, "wb") as raw:
    stream = _Pipe(raw)
    with av.open(stream, "w", "matroska") as file:
      track = file.add_stream("libx264", rate=FPS)
      track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
      for image in gray_frames(count):
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        file.mux(track.encode(frame))
      file.mux(track.encode())
  return path


class _Pipe:
  """A file without `seek`, so that the header cannot be completed."""

  def __init__(self, file):
    self.write = file.write


def truncate(path, share=0.6):
  """Keeps only the first part of a file."""
  data = path.read_bytes()
  path.write_bytes(data[: round(share * len(data))])


def corrupt(path):
  """Overwrites the middle of a file, which holds its frames."""
  data = bytearray(path.read_bytes())
  rng = np.random.default_rng(0)
  middle = slice(len(data) // 3, 9 * len(data) // 10)
  data[middle] = rng.bytes(middle.stop - middle.start)
  path.write_bytes(data)
