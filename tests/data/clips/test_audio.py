import os
import sys

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.clips.audio import read_audio, write_wav
from perceiver_jax.errors import UserError

_CODECS = {
  "wav": "pcm_s16le",
  "flac": "flac",
  "mp4": "aac",
  "mkv": "pcm_s16le",
  "webm": "libopus",
  "mp3": "libmp3lame",
  "ogg": "libopus",
}
_EXACT = ("wav", "flac", "mkv")


def _tone(rate, seconds=1.0, channels=1, hertz=440):
  """Returns one sine per channel, an octave apart; [S, channels]."""
  time = np.arange(round(seconds * rate))[:, None] / rate
  return 0.5 * np.sin(2 * np.pi * hertz * 2 ** np.arange(channels) * time)


def _write(path, audio, rate, skip=None):
  """Encodes audio; `skip` = (position, samples) leaves a gap in time."""
  layout = {1: "mono", 2: "stereo"}[audio.shape[1]]
  with av.open(str(path), "w") as file:
    track = file.add_stream(_CODECS[path.suffix[1:]], rate=rate, layout=layout)
    track.bit_rate = 128_000
    for first in range(0, len(audio), 1024):
      part = np.round(audio[first : first + 1024] * 32767).astype(np.int16)
      frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), "s16", layout)
      frame.sample_rate = rate
      late = skip[1] if skip and first >= skip[0] else 0
      frame.pts = first + late
      file.mux(track.encode(frame))
    file.mux(track.encode())


def _hertz(audio, rate):
  window = np.hanning(len(audio))
  spectrum = np.abs(np.fft.rfft(audio * window, 8 * len(audio)))
  return np.argmax(spectrum) * rate / (8 * len(audio))


# Samples


@pytest.mark.parametrize("suffix", _CODECS)
@pytest.mark.parametrize(
  ("rate", "channels"), [(8000, 1), (44100, 2), (48000, 1), (96000, 2)]
)
def test_tones_are_read_from_any_format_at_any_rate(
  tmp_path, suffix, rate, channels
):
  path = tmp_path / f"x.{suffix}"
  if suffix in ("webm", "ogg"):
    rate = {44100: 24000, 96000: 48000}.get(rate, rate)
  if suffix == "mp3":
    rate = {96000: 32000}.get(rate, rate)
  _write(path, _tone(rate, 1.0, channels), rate)
  audio = read_audio(path, 48000)
  assert audio.dtype == np.float32
  assert audio.shape[1] == channels
  assert len(audio) == pytest.approx(48000, abs=3000)
  middle = audio[12000:36000]
  for channel in range(channels):
    assert _hertz(middle[:, channel], 48000) == pytest.approx(
      440 * 2**channel, abs=1
    )
    level = np.sqrt(2 * np.mean(middle[:, channel] ** 2))
    assert level == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("suffix", _EXACT)
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 44101, 96000])
def test_resampled_audio_is_not_shifted(tmp_path, suffix, rate):
  path = tmp_path / f"x.{suffix}"
  _write(path, _tone(rate), rate)
  for start, count in ((0.0, 24000), (0.51, 9600), (0.123456, 4800)):
    audio = read_audio(path, 48000, start, count)
    first = round(start * 48000)
    expected = _tone(48000)[first : first + count]
    error = np.abs(audio - expected)[200:].max()
    # After a seek, Matroska's time stamps of milliseconds are less exact.
    assert error < 2e-3 if suffix != "mkv" or not start else error < 0.7


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp4"])
@settings(deadline=None, max_examples=20)
@given(start=st.floats(0, 0.9), count=st.integers(1, 4000))
def test_a_clip_is_a_part_of_the_whole_file(
  tmp_path_factory, suffix, start, count
):
  folder = tmp_path_factory.getbasetemp()
  path = folder / f"whole.{suffix}"
  if not path.exists():
    noise = np.random.default_rng(0).normal(size=(44100, 2)) / 8
    _write(path, noise, 44100)
  whole = read_audio(path, 48000)
  first = round(start * 48000)
  clip = read_audio(path, 48000, start, count)
  assert clip.shape == (count, 2)
  np.testing.assert_allclose(clip, whole[first : first + count], atol=1e-4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_click_long_after_the_start_is_at_its_time(tmp_path, suffix):
  path = tmp_path / f"x.{suffix}"
  audio = np.zeros((48000 * 8, 1))
  audio[48000 * 6 :][:48] = 0.9
  _write(path, audio, 48000)
  for start in (0.0, 5.75):
    clip = read_audio(path, 48000, start, 24000 if start else 48000 * 7)
    click = start + np.argmax(np.abs(clip[:, 0]) > 0.3) / 48000
    assert click == pytest.approx(6, abs=2e-3)


@pytest.mark.parametrize(
  ("subtype", "step"),
  [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("FLOAT", 0)],
)
@pytest.mark.parametrize("reader", ["soundfile", "av"])
def test_every_sample_format_is_read(
  tmp_path, subtype, step, reader, monkeypatch
):
  audio = _tone(48000, 0.1, 2)
  soundfile.write(tmp_path / "x.wav", audio, 48000, subtype)
  if reader == "av":
    monkeypatch.setitem(sys.modules, "soundfile", None)
  back = read_audio(tmp_path / "x.wav")
  np.testing.assert_allclose(back, audio, atol=step + 1e-7)


def test_many_channels_are_kept(tmp_path):
  audio = np.linspace(-0.6, 0.6, 7) * np.ones((4800, 1))
  soundfile.write(tmp_path / "x.wav", audio, 24000)
  back = read_audio(tmp_path / "x.wav", 48000)
  assert back.shape == (9600, 7)
  np.testing.assert_allclose(back[2000:6000], audio[:4000], atol=1e-3)


def test_audio_files_need_no_pyav_and_without_resampling_no_soxr(
  tmp_path, monkeypatch
):
  soundfile.write(tmp_path / "x.wav", _tone(8000), 8000)
  monkeypatch.setitem(sys.modules, "av", None)
  assert read_audio(tmp_path / "x.wav", 16000).shape == (16000, 1)
  monkeypatch.setitem(sys.modules, "soxr", None)
  assert read_audio(tmp_path / "x.wav", 8000).shape == (8000, 1)
  with pytest.raises(UserError, match=r"pip install 'perceiver_jax\[media\]'"):
    read_audio(tmp_path / "x.wav", 16000)


# Time stamps


def test_a_gap_is_filled_with_silence(tmp_path):
  audio = _tone(16000, 1.024)
  _write(tmp_path / "x.mkv", audio, 16000, skip=(8192, 4000))
  back = read_audio(tmp_path / "x.mkv", 16000)
  assert len(back) == len(audio) + 4000
  np.testing.assert_allclose(back[:8192], audio[:8192], atol=1e-4)
  assert (back[8192:12192] == 0).all()
  np.testing.assert_allclose(back[12192:], audio[8192:], atol=1e-4)


def test_a_clip_before_the_audio_starts_is_silent(tmp_path):
  path = tmp_path / "x.mkv"
  with av.open(str(path), "w") as file:
    video = file.add_stream("libx264", rate=25)
    video.width, video.height, video.pix_fmt = 16, 16, "yuv420p"
    audio = file.add_stream("pcm_s16le", rate=8000, layout="stereo")
    image = np.zeros((16, 16, 3), np.uint8)
    for number in range(150):
      frame = av.VideoFrame.from_ndarray(image, "rgb24")
      frame.pts = number
      file.mux(video.encode(frame))
    file.mux(video.encode())
    loud = np.full((1, 16_000), 16_384, np.int16)
    frame = av.AudioFrame.from_ndarray(loud, "s16", "stereo")
    frame.sample_rate, frame.pts = 8000, 5 * 8000
    file.mux(audio.encode(frame))
    file.mux(audio.encode())
  for rate in (8000, 48_000):
    before = read_audio(path, rate, 1.0, rate)
    assert before.shape == (rate, 2)
    assert not before.any()
  clip = read_audio(path, 8000, 4.5, 8000)
  assert not clip[:3990].any()
  np.testing.assert_allclose(clip[4010:], 0.5, atol=0.01)


def test_time_stamps_of_milliseconds_make_no_clicks(tmp_path):
  # 1024 samples at 44.1 kHz are 23.2 ms, which Matroska rounds.
  _write(tmp_path / "x.mkv", _tone(44100, 3), 44100)
  back = read_audio(tmp_path / "x.mkv", 44100)
  np.testing.assert_allclose(back, _tone(44100, 3), atol=1e-4)


# End of the audio


def test_a_short_part_missing_at_the_end_is_silence_a_long_one_an_error(
  tmp_path,
):
  soundfile.write(tmp_path / "x.wav", _tone(8000), 8000, "FLOAT")
  clip = read_audio(tmp_path / "x.wav", 8000, 0.5, 4800)
  np.testing.assert_allclose(clip[:4000], _tone(8000)[4000:], atol=1e-7)
  assert (clip[4000:] == 0).all()
  message = (
    r"x\.wav' has 0\.50 seconds of audio from second 0\.5 on and not 0\.60"
  )
  with pytest.raises(UserError, match=message):
    read_audio(tmp_path / "x.wav", 8000, 0.5, 4801)
  for count in (None, 1):
    with pytest.raises(UserError, match=r"0\.00 seconds .* from second 1 on"):
      read_audio(tmp_path / "x.wav", 8000, 1.0, count)
    with pytest.raises(UserError, match=r"0\.00 seconds .* from second 99 on"):
      read_audio(tmp_path / "x.wav", 48000, 99.0, count)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_audio_is_refused(tmp_path, suffix, share):
  path = tmp_path / f"x.{suffix}"
  soundfile.write(path, _tone(8000, 3), 8000)
  data = path.read_bytes()
  path.write_bytes(data[: int(share * len(data))])
  with pytest.raises(UserError, match=rf"x\.{suffix}' is .*incomplete"):
    read_audio(path, 8000)


def test_a_wav_file_whose_header_has_no_length_is_read(tmp_path):
  path = tmp_path / "x.wav"
  soundfile.write(path, _tone(8000), 8000)
  data = bytearray(path.read_bytes())
  at = data.index(b"data") + 4
  data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"
  path.write_bytes(data)
  assert read_audio(path, 8000).shape == (8000, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_audio_that_is_not_finite_is_refused(tmp_path, value):
  samples = _tone(8000)
  samples[4000] = value
  soundfile.write(tmp_path / "x.wav", samples, 8000, "FLOAT")
  assert len(read_audio(tmp_path / "x.wav", 8000, 0.0, 3000)) == 3000
  with pytest.raises(UserError, match=r"x\.wav' has samples .* not finite"):
    read_audio(tmp_path / "x.wav", 16000)


def test_audio_without_samples_is_refused(tmp_path):
  soundfile.write(tmp_path / "x.wav", np.zeros((0, 1)), 8000)
  with pytest.raises(UserError, match=r"has 0\.00 seconds of audio"):
    read_audio(tmp_path / "x.wav", 8000)


def test_arguments_out_of_range_are_refused(tmp_path):
  soundfile.write(tmp_path / "x.wav", _tone(8000), 8000)
  for rate, count in ((0, 1), (-1, 1), (1, 0)):
    with pytest.raises(UserError, match="must be at least 1"):
      read_audio(tmp_path / "x.wav", rate, num_samples=count)
  for start in (-1, np.nan, 1e300):
    with pytest.raises(UserError, match="start must be 0 or more"):
      read_audio(tmp_path / "x.wav", start=start)


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.mp3"])
def test_missing_files_and_text_are_refused(tmp_path, name):
  with pytest.raises(UserError, match=f"{name}' does not exist"):
    read_audio(tmp_path / name)
  (tmp_path / name).write_text("words, words, words\n" * 99)
  with pytest.raises(UserError, match=f"{name}' (cannot be read|is empty)"):
    read_audio(tmp_path / name)


# write_wav


@pytest.mark.parametrize("shape", [(480,), (480, 1), (480, 2)])
def test_written_audio_can_be_read(tmp_path, shape):
  audio = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
  write_wav(tmp_path / "x.wav", audio, 8000)
  back = read_audio(tmp_path / "x.wav", 8000)
  np.testing.assert_allclose(back, audio.reshape(480, -1), atol=2**-15)
  assert soundfile.info(tmp_path / "x.wav").subtype == "PCM_16"


def test_loud_audio_is_clipped(tmp_path):
  write_wav(tmp_path / "x.wav", np.array([2.0, -7.0, 0.5]))
  back = read_audio(tmp_path / "x.wav")
  np.testing.assert_allclose(back[:, 0], [1, -1, 0.5], atol=2**-14)


def test_write_wav_explains_what_cannot_be_written(tmp_path, monkeypatch):
  audio = np.zeros(8)
  with pytest.raises(UserError, match=r"to \.wav files, not 'x\.mp3'"):
    write_wav(tmp_path / "x.mp3", audio)
  with pytest.raises(UserError, match="cannot write the audio"):
    write_wav(tmp_path / "missing" / "x.wav", audio)
  for wrong in (np.zeros(8, np.int16), np.zeros((2, 2, 2))):
    with pytest.raises(ValueError, match="audio must be floats"):
      write_wav(tmp_path / "x.wav", wrong)
  monkeypatch.setitem(sys.modules, "soundfile", None)
  with pytest.raises(UserError, match=r"pip install 'perceiver_jax\[media\]'"):
    write_wav(tmp_path / "x.wav", audio)


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_unusual_rates_are_refused(tmp_path, rate):
  path = tmp_path / "x.wav"
  write_wav(path, np.zeros(1_000), 8_000)
  data = bytearray(path.read_bytes())
  data[24:28] = rate.to_bytes(4, "little")
  path.write_bytes(data)
  with pytest.raises(UserError, match="samples per second; 1,000 to 768,000"):
    read_audio(path)


def test_long_audio_is_refused_before_it_is_resampled(tmp_path):
  path = tmp_path / "x.wav"
  write_wav(path, np.zeros(3_000_000), 1_000)
  with pytest.raises(UserError, match=r"144,000,000 samples .* at most"):
    read_audio(path)
  assert len(read_audio(path, num_samples=48_000)) == 48_000


def test_pipes_are_refused(tmp_path):
  os.mkfifo(tmp_path / "x.wav")
  with pytest.raises(UserError, match="is not a file"):
    read_audio(tmp_path / "x.wav")
