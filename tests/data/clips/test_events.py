"""Tests of the generated clips of two events."""

import numpy as np
import pytest

from perceiver_jax.data.clips import events
from perceiver_jax.errors import UserError


def test_clips_are_deterministic_and_differ_between_splits():
  train, test = events.Events("train"), events.Events("test")
  assert (len(train), len(test)) == (16_384, 1024)
  for name, value in train[5].items():
    np.testing.assert_array_equal(value, train[5][name])
  assert not np.array_equal(train[5]["features"], test[5]["features"])


def test_features_are_those_of_each_patch():
  source = events.Events("train", num_channels=7)
  lengths, labels = set(), set()
  for i in range(60):
    features = source[i]["features"]
    assert features.shape[1:] == (9, 7)
    assert features.dtype == np.float32
    lengths.add(len(features))
    labels.add(int(source[i]["label"]))
  assert lengths == set(range(6, 11))
  assert labels == set(range(12))
  frames = np.zeros((2, 12, 12), np.float32)
  frames[1, 4:8, 8:] = 1.0  # The patch in row 1 and column 2.
  projection = events.frozen_projection(7)
  features = events.encode(frames, projection)
  want = np.zeros((2, 9, 7))
  want[1, 5] = np.maximum(projection.sum(0), 0)
  np.testing.assert_allclose(features, want, atol=1e-6)


@pytest.mark.parametrize("label", range(12))
def test_the_first_texture_of_a_class_comes_first(label):
  rng = np.random.default_rng(label)
  names = events.CLASSES[label].split(" then ")
  for _ in range(5):
    frames = events.make_clip(label, 10, rng)
    times = [_time(frames, name) for name in names]
    assert times[0] < times[1]


def _time(frames, name):
  """Returns the frame that is most like a texture."""
  texture = events._texture(name)
  likeness = [
    max(
      abs((frame[y : y + 8, x : x + 8] * texture).mean())
      for y in range(5)
      for x in range(5)
    )
    for frame in frames
  ]
  return int(np.argmax(likeness))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"split": "eval"}, "unknown split 'eval'"),
    ({"max_frames": 5}, "max_frames is 5; give 6 or more"),
    ({"num_channels": 0}, "num_channels is 0"),
    ({"num_train": 0}, "num_train is 0"),
  ],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(UserError, match=message):
    events.Events(**{"split": "train", **arguments})
