import json

import numpy as np
import pytest
import soundfile
import tiny_clips
import tiny_runs as runs
import tiny_weights
from scipy import special

from configs import audioset
from perceiver_jax import weights
from perceiver_jax.data.clips import files, windows
from perceiver_jax.tasks import registry
from perceiver_jax.training import workdir

pytestmark = pytest.mark.usefixtures("compile_once")

_CONFIG = f"--config={runs.ROOT / 'configs' / 'audioset.py'}:own_audio"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  """Writes a folder of sounds of two classes."""
  root = tmp_path_factory.mktemp("sounds")
  for name, pitch in (("horn", 300), ("bell", 3000)):
    (root / name).mkdir()
    for i in range(10):
      wave = tiny_clips.tone(0.4, 16_000, pitch + i)
      soundfile.write(root / name / f"{i}.wav", wave, 16_000)
  return root


@pytest.fixture(scope="module")
def trained_on_sounds(sounds, tmp_path_factory):
  """Returns the folder of a run on the user's own sounds, as if trained."""
  folder = tmp_path_factory.mktemp("runs") / "sounds"
  (folder / "checkpoints").mkdir(parents=True)
  config = audioset.get_config("own_audio")
  config.data.source_args.files.directory = str(sounds)
  config.model.encoder.update(num_latents=4, num_self_attends_per_block=1)
  config = registry.complete_config(config)
  text = json.dumps(config.to_dict())
  (folder / workdir.CONFIG_FILE).write_text(text)
  task = registry.make_task(config)
  (folder / workdir.TASK_FILE).write_text(json.dumps(task.metadata()))
  inputs = {"audio": task.dummy_batch()["audio"]}
  loaded = tiny_weights.random(config.model.to_dict(), inputs, scale=0.1)
  weights.save(folder / weights.EXPORT, loaded)
  return folder


@pytest.fixture
def long_clip(tmp_path):
  return tiny_clips.write_audio(tmp_path / "long.wav", 2.0, 48_000, 2)


def expected(folder, path):
  """Returns the mean probabilities of a clip's windows."""
  config = workdir.read_config(folder)
  task = registry.make_task(config, workdir.read_metadata(folder))
  loaded = weights.load(folder)
  clip = files.ClipFiles([files.Segment(str(path))], [()], ())
  data = config.data
  window = windows.Window(0, data.fps, data.num_samples, data.sample_rate)
  audio = [
    task.preprocess(clip.read(0, window, position), None)["audio"]
    for position in np.linspace(0, 1, data.num_windows)
  ]
  outputs = tiny_weights.outputs(loaded, {"audio": np.stack(audio)})
  return special.expit(outputs.logits).mean(0)


def test_labels_and_probabilities_of_a_run(trained_on_sounds, call, long_clip):
  done = call(
    "predict", "classify-clip", f"--workdir={trained_on_sounds}", long_clip
  )
  assert done.status == 0, done.err
  lines = [line.split()[:2] for line in done.out.splitlines()]
  assert lines[0] == [str(long_clip)]
  printed = {name: float(p.rstrip("%")) / 100 for name, p in lines[1:]}
  bell, horn = expected(trained_on_sounds, long_clip)
  assert printed == {
    "bell": pytest.approx(bell, abs=0.002),
    "horn": pytest.approx(horn, abs=0.002),
  }


def test_labels_name_the_classes_of_a_run(
  trained_on_sounds, call, long_clip, tmp_path
):
  labels = tmp_path / "labels.txt"
  labels.write_text("Glocke\nHorn\n")
  done = call(
    "predict", "classify-clip", f"--workdir={trained_on_sounds}",
    f"--labels={labels}", long_clip,
  )  # fmt: skip
  assert done.status == 0, done.err
  names = {line.split()[0] for line in done.out.splitlines()[1:]}
  assert names == {"Glocke", "Horn"}


def test_labels_above_a_threshold(trained_on_sounds, call, long_clip):
  low, high = sorted(expected(trained_on_sounds, long_clip))
  flags = ("predict", "classify-clip", f"--workdir={trained_on_sounds}")
  between = call(*flags, f"--threshold={(low + high) / 2}", long_clip)
  assert len(between.out.splitlines()) == 2
  none = call(*flags, "--threshold=0.999", long_clip)
  assert "no label at or above 100%" in none.out


def test_weights_with_their_config_and_labels(
  trained_on_sounds, sounds, call, long_clip, tmp_path
):
  labels = tmp_path / "labels.txt"
  labels.write_text("Glocke\nHorn\n")
  config = workdir.read_config(trained_on_sounds)
  sizes = {n: config.data[n] for n in ("num_frames", "num_samples")}
  done = call(
    "predict", "classify-clip", f"--weights={trained_on_sounds}", _CONFIG,
    *(f"--config.data.{name}={value}" for name, value in sizes.items()),
    f"--labels={labels}", long_clip,
  )  # fmt: skip
  assert done.status == 0, done.err
  assert {line.split()[0] for line in done.out.splitlines()[1:]} == {
    "Glocke",
    "Horn",
  }


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["no clip is given"]),
    (["none.wav"], ["none.wav"]),
    (["SHORT"], ["short.wav", "longer"]),
  ],
)
def test_unusable_clips_are_one_line(
  trained_on_sounds, refuses, tmp_path, arguments, parts
):
  short = tiny_clips.write_audio(tmp_path / "short.wav", 0.1, 16_000, 1)
  arguments = [short if x == "SHORT" else x for x in arguments]
  refuses(
    "predict", "classify-clip", f"--workdir={trained_on_sounds}", *arguments,
    parts=parts,
  )  # fmt: skip


def test_a_model_of_images_is_refused(trained_once, refuses, long_clip):
  refuses(
    "predict", "classify-clip", f"--workdir={trained_once[0]}", long_clip,
    parts=["configs/audioset.py"],
  )  # fmt: skip


@pytest.mark.slow
def test_sounds_of_ones_own_are_learned(sounds, call, tmp_path):
  done = call(
    "train", _CONFIG, f"--workdir={tmp_path / 'run'}", "--num_devices=1",
    f"--config.data.source_args.files.directory={sounds}",
    "--config.num_steps=30", "--config.eval_every_steps=30",
    "--config.optimizer.warmup_steps=5", "--config.data.eval_split=all",
  )  # fmt: skip
  assert done.status == 0, done.err
  for name in ("horn", "bell"):
    path = sounds / name / "0.wav"
    done = call(
      "predict", "classify-clip", f"--workdir={tmp_path / 'run'}", path
    )
    assert done.out.splitlines()[1].split()[0] == name
