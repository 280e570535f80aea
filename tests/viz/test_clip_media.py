import sys

import numpy as np
import pytest

from perceiver_jax.data.clips import video
from perceiver_jax.viz import clip_media, sections


@pytest.fixture
def warnings(monkeypatch):
  """Returns the logged warnings."""
  lines = []
  log = lambda level, message, n, *args: lines.append(message % args)
  monkeypatch.setattr("absl.logging.log_first_n", log)
  return lines


def _encode(sample_rate=48_000, frames=True):
  images = np.zeros((4, 16, 16, 3), np.uint8) if frames else None
  audio = np.zeros((4 * 1920, 1), np.float32)
  return clip_media.encode("x", images, audio, 25.0, sample_rate)


def test_clips_are_encoded_as_video_and_audio_as_wav(tmp_path, warnings):
  (video_file,) = _encode()
  assert video_file.media_type == "video/mp4"
  (tmp_path / "x.mp4").write_bytes(video_file.file)
  # Small frames are enlarged by a whole factor.
  assert video.read_video(tmp_path / "x.mp4", 4).shape == (4, 192, 192, 3)
  (audio,) = _encode(frames=False)
  assert (audio.media_type, audio.file[:4]) == ("audio/wav", b"RIFF")
  assert not warnings


@pytest.mark.parametrize("package", ["av", "soundfile"])
def test_without_a_package_the_extra_is_named(monkeypatch, warnings, package):
  monkeypatch.setitem(sys.modules, package, None)
  assert _encode(frames=package == "av") == []
  (line,) = warnings
  assert "pip install 'perceiver_jax[media]'" in line


def test_other_errors_are_logged_without_naming_the_extra(warnings):
  assert _encode(sample_rate=12_345) == []
  (line,) = warnings
  assert "12345 Hz cannot be" in line
  assert "pip install" not in line
  page = sections.clip_samples([sections.ClipSample([], {})])
  assert "log says why" in page.description
