"""Tests of leaves that a user's own clips decide."""

import numpy as np
import pytest
import tiny_clips

from configs import audioset, kinetics
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.tasks.own_data import clip_config


def write(folder, seconds):
  """Writes audio files of classes: the durations of each."""
  for name, durations in seconds.items():
    for i, duration in enumerate(durations):
      path = folder / name / f"{i}.wav"
      tiny_clips.write_audio(path, duration, 8_000, 1)
  return folder


def make_config(folder, variant="own_audio", file=audioset, **data):
  config = file.get_config(variant)
  config.data.source_args.files.directory = str(folder)
  config.data.update(data)
  return config


def test_a_folder_of_classes_is_enough(tmp_path, caplog):
  write(tmp_path, {"dog": [1.5] * 12, "cat": [1.7] * 8})
  config = make_config(tmp_path)
  complete = tasks.complete_config(config)
  assert complete.data.train_split == "all[10%:]"
  assert complete.data.eval_split == "all[:10%]"
  assert complete.model.num_classes == 2
  # The shortest clip has 24,000 samples, and a hop is 512.
  assert complete.data.num_samples == 46 * 512
  assert config.data.num_samples == 0, "the given config is not changed"
  assert tasks.complete_config(complete) is complete
  assert not caplog.text
  task = tasks.make_task(complete)
  assert task.metadata()["class_names"] == ("cat", "dog")
  clips = [task._clips.train, task._clips.held_out]
  paths = [{segment.path for segment in each.segments} for each in clips]
  assert [len(each) for each in paths] == [18, 2]
  assert not paths[0] & paths[1]
  window = task.source("eval")[0]
  assert task.preprocess(window, None)["audio"].shape == (46 * 64, 1)


@pytest.mark.parametrize(
  ("splits", "expected"),
  [
    (["train"], ("train[10%:]", "train[:10%]")),
    (["train", "test"], ("train", "test")),
    (["train", "test", "val"], ("train", "val")),
  ],
)
def test_splits_are_folders(tmp_path, splits, expected):
  for split in splits:
    write(tmp_path / split, {"a": [1.0] * 12, "b": [1.0] * 12})
  data = tasks.complete_config(make_config(tmp_path)).data
  assert (data.train_split, data.eval_split) == expected


@pytest.mark.parametrize("other", ["dog", ""])
def test_clips_of_a_single_class_need_others_without_it(tmp_path, other):
  write(tmp_path, {"clips": [1.0] * 2})
  rows = ("file,label", "clips/0.wav,dog", f"clips/1.wav,{other}")
  (tmp_path / "train.csv").write_text("\n".join(rows))
  given = {"train_split": "train", "eval_split": "train"}
  complete = tasks.complete_config(make_config(tmp_path, **given))
  if other:
    with pytest.raises(UserError, match=r"only the label 'dog'; give"):
      tasks.make_task(complete)
  else:
    assert tasks.make_task(complete).metadata() == {"class_names": ("dog",)}


def test_splits_are_lists(tmp_path):
  write(tmp_path, {"clips": [1.0] * 4})
  for name, rows in (("train", "clips/0.wav,a\nclips/1.wav,a;b\nclips/2.wav,b"),
                     ("test", "clips/3.wav,b")):  # fmt: skip
    (tmp_path / f"{name}.csv").write_text(f"file,label\n{rows}\n")
  complete = tasks.complete_config(make_config(tmp_path))
  assert complete.data.eval_split == "test"
  assert tasks.make_task(complete)._clips.train.labels == ((0,), (0, 1), (1,))


def test_long_clips_have_windows_of_the_longest_size(tmp_path):
  write(tmp_path, {"a": [3.0, 9.0], "b": [4.0, 5.0]})
  config = make_config(tmp_path, train_split="all", eval_split="all")
  data = tasks.complete_config(config).data
  assert data.num_samples == 62 * 512  # Two seconds at 16,000.


def test_given_leaves_are_kept(tmp_path):
  write(tmp_path, {"a": [1.0, 1.0], "b": [1.0, 1.0]})
  given = {"train_split": "all", "eval_split": "all", "num_samples": 10_240}
  config = make_config(tmp_path, **given)
  config.model.num_classes = 7
  complete = tasks.complete_config(config)
  assert {name: complete.data[name] for name in given} == given
  with pytest.raises(UserError, match="num_classes is 7 but the data has 2"):
    tasks.make_task(complete)


def test_rare_classes_and_short_clips_are_named(tmp_path, caplog):
  write(tmp_path / "train", {"a": [2.0] * 12, "b": [0.5], "c": [2.0] * 3})
  write(tmp_path / "test", {"a": [2.0]})
  tasks.complete_config(make_config(tmp_path))
  assert "1 of 3 classes have fewer than two training clips: b" in caplog.text
  assert "shortest of 16 clips has 0.50 seconds" in caplog.text


def test_sounds_too_short_for_a_window_are_left_out(tmp_path, caplog):
  write(tmp_path, {"a": [1.5] * 4, "b": [1.5, 0.02]})
  truncated = tmp_path / "a" / "3.wav"
  truncated.write_bytes(truncated.read_bytes()[:300])
  config = make_config(tmp_path, train_split="all", eval_split="all")
  complete = tasks.complete_config(config)
  assert complete.data.num_samples == 46 * 512
  assert "2 of 6 clips are too short, the first of them" in caplog.text
  assert str(truncated) in caplog.text
  assert "frames" not in caplog.text, "the model takes sound alone"
  task = tasks.make_task(complete)
  source, rng = task.source("train"), np.random.default_rng(0)
  windows = [task.preprocess(source[i], rng) for i in range(len(source))]
  assert [int(x["unreadable"]) for x in windows] == [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("variant", ["own", "own_video", "own,smoke"])
def test_windows_of_video(tmp_path, variant):
  for name in ("a/x", "a/y", "b/x", "b/y"):
    path = tmp_path / "train" / f"{name}.mp4"
    tiny_clips.write_clip(path, seconds=1.2)
  config = make_config(tmp_path, variant, eval_split="train")
  complete = tasks.complete_config(config)
  assert complete.data.num_frames == 8  # 9 at 8 per second, in patches of 2.
  task = tasks.make_task(complete)
  window = task.preprocess(task.source("eval")[0], None)
  assert window["image"].shape == (8, 64, 64, 3)
  assert ("audio" in window) == (variant != "own_video")


@pytest.mark.parametrize("variant", ["own", "own,smoke"])
def test_classes_of_an_autoencoder(tmp_path, variant):
  for name in ("a/x", "a/y", "b/x", "b/y"):
    tiny_clips.write_clip(tmp_path / f"{name}.mp4", seconds=1.0)
  config = make_config(tmp_path, variant, kinetics, eval_split="all")
  config.data.train_split = "all"
  complete = tasks.complete_config(config)
  assert complete.model.decoder.outputs.label.num_outputs == 2
  assert (
    complete.data.num_frames == kinetics.get_config("small").data.num_frames
  )
  task = tasks.make_task(complete)
  assert task.metadata()["class_names"] == ("a", "b")


def test_clips_that_cannot_be_trained_on_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"source_args\.files\.directory"):
    tasks.complete_config(make_config(""))
  write(tmp_path, {"train": [1.0], "test": [1.0]})
  with pytest.raises(UserError, match=r"directly in 'test', not in folders"):
    tasks.complete_config(make_config(tmp_path))
  with pytest.raises(UserError, match=r"'test' is read as a split.* rename it"):
    tasks.complete_config(make_config(tmp_path))
  with pytest.raises(UserError, match=r"no folder of clips .*CLASS/\*\.mp4"):
    tasks.complete_config(make_config(tmp_path / "train"))
  short = write(tmp_path / "short", {"a": [0.05] * 20, "b": [0.05] * 20})
  with pytest.raises(UserError, match=r"0\.05 seconds.*1025 samples"):
    tasks.complete_config(make_config(short))
  long = write(tmp_path / "long", {"a": [1.0] * 6, "b": [1.0] * 6})
  config = make_config(long, max_seconds=0.01)
  with pytest.raises(UserError, match=r"0\.01 seconds; raise .*max_seconds"):
    tasks.complete_config(config)
  damaged = tmp_path / "damaged"
  for i in range(20):
    path = damaged / "a" / f"{i}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF")
  with pytest.raises(UserError, match=r"damaged/a/\d+\.wav"):
    tasks.complete_config(make_config(damaged))


@pytest.mark.parametrize("variant", ["small", "small,smoke"])
def test_a_complete_config_reads_no_data(variant, monkeypatch):
  monkeypatch.setattr(clip_config, "clip_files", None)
  config = audioset.get_config(variant)
  assert tasks.complete_config(config) is config
