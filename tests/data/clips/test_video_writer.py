import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from perceiver_jax.data.clips.audio import read_audio
from perceiver_jax.data.clips.video import frame_rate, read_video
from perceiver_jax.data.clips.video_writer import write_video
from perceiver_jax.errors import UserError

_COLORS = np.array(
  [
    [255, 0, 0],
    [0, 255, 0],
    [0, 0, 255],
    [255, 255, 255],
    [0, 0, 0],
    [200, 100, 50],
  ],
  np.uint8,
)


def _stripes(frames=3, height=32):
  """Returns six stripes of colors that move by one stripe per frame."""
  rolled = [np.roll(_COLORS, number, axis=0) for number in range(frames)]
  return np.stack(rolled)[:, None].repeat(16, 2).repeat(height, 1)


def _tone(seconds, channels=1, rate=48000):
  time = np.arange(round(seconds * rate)) / rate
  tones = [np.sin(2 * np.pi * 440 * (1 + n) * time) for n in range(channels)]
  return 0.5 * np.stack(tones, axis=1)


def _middles(video):
  return video[:, 16, 8::16].astype(int)


def test_written_frames_have_their_colors_and_order(tmp_path):
  write_video(tmp_path / "x.mp4", _stripes(7), 25)
  back = read_video(tmp_path / "x.mp4", 7)
  assert np.abs(_middles(back) - _middles(_stripes(7))).max() <= 4
  with pytest.raises(UserError, match="7 frames"):
    read_video(tmp_path / "x.mp4", 8)


def test_the_file_has_a_format_that_browsers_play(tmp_path):
  write_video(tmp_path / "x.mp4", _stripes(), 25, _tone(0.12))
  with av.open(str(tmp_path / "x.mp4")) as file:
    video, audio = file.streams.video[0], file.streams.audio[0]
    assert video.codec_context.name == "h264"
    assert video.codec_context.pix_fmt == "yuv420p"
    assert audio.codec_context.name == "aac"
    frame = next(file.decode(video))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (
      1,
    ) * 3
  data = (tmp_path / "x.mp4").read_bytes()
  assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(31, 47), (1, 1), (2, 3)])
def test_odd_sizes_are_padded_by_their_edge(tmp_path, size):
  image = np.full((*size, 3), 200, np.uint8)
  write_video(tmp_path / "x.mp4", [image] * 2, 25)
  back = read_video(tmp_path / "x.mp4", 2)
  assert back.shape[1:3] == tuple(n + n % 2 for n in size)
  assert np.abs(back.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 23.976, 0.5, 240])
def test_frame_rates_are_stored(tmp_path, fps):
  write_video(tmp_path / "x.mp4", _stripes(4), fps)
  assert frame_rate(tmp_path / "x.mp4") == pytest.approx(fps, rel=1e-5)
  back = read_video(tmp_path / "x.mp4", 4, fps)
  assert np.abs(_middles(back) - _middles(_stripes(4))).max() <= 4


def test_ntsc_rates_are_stored_as_ratios(tmp_path):
  write_video(tmp_path / "x.mp4", _stripes(4), 30000 / 1001)
  with av.open(str(tmp_path / "x.mp4")) as file:
    assert file.streams.video[0].average_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
def test_written_audio_is_not_shifted(tmp_path, channels, rate):
  audio = _tone(1, channels, rate)
  audio = audio[:, 0] if channels == 1 else audio
  write_video(tmp_path / "x.mp4", _stripes(25), 25, audio, rate)
  back = read_audio(tmp_path / "x.mp4", rate, num_samples=rate)
  assert back.shape == (rate, channels)
  middle = slice(rate // 4, rate // 2)
  expected = audio.reshape(rate, channels)
  error = np.abs(back - expected)[middle].max(axis=0)
  # The fourth of six channels has low frequencies only.
  assert np.delete(error, 3 if channels == 6 else []).max() < 0.06


def test_audio_may_be_longer_or_shorter_than_the_video(tmp_path):
  for seconds in (0.02, 3):
    write_video(tmp_path / "x.mp4", _stripes(25), 25, _tone(seconds))
    read_video(tmp_path / "x.mp4", 25)
    audio = read_audio(tmp_path / "x.mp4")
    assert len(audio) == pytest.approx(seconds * 48000, abs=1100)


def test_loud_audio_is_clipped_and_empty_audio_makes_no_track(tmp_path):
  write_video(tmp_path / "x.mp4", _stripes(25), 25, 20 * _tone(1))
  assert np.abs(read_audio(tmp_path / "x.mp4")).max() < 2
  write_video(tmp_path / "y.mp4", _stripes(3), 25, np.zeros((0, 2)))
  with pytest.raises(UserError, match="no audio track"):
    read_audio(tmp_path / "y.mp4")


def test_frames_may_be_an_iterator(tmp_path):
  write_video(tmp_path / "x.mp4", (frame for frame in _stripes(5)), 25)
  assert len(read_video(tmp_path / "x.mp4", 5)) == 5


def _two_sizes():
  yield _stripes()[0]
  yield _stripes()[0, :10]


@pytest.mark.parametrize(
  ("frames", "message"),
  [
    (_two_sizes(), r"got uint8 \(10, 96, 3\)"),
    (_stripes().astype(np.float32), "got float32"),
    (_stripes()[..., :1], r"\(32, 96, 1\)"),
  ],
)
def test_frames_of_other_shapes_and_types_are_refused(
  tmp_path, frames, message
):
  with pytest.raises(ValueError, match=message):
    write_video(tmp_path / "x.mp4", frames, 25)
  assert not list(tmp_path.iterdir())


def test_refused_arguments_are_explained_and_write_nothing(tmp_path):
  path, frames = tmp_path / "x.mp4", _stripes()
  with pytest.raises(UserError, match=r"to \.mp4 files, not 'x\.gif'"):
    write_video(tmp_path / "x.gif", frames, 25)
  for fps in (0, -1, np.nan, np.inf, 1e-9):
    with pytest.raises(UserError, match=r"fps must be from 0\.01"):
      write_video(path, frames, fps)
  with pytest.raises(UserError, match="no frames"):
    write_video(path, [], 25)
  with pytest.raises(UserError, match="1 channels at 12345 Hz"):
    write_video(path, frames, 25, _tone(0.1), 12345)
  with pytest.raises(UserError, match="channels are 1, 2, 6, rates 7350, 8000"):
    write_video(path, frames, 25, _tone(0.1, 3))
  for audio in (np.zeros(9, np.int16), np.zeros((3, 3, 3))):
    with pytest.raises(ValueError, match="audio must be floats"):
      write_video(path, frames, 25, audio)
  with pytest.raises(UserError, match=r"cannot write .*no such file"):
    write_video(tmp_path / "missing" / "x.mp4", frames, 25)
  assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_previous_file(tmp_path):
  write_video(tmp_path / "x.mp4", _stripes(), 25)
  before = (tmp_path / "x.mp4").read_bytes()
  with pytest.raises(ValueError, match="one size"):
    write_video(tmp_path / "x.mp4", _two_sizes(), 25)
  assert (tmp_path / "x.mp4").read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == ["x.mp4"]


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(UserError, match=r"pip install 'perceiver_jax\[media\]'"):
    write_video(tmp_path / "x.mp4", _stripes(), 25)
