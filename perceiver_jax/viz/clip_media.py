"""Encoding of clips for the run report, as files that browsers can play."""

import tempfile
from pathlib import Path

import numpy as np
from absl import logging

from perceiver_jax.data.clips import audio as audio_files
from perceiver_jax.data.clips import video_writer
from perceiver_jax.errors import UserError
from perceiver_jax.viz import sections

# Narrower videos are enlarged by whole factors, up to this width in pixels.
_WIDTH = 192


def encode(
  name: str,
  frames: np.ndarray | None,
  audio: np.ndarray | None,
  fps: float,
  sample_rate: int,
) -> list[sections.Media]:
  """Encodes a video with audio, or audio alone.

  Args:
    name: text above the player; "" for none.
    frames: uint8 [T, H, W, 3], or None.
    audio: float32 [S, 1], or None.
    fps: frames per second.
    sample_rate: samples per second.

  Returns:
    One file, or none if it cannot be written, for example without PyAV. This
    only logs a warning, so that a run does not fail at its end.
  """
  try:
    with tempfile.TemporaryDirectory() as folder:
      return [_encode(name, Path(folder), frames, audio, fps, sample_rate)]
  except UserError as error:
    # The reason is usually the same for all clips.
    logging.log_first_n(
      logging.WARNING, "the report has no clips to play: %s", 1, error
    )
  return []


def enlarge(frames: np.ndarray) -> np.ndarray:
  """Enlarges narrow frames [T, H, W, 3] by a whole factor."""
  factor = max(1, _WIDTH // frames.shape[2])
  return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _encode(
  name: str,
  folder: Path,
  frames: np.ndarray | None,
  audio: np.ndarray | None,
  fps: float,
  sample_rate: int,
) -> sections.Media:
  if frames is None:
    path = folder / "audio.wav"
    audio_files.write_wav(path, audio, sample_rate)
    return sections.Media(name, "audio/wav", path.read_bytes())
  path = folder / "video.mp4"
  video_writer.write_video(path, enlarge(frames), fps, audio, sample_rate)
  return sections.Media(name, "video/mp4", path.read_bytes())
