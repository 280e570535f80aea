"""Tests of leaves that the data decides."""

import json

import cv2
import numpy as np
import pytest
from absl import logging

from configs import digits, images
from perceiver_jax.data.images import image_folder
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.tasks.own_data import image_config
from perceiver_jax.training import workdir


@pytest.fixture
def warnings(monkeypatch):
  """Returns a list that collects the warnings logged."""
  lines = []
  monkeypatch.setattr(logging, "warning", lambda s, *a: lines.append(s % a))
  return lines


def _write(folder, counts, shape=(20, 30, 3), is_gray=False):
  """Writes images of classes, and returns the folder."""
  rng = np.random.default_rng(0)
  for name, count in counts.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      image = rng.integers(0, 256, shape, np.uint8)
      image = np.repeat(image[..., :1], 3, -1) if is_gray else image
      assert cv2.imwrite(str(folder / name / f"{i}.png"), image)
  return folder


def _config(folder, variant="tiny"):
  config = images.get_config(variant)
  config.data.source_args.image_folder.directory = str(folder)
  return config


@pytest.mark.parametrize("variant", ["tiny", "tiny,smoke"])
def test_a_folder_of_classes_is_enough(tmp_path, warnings, variant):
  config = _config(_write(tmp_path, {"cat": 12, "dog": 18}), variant)
  complete = tasks.complete_config(config)
  assert complete.data.source == "image_folder"
  assert complete.data.train_split == "all[10%:]"
  assert complete.data.eval_split == "all[:10%]"
  assert complete.data.image_shape == (20, 30, 3)
  assert complete.model.num_classes == 2
  assert config.model.num_classes == 0, "the given config is not changed"
  assert not warnings
  task = tasks.make_task(complete)
  train, held_out = (
    task.source(split).source.paths for split in ("train", "eval")
  )
  assert (len(train), len(held_out)) == (27, 3)
  assert not {*train} & {*held_out}


@pytest.mark.parametrize(
  ("splits", "expected"),
  [
    (["train"], ("train[10%:]", "train[:10%]")),
    (["train", "test"], ("train", "test")),
    (["train", "test", "val"], ("train", "val")),
    (["train", "extra"], ("train[10%:]", "train[:10%]")),
    (["photos"], ("photos[10%:]", "photos[:10%]")),
  ],
)
def test_a_held_out_split_is_found_or_made(tmp_path, splits, expected):
  for split in splits:
    _write(tmp_path / split, {"cat": 10, "dog": 10})
  data = tasks.complete_config(_config(tmp_path)).data
  assert (data.train_split, data.eval_split) == expected


def test_splits_without_a_training_split_are_refused(tmp_path):
  for split in ("a", "b"):
    _write(tmp_path / split, {"cat": 2})
  with pytest.raises(UserError, match="has the splits a, b; name one 'train'"):
    tasks.complete_config(_config(tmp_path))


def test_images_of_a_single_class_are_refused(tmp_path):
  config = _config(_write(tmp_path, {"cat": 20}))
  complete = tasks.complete_config(config)
  with pytest.raises(UserError, match=r"only the label 'cat'; give"):
    tasks.make_task(complete)
  metadata = {"class_names": ["cat"]}
  assert tasks.make_task(complete, metadata).class_names == ("cat",)


def test_too_few_images_to_hold_some_out_are_refused(tmp_path):
  config = _config(_write(tmp_path, {"cat": 1, "dog": 1}))
  complete = tasks.complete_config(config)
  with pytest.raises(UserError, match=r"2 examples .*data\.train_split and"):
    tasks.make_task(complete)


def test_sizes_follow_from_the_images(tmp_path):
  _write(tmp_path, {"cat": 5}, (40, 90, 3), is_gray=True)
  shape = lambda variant: (
    tasks.complete_config(_config(tmp_path, variant)).data.image_shape
  )
  assert shape("tiny") == (32, 32, 1)  # At most 32.
  assert shape("small") == (40, 40, 1)  # Squares of the short side.
  assert shape("base") == (40, 90, 1)
  _write(tmp_path, {"dog": 12}, (50, 50, 3))
  assert shape("small") == (50, 50, 3)


def test_given_leaves_are_kept(tmp_path):
  config = _config(_write(tmp_path, {"cat": 12, "dog": 18}))
  config.data.image_shape = (16, 0, 1)
  config.data.eval_split = "all"
  config.model.num_classes = 7
  complete = tasks.complete_config(config)
  assert complete.data.image_shape == (16, 30, 1)
  assert complete.data.train_split == "all[10%:]"
  assert complete.data.eval_split == "all"
  with pytest.raises(UserError, match="num_classes is 7 but the data has 2"):
    tasks.make_task(complete)


def test_rare_classes_are_named(tmp_path, warnings):
  counts = {"cat": 30, "dog": 30, "emu": 1, "fox": 0}
  _write(tmp_path / "train", counts)
  _write(tmp_path / "test", {"cat": 2, "gnu": 1})
  tasks.complete_config(_config(tmp_path))
  (line,) = warnings
  assert "2 of 4 classes have fewer than two training images: emu, gnu;" in line


def test_the_data_must_be_given_once(tmp_path):
  with pytest.raises(UserError, match=r"no data given; .*image_folder\.dir"):
    tasks.complete_config(images.get_config())
  config = _config(tmp_path)
  config.data.source_args.idx.directory = "x"
  with pytest.raises(UserError, match="idx and image_folder given"):
    tasks.complete_config(config)


def test_a_smoke_run_needs_no_data():
  complete = tasks.complete_config(images.get_config("smoke"))
  assert complete.data.source == "digits"
  assert complete.model.num_classes == 10


def test_a_complete_config_reads_no_data(monkeypatch):
  monkeypatch.setattr(image_config.sources, "make_source", None)
  config = digits.get_config()
  assert tasks.complete_config(config) is config


def test_a_resumed_run_keeps_its_values(tmp_path):
  """A given config is completed before it is compared with the stored one."""
  folder, run = (
    _write(tmp_path / "data", {"cat": 12, "dog": 18}),
    tmp_path / "a",
  )
  complete = tasks.complete_config(_config(folder))
  run.mkdir()
  stored = run / "config.json"
  stored.write_text(json.dumps(complete.to_dict()))
  (run / "checkpoints" / "1").mkdir(parents=True)
  workdir.check_config(run, tasks.complete_config(_config(folder)))
  restored = workdir.read_config(run, "data", "model")
  assert tasks.complete_config(restored) is restored
  assert restored.data.image_shape == (20, 30, 3)
  _write(folder, {"emu": 3})
  with pytest.raises(UserError, match=r"num_classes is 2 there and 3 here"):
    workdir.check_config(run, tasks.complete_config(_config(folder)))


def test_images_of_a_folder_without_splits(tmp_path):
  _write(tmp_path, {"cat": 2, "dog": 3})
  assert image_folder.folder_splits(tmp_path) == ["all"]
  source = image_folder.image_folder(tmp_path, "all")
  assert source.labels.tolist() == [0, 0, 1, 1, 1]
  assert source.class_names == ("cat", "dog")
  with pytest.raises(UserError, match=r"no split 'train' .*found: all"):
    image_folder.image_folder(tmp_path, "train")
