"""Clips as files that a browser plays, to be put into a report."""

import tempfile
from pathlib import Path

import numpy as np
from absl import logging

from perceiver_jax.data.clips import audio, video_writer
from perceiver_jax.errors import UserError
from perceiver_jax.viz import clip_samples

# Small pictures are enlarged by whole factors, to this many columns at most.
_WIDTH = 192


def encode(
  name: str,
  pictures: np.ndarray | None,
  sound: np.ndarray | None,
  fps: float,
  sample_rate: int,
) -> list[clip_samples.Media]:
  """A video with sound, or sound alone.

  Args:
    name: what is heard or seen, for readers; "" for nothing to say.
    pictures: uint8 [T, H, W, 3], None without.
    sound: float32 [S, 1], None without.
    fps: frames per second.
    sample_rate: samples per second.

  Returns:
    One file, or none where it can't be written, without PyAV for example; a
    warning says why. A report is not worth losing a run for.
  """
  try:
    with tempfile.TemporaryDirectory() as folder:
      return [_written(name, Path(folder), pictures, sound, fps, sample_rate)]
  except UserError as error:
    # Once: it will be the same for all clips.
    logging.log_first_n(
      logging.WARNING, "the report has no clips to see or hear: %s", 1, error
    )
  return []


def _written(
  name: str,
  folder: Path,
  pictures: np.ndarray | None,
  sound: np.ndarray | None,
  fps: float,
  sample_rate: int,
) -> clip_samples.Media:
  if pictures is None:
    path = folder / "sound.wav"
    audio.write_wav(path, sound, sample_rate)
    return clip_samples.Media(name, "audio/wav", path.read_bytes())
  path = folder / "video.mp4"
  video_writer.write_video(path, enlarged(pictures), fps, sound, sample_rate)
  return clip_samples.Media(name, "video/mp4", path.read_bytes())


def enlarged(pictures: np.ndarray) -> np.ndarray:
  """Pictures [T, H, W, 3] at least so large that they can be seen."""
  factor = max(1, _WIDTH // pictures.shape[2])
  return pictures.repeat(factor, axis=1).repeat(factor, axis=2)
