"""Tests of generated clips."""

import pickle

import numpy as np
import pytest

from perceiver_jax.data.clips import generated as generated_clips
from perceiver_jax.data.clips import sources as clip_sources
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.errors import UserError


def test_a_generated_clip_is_reproducible():
  source = generated_clips.generated("test", num_test=40)
  whole = Window(50, 25.0, 96_000, 48_000, (24, 24))
  first = source.read(3, whole, 0.0)
  again = pickle.loads(pickle.dumps(source)).read(3, whole, 0.0)
  np.testing.assert_array_equal(first["image"], again["image"])
  # A window at place 0.5 of a clip of 3 seconds starts after 1 second.
  part = source.read(3, Window(25, 25.0, 0, 1, (24, 24)), 0.5)
  np.testing.assert_array_equal(part["image"], first["image"][25:])
  other = generated_clips.generated("train", num_train=40).read(3, whole, 0.0)
  assert np.any(other["image"] != first["image"])


def test_the_class_of_a_generated_clip_needs_both_image_and_audio():
  source = generated_clips.generated("train", num_train=900)
  assert len(source.class_names) == 15
  labels = np.array(source.labels)
  assert labels.shape == (900, 3)
  # Every pair of a shape and a sound occurs equally often.
  pairs, counts = np.unique(labels, axis=0, return_counts=True)
  assert len(pairs) == 9
  assert set(counts) == {100}
  for shape, sound, pair in pairs:
    names = [source.class_names[i] for i in (shape, sound, pair)]
    assert names[2] == f"{names[0]} with {names[1]}"


def test_generated_shapes_and_sounds_fit_their_class_names():
  source = generated_clips.generated("train", num_train=27)
  window = Window(1, 25.0, 48_000, 48_000, (64, 64))
  for i, (shape, sound, _) in enumerate(source.labels):
    clip = source.read(i, window, 0.0)
    bright = clip["image"][0].mean(-1)
    inside = bright > (bright.min() + bright.max()) / 2
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    sign = {"disc": 0, "tall bar": 1, "wide bar": -1}
    assert (
      np.sign(rows // (2 * columns) - columns // (2 * rows))
      == sign[source.class_names[shape]]
    )
    wave = clip["audio"][:, 0]
    pitch = np.abs(np.fft.rfft(wave)).argmax()
    low, high = {"low tone": (149, 301), "high tone": (999, 2001)}.get(
      source.class_names[sound], (430, 670)
    )
    assert low <= pitch <= high
    quiet = np.abs(wave).reshape(-1, 480).max(1) < 0.1
    assert (quiet.mean() > 0.2) == (source.class_names[sound] == "beeps")


def test_generated_clips_can_be_labeled_by_pairs_only():
  source = clip_sources.make_clips(
    "generated", split="test", num_test=9, pairs_only=True
  )
  assert sorted(source.labels) == [(i,) for i in range(9)]
  with pytest.raises(UserError, match="train, test"):
    generated_clips.generated("validation")
  with pytest.raises(UserError, match="more than 0"):
    generated_clips.generated("train", num_train=0)
  with pytest.raises(UserError, match=r"at most 1\.5"):
    generated_clips.generated("train", scale=2.0)
