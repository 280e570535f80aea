import json
import shutil

import jax
import numpy as np
import pytest
import soundfile
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.data.clips import audio, video, video_writer

pytestmark = pytest.mark.usefixtures("compile_once")

FRAMES, SAMPLES = tiny_weights.FRAMES, tiny_weights.SAMPLES
HEIGHT, WIDTH = tiny_weights.CLIP_SIZE
RATE = 48_000


@pytest.fixture
def clip(tmp_path):
  """Returns a function that writes a clip with audio channels."""

  def make(channels=1, frames=6):
    y, x = np.mgrid[:24, :32]
    images = [
      np.uint8(np.stack([7 * x, 9 * y + t, 30 + 0 * x], -1))
      for t in range(frames)
    ]
    times = np.arange(frames * RATE // 25) / RATE
    samples = 0.5 * np.sin(2 * np.pi * 440 * times).astype(np.float32)
    samples = samples[:, None] * np.linspace(1, 0.1, channels or 1)
    path = tmp_path / "clip.mp4"
    video_writer.write_video(
      path, images, 25.0, samples if channels else None, RATE
    )
    return path

  return make


def expected(file, path, start=0.0):
  """Computes the outputs of the model, decoded at once."""
  images = video.read_video(path, FRAMES, 25.0, start, (HEIGHT, WIDTH))
  samples = audio.read_audio(path, RATE, start, SAMPLES).mean(1, keepdims=True)
  raw = {
    "image": images[None].astype(np.float32) / 255,
    "audio": samples[None],
    "label": np.zeros((1, tiny_weights.CLASSES), np.float32),
    "masked": {"label": np.ones(1, bool)},
  }
  return tiny_weights.outputs(weights.load(file), raw).logits


def autoencode(call, file, *arguments):
  flags = [f"--weights={file}", "--parts=2", *arguments]
  done = call("predict", "autoencode", *flags)
  assert done.status == 0, done.err
  return done


@pytest.mark.parametrize(("channels", "start"), [(1, 0.0), (6, 0.0), (2, 0.08)])
def test_files_and_classes_match_the_model(
  call, weight_file, clip, tmp_path, channels, start
):
  file, path = weight_file("autoencoder"), clip(channels)
  done = autoencode(call, file, f"--start={start}", "--top=3", path)
  want = expected(file, path, start)
  probabilities = np.asarray(jax.nn.softmax(want["label"][0]))
  best = np.argsort(-probabilities)[:3]
  assert done.out.splitlines() == [
    str(path),
    *(f"  {probabilities[i]:6.1%}  class {i}" for i in best),
    "  predictions/clip-reconstruction.mp4",
    "  predictions/clip-reconstruction.wav",
  ]
  samples, rate = soundfile.read(tmp_path / done.out.splitlines()[-1].strip())
  assert (samples.shape, rate) == ((SAMPLES,), RATE)
  clipped = np.clip(want["audio"].reshape(-1), -1, 1)
  np.testing.assert_allclose(samples, clipped, atol=1e-3)
  assert np.std(samples) > 1e-2
  video_path = tmp_path / "predictions" / "clip-reconstruction.mp4"
  made = [frame for _, frame in video.frames(video_path)]
  assert len(made) == FRAMES
  assert video.frame_rate(video_path) == 25
  assert abs(len(audio.read_audio(video_path)) - SAMPLES) <= 2048
  label = made[0].shape[0] - HEIGHT
  original = video.read_video(path, FRAMES, 25.0, start, (HEIGHT, WIDTH))
  left = np.stack(made)[:, label:, :WIDTH].astype(int)
  assert np.abs(left - original).mean() < 8
  right = np.stack(made)[:, label:, -WIDTH:].mean((0, 1, 2))
  decoded = 255 * np.clip(want["image"][0], 0, 1).mean((0, 1, 2))
  np.testing.assert_allclose(right, decoded, atol=16)


def test_the_number_of_parts_does_not_change_outputs(
  call, weight_file, clip, tmp_path
):
  file, path = weight_file("autoencoder"), clip()
  all_samples, outs = [], []
  for parts in (1, 7):
    folder = tmp_path / str(parts)
    flags = [f"--parts={parts}", f"--output={folder}"]
    done = autoencode(call, file, *flags, path)
    outs.append(done.out.splitlines()[:6])
    all_samples.append(soundfile.read(folder / "clip-reconstruction.wav")[0])
  assert outs[0] == outs[1]
  np.testing.assert_allclose(*all_samples, atol=1e-3)


def test_rates_and_names_come_from_the_run(call, weight_file, clip, tmp_path):
  run = tmp_path / "run"
  (run / "checkpoints").mkdir(parents=True)
  shutil.copy(weight_file("autoencoder"), run / "model.safetensors")
  names = [f"sport {i}" for i in range(tiny_weights.CLASSES)]
  config = {"data": {"fps": 12.5, "sample_rate": 8000}}
  (run / "config.json").write_text(json.dumps(config))
  (run / "task.json").write_text(json.dumps({"class_names": names}))
  path = clip(frames=12)
  done = call("predict", "autoencode", f"--workdir={run}", "--parts=2", path)
  assert done.status == 0, done.err
  printed = [line.split("%  ")[1] for line in done.out.splitlines()[1:6]]
  assert set(printed) < set(names)
  video_path, samples = (line.strip() for line in done.out.splitlines()[-2:])
  assert video.frame_rate(video_path) == 12.5
  assert soundfile.info(samples).samplerate == 8000
  # Every other frame of the clip.
  left = video.read_video(video_path, FRAMES, 12.5)[:, -HEIGHT:, :WIDTH]
  want = video.read_video(path, FRAMES, 12.5, size=(HEIGHT, WIDTH))
  assert np.abs(left.astype(int) - want).mean() < 8


def test_labels_with_the_default_number_of_parts(
  call, weight_file, clip, tmp_path
):
  names = [f"sport {chr(97 + i)}" for i in range(tiny_weights.CLASSES)]
  (tmp_path / "names.txt").write_text("\n".join(names))
  flags = [f"--weights={weight_file('autoencoder')}", "--labels=names.txt"]
  done = call("predict", "autoencode", *flags, "--top=7", clip())
  assert done.status == 0, done.err
  printed = [line.split("%  ")[1] for line in done.out.splitlines()[1:8]]
  assert sorted(printed) == names


@pytest.mark.parametrize(
  ("made", "arguments", "parts"),
  [
    ((1,), [], ["no clip is given"]),
    ((0,), ["clip.mp4"], ["clip.mp4", "no audio track"]),
    ((1, 2), ["clip.mp4"], ["2 frames at 25", "not 3", "longer video"]),
    ((1, 6), ["--start=0.2", "clip.mp4"], ["1 frames", "second 0.2"]),
    ((1,), ["clip.mp4", "missing.mp4"], ["missing.mp4", "does not exist"]),
    ((1,), ["--labels=clip.mp4", "clip.mp4"], ["--labels=clip.mp4"]),
    ((1,), ["--parts=0", "clip.mp4"], ["--parts=0"]),
    ((1,), ["--start=-1", "clip.mp4"], ["--start=-1"]),
    ((1,), ["--start=1e300", "clip.mp4"], ["start", "1e+300"]),
  ],
)
def test_invalid_input_is_refused(
  refuses, weight_file, clip, tmp_path, made, arguments, parts
):
  clip(*made)
  flag = f"--weights={weight_file('autoencoder')}"
  done = refuses("predict", "autoencode", flag, *arguments, parts=parts)
  assert done.out == ""
  assert not (tmp_path / "predictions").exists()


def test_weights_of_another_kind_are_refused(refuses, weight_file, clip):
  flag = f"--weights={weight_file('language')}"
  parts = ["'masked_lm' decoder", "'multimodal'"]
  refuses("predict", "autoencode", flag, clip(), parts=parts)


def test_without_weights_the_error_names_the_download(refuses, clip):
  parts = ["--weights", "https://", "video_autoencoding_checkpoint.pystate"]
  refuses("predict", "autoencode", clip(), parts=parts)
