import os
import sys

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perceiver_jax.data.clips import av_decoding
from perceiver_jax.data.clips.audio import read_audio
from perceiver_jax.data.clips.video import frame_rate, frames, read_video
from perceiver_jax.data.clips.video_writer import write_video
from perceiver_jax.errors import UserError

_CODECS = {
  "mp4": ("libx264", "aac"),
  "mkv": ("libx264", "libopus"),
  "ts": ("libx264", "aac"),
  "avi": ("mpeg4", "mp2"),
}


def _noise(count):
  return np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8)


def _clip(path, seconds=3):
  """Writes a clip of video noise and audio noise."""
  with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
    video, audio = (
      file.add_stream(codec, rate=rate)
      for codec, rate in zip(_CODECS[path.suffix[1:]], (25, 48000), strict=True)
    )
    video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
    audio.layout = "mono"
    for number, image in enumerate(_noise(25 * seconds)):
      frame = av.VideoFrame.from_ndarray(image, "rgb24")
      frame.pts = number
      file.mux(video.encode(frame))
      samples = np.random.default_rng(number).integers(-999, 999, (1, 1920))
      frame = av.AudioFrame.from_ndarray(
        samples.astype(np.int16), "s16", "mono"
      )
      frame.sample_rate, frame.pts = 48000, 1920 * number
      file.mux(audio.encode(frame))
    for track in (video, audio):
      file.mux(track.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  folder = tmp_path_factory.mktemp("clips")
  for suffix in _CODECS:
    _clip(folder / f"x.{suffix}")
  return folder


def _assert_refused(path, message):
  """Asserts that neither video nor audio can be read."""
  for read in (read_video, read_audio):
    with pytest.raises(UserError, match=message) as error:
      read(path, 25)
    assert "\n" not in str(error.value)
  assert str(path) in str(error.value)


# Opening files


def test_missing_files_folders_and_empty_files_are_refused(tmp_path):
  _assert_refused(tmp_path / "x.mp4", "does not exist")
  _assert_refused(tmp_path, "is not a file")
  (tmp_path / "x.mp4").write_bytes(b"")
  _assert_refused(tmp_path / "x.mp4", r"is empty \(0 bytes\)")


def test_a_pipe_is_refused_without_waiting(tmp_path):
  os.mkfifo(tmp_path / "x.mp4")
  _assert_refused(tmp_path / "x.mp4", "is not a file")


@pytest.mark.parametrize("name", ["x.mp4", "x.txt", "x.mkv"])
def test_text_is_refused_whatever_its_suffix(tmp_path, name):
  (tmp_path / name).write_text("words, words, words\n" * 99)
  _assert_refused(tmp_path / name, "damaged, incomplete or of another type")


@pytest.mark.parametrize(
  "text",
  [
    "ffconcat version 1.0\nfile x.mp4\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nx.mp4\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://10.255.255.1/a.ts\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
  ],
)
def test_a_playlist_does_not_open_other_files(clips, text):
  path = clips / "list.mp4"
  path.write_text(text)
  _assert_refused(path, "damaged, incomplete or of another type")


def test_names_that_look_like_urls_are_read_as_files(
  clips, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  for name in ("http:x.mp4", "x%03d.mp4", "-x.mp4", "ü ☃.mp4"):
    (tmp_path / name).write_bytes((clips / "x.mp4").read_bytes())
    assert len(read_video(name, 2)) == 2


def test_a_missing_track_is_named(tmp_path):
  path = tmp_path / "x.mp4"
  write_video(path, _noise(3), 25)
  with pytest.raises(UserError, match=r"x\.mp4' has no audio track"):
    read_audio(path)
  with av.open(str(tmp_path / "x.m4a"), "w", "mp4") as file:
    track = file.add_stream("aac", rate=48000, layout="mono")
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), "fltp", "mono"
    )
    frame.sample_rate = 48000
    file.mux(track.encode(frame))
    file.mux(track.encode())
  for read in (lambda path: read_video(path, 1), frame_rate):
    with pytest.raises(UserError, match=r"x\.m4a' has no video track"):
      read(tmp_path / "x.m4a")


def test_a_cover_image_is_not_a_video(tmp_path):
  path = tmp_path / "x.mp3"
  with av.open(str(path), "w") as file:
    audio = file.add_stream("libmp3lame", rate=48000, layout="mono")
    cover = file.add_stream("png", rate=1)
    cover.width, cover.height, cover.pix_fmt = 8, 8, "rgb24"
    cover.disposition = av.stream.Disposition.attached_pic
    image = av.VideoFrame.from_ndarray(_noise(1)[0, :8, :8].copy(), "rgb24")
    for packet in [*cover.encode(image), *cover.encode()]:
      file.mux(packet)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 48000), np.float32), "fltp", "mono"
    )
    frame.sample_rate = 48000
    for packet in [*audio.encode(frame), *audio.encode()]:
      file.mux(packet)
  with av.open(str(path)) as file:
    assert len(file.streams.video) == 1  # PyAV lists it as a video.
  with pytest.raises(UserError, match=r"x\.mp3' has no video track"):
    read_video(path, 1)
  assert len(read_audio(path)) > 40000


def test_without_pyav_the_extra_is_named(clips, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  message = r"PyAV: pip install 'perceiver_jax\[media\]'"
  for read in (read_video, read_audio):
    with pytest.raises(UserError, match=message):
      read(clips / "x.mp4", 25)


# Damage


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6])
def test_truncated_files_are_refused(clips, tmp_path, suffix, share):
  path = tmp_path / f"x.{suffix}"
  data = (clips / path.name).read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  for read in (
    lambda: list(frames(path)),
    lambda: list(frames(path, fps=25, start=0.2)),
    lambda: read_audio(path),
  ):
    with pytest.raises(UserError, match="incomplete"):
      read()
  with pytest.raises(UserError, match=r"incomplete|has .* frames"):
    read_video(path, 75)


def test_intact_files_are_not_taken_for_truncated(clips):
  for path in sorted(clips.glob("x.*")):
    assert len(list(frames(path))) == 75


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
# In the transport stream, this starts a track that is not in the header.
@example(places=[0.642180846156023], start=1.0)
@settings(deadline=None, max_examples=40)
@given(
  places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30),
  start=st.sampled_from([0.0, 1.0]),
)
@example(places=[number / 400 for number in range(400)], start=0.0)
def test_damage_raises_a_user_error_or_keeps_shapes(
  clips, suffix, places, start
):
  data = bytearray((clips / f"x.{suffix}").read_bytes())
  for place in places:
    data[int(place * len(data))] ^= 0x55
  path = clips / f"damaged.{suffix}"
  path.write_bytes(data)
  video = _unless_refused(lambda: read_video(path, 25, start=start))
  assert video is None or video.shape == (25, 32, 48, 3)
  audio = _unless_refused(lambda: read_audio(path, 48000, start, 48000))
  assert audio is None or len(audio) == 48000


def _unless_refused(read):
  try:
    return read()
  except UserError:
    return None


def test_an_iteration_that_stops_early_closes_the_file(clips):
  before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
  for _ in range(3):
    next(frames(clips / "x.mp4"))
  after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else 0
  assert after == before


def test_decode_starts_at_or_before_the_given_time(clips):
  for path in sorted(clips.glob("x.*")):
    for start in (0.1, 1.5, 2.9):
      first = next(av_decoding.decode(path, "video", start))
      assert first.start <= start
      assert first.stop == pytest.approx(first.start + 0.04, abs=2e-3)
