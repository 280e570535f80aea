"""Tests of the windows that training and evaluation take of clips."""

import itertools
import logging
import pickle

import numpy as np
import pytest

from perceiver_jax.data.clips import windows
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core import pipeline
from perceiver_jax.errors import UserError

WINDOW = Window(8, 25.0, 8 * 1920, 48_000, (16, 16))


class ThreeClips:
  """Three clips that return their index and place; clip 1 is unreadable."""

  class_names = ("a", "b", "c")
  labels = ((0,), (1,), (0, 2))
  in_memory = True

  def __len__(self):
    return 3

  def read(self, index, window, place):
    if index == 1:
      raise UserError("'one.mp4' is damaged")
    return {"image": np.float32([index, place])}


class FiftyClips(ThreeClips):
  """Fifty clips, of which clip 1 is unreadable."""

  labels = ((0,),) * 50

  def __len__(self):
    return 50


def test_evaluation_takes_evenly_spaced_windows_of_every_clip():
  source = windows.even_windows(ThreeClips(), WINDOW, 4)
  assert len(source) == 12
  places = [source[i]["image"].tolist() for i in (0, 3, 6, 9)]
  assert places == [
    [0, 0],
    [0, np.float32(1 / 3)],
    [0, np.float32(2 / 3)],
    [0, 1],
  ]
  np.testing.assert_array_equal(source[2]["label"], [1, 0, 1])
  assert windows.even_windows(ThreeClips(), WINDOW, 1)[0]["image"][1] == 0.5


def test_evaluation_masks_unreadable_clips(caplog):
  source = windows.even_windows(ThreeClips(), WINDOW, 2)
  with caplog.at_level(logging.WARNING):
    (batch,) = pipeline.eval_dataset(source, global_batch=6)
  np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 1, 0, 1])
  assert "'one.mp4' is damaged; the next clip takes its place" in caplog.text


def test_an_unreadable_clip_is_logged_once_for_all_its_windows(caplog):
  source = windows.even_windows(FiftyClips(), WINDOW, 16)
  copy = pickle.loads(pickle.dumps(source))
  for each in (source, copy):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      unreadable = [each[i]["unreadable"] for i in range(len(each))]
    assert sum(unreadable) == 16
    assert caplog.text.count("'one.mp4' is damaged") == 1


@pytest.mark.parametrize(("share", "accepted"), [(0.3, True), (0.2, False)])
def test_the_share_of_unreadable_clips_is_limited(share, accepted):
  class QuarterUnreadable(UnbalancedClips):
    def read(self, index, window, place):
      if index % 4 == 3:
        raise UserError(f"{index} is bad")
      return super().read(index, window, place)

  random = windows.RandomWindows(
    QuarterUnreadable(), WINDOW, max_unreadable=share
  )
  rng = np.random.default_rng(0)
  source = windows.even_windows(QuarterUnreadable(), WINDOW, 2, share)
  read_all = (
    lambda: [source[i] for i in range(200)],
    lambda: [random.read(random[i], rng) for i in range(100)],
  )
  for read in read_all:
    if accepted:
      assert np.mean([each["unreadable"] for each in read()]) == 0.25
    else:
      with pytest.raises(UserError, match="clips cannot be read"):
        read()


def test_training_takes_random_windows_and_replaces_unreadable_clips():
  source = windows.RandomWindows(ThreeClips(), WINDOW)
  rng = np.random.default_rng(0)
  examples = [source.read(source[i % 3], rng) for i in range(30)]
  assert sum(each["unreadable"] for each in examples) == 10
  places = np.array([each["image"][1] for each in examples])
  assert len(set(places.tolist())) == 30
  assert places.min() < 0.1
  assert places.max() > 0.9
  assert {each["image"][0] for each in examples} == {0, 2}


def test_too_many_unreadable_clips_are_an_error():
  class Unreadable(ThreeClips):
    labels = ((0,),) * 30

    def __len__(self):
      return 30

    def read(self, index, window, place):
      raise UserError(f"{index} is bad")

  source = windows.RandomWindows(Unreadable(), WINDOW)
  with pytest.raises(UserError, match="11 clips cannot be read"):
    source.read({"clip": 0}, np.random.default_rng(0))


class UnbalancedClips(ThreeClips):
  """A hundred clips that return their index: 90, 9 and 1 per class."""

  class_names = ("a", "b", "c", "none")
  labels = ((0,),) * 89 + ((1,),) * 8 + ((0, 1), (2,), ())

  def __len__(self):
    return 100

  def read(self, index, window, place):
    return {"image": np.float32([index, place])}


def _epochs(count, seed=0):
  """Returns numbers and labels of the clips of balanced epochs."""
  source = windows.RandomWindows(UnbalancedClips(), WINDOW, balanced=True)
  dataset = pipeline.train_dataset(
    source, global_batch=100, seed=seed, transform=source.read
  )
  batches = list(itertools.islice(dataset, count))
  return (
    np.concatenate([batch["image"][:, 0].astype(int) for batch in batches]),
    np.concatenate([batch["label"] for batch in batches]),
  )


def test_balanced_classes_occur_equally_often_and_all_clips_occur():
  numbers, labels = _epochs(15)
  # A clip of two classes, of 90 and of 9 clips, counts for both.
  expected = 500 * np.array([1 + 1 / 9, 1 + 1 / 90, 1])
  np.testing.assert_allclose(labels.sum(0)[:3], expected, atol=75)
  assert set(numbers) == set(range(99))
  # Epochs differ, and a run is reproducible.
  assert np.any(np.sort(numbers[:100]) != np.sort(numbers[100:200]))
  np.testing.assert_array_equal(_epochs(2)[0], numbers[:200])
  assert np.any(_epochs(2, seed=1)[0] != numbers[:200])


def test_balancing_draws_every_class_where_there_are_fewer_clips():
  class TwoClips(UnbalancedClips):
    labels = ((0, 1), (2,))

    def __len__(self):
      return 2

  source = windows.RandomWindows(TwoClips(), WINDOW, balanced=True)
  rng = np.random.default_rng(0)
  examples = [source.read(source[i % 2], rng) for i in range(300)]
  counts = sum(example["label"] for example in examples)
  np.testing.assert_allclose(counts, [200, 200, 100, 0], atol=40)


def test_balancing_without_any_labels_is_refused():
  class Unlabeled(ThreeClips):
    labels = ((), (), ())

  with pytest.raises(UserError, match="no clip has a class"):
    windows.RandomWindows(Unlabeled(), WINDOW, balanced=True)


def test_check_window_refuses_values_out_of_range():
  good = {"num_frames": 8, "fps": 25.0, "num_samples": 9, "sample_rate": 3,
          "image_size": (4, 5)}  # fmt: skip
  assert windows.check_window(good) == Window(8, 25.0, 9, 3, (4, 5))
  for leaf, value in (("fps", 0.0), ("num_frames", 0), ("image_size", (4,))):
    with pytest.raises(UserError, match=leaf):
      windows.check_window({**good, leaf: value})
