import colorsys

import numpy as np
import pytest

from configs import audioset
from perceiver_jax.data.clips import mel
from perceiver_jax.data.clips import preprocessing as clip_preprocessing
from perceiver_jax.data.clips.preprocessing import ClipPreprocessing
from perceiver_jax.errors import UserError

NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def settings(variant="mel_video,smoke", **changes):
  data = audioset.get_config(variant).data
  for name, value in changes.items():
    data.update_from_flattened_dict({name.replace("__", "."): value})
  return data.to_dict()


def example(size=(24, 24), frames=8):
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (frames, *size, 3), np.uint8),
    "audio": rng.normal(size=(10_240, 1)).astype(np.float32) / 9,
    "label": np.float32([1, 0]),
  }


class LargestDraws:
  """A random generator that always draws the largest value."""

  def uniform(self, low, high):
    return high


def test_evaluation_normalizes_images_and_makes_spectrograms():
  given = settings()
  out = ClipPreprocessing(given).evaluate(example())
  np.testing.assert_allclose(
    out["image"], example()["image"] / 127.5 - 1, atol=1e-6
  )
  expected = mel.log_mel(example()["audio"], 8000, given["mel"])
  np.testing.assert_array_equal(out["audio"], expected.reshape(-1, 1))
  np.testing.assert_array_equal(out["label"], [1, 0])


def test_raw_audio_is_not_changed():
  out = ClipPreprocessing(settings("raw_video,smoke")).evaluate(example())
  np.testing.assert_array_equal(out["audio"], example()["audio"])


def test_pixels_undoes_the_normalization():
  preprocessing = ClipPreprocessing(settings())
  pixels = preprocessing.pixels(preprocessing.evaluate(example())["image"])
  np.testing.assert_array_equal(pixels, example()["image"])


def test_crops_and_flips_are_the_same_in_all_frames():
  preprocessing = ClipPreprocessing(settings(crop="inception", flip=True))
  still = example((40, 60), 1)
  still["image"] = still["image"].repeat(5, axis=0)
  first_frames = []
  for seed in range(6):
    frames = preprocessing.train(still, np.random.default_rng(seed))["image"]
    assert frames.shape == (5, 24, 24, 3)
    np.testing.assert_array_equal(frames, frames[:1].repeat(5, axis=0))
    first_frames.append(frames[0].tobytes())
  assert len(set(first_frames)) == 6


def test_half_of_the_clips_are_flipped():
  preprocessing = ClipPreprocessing(
    settings(flip=True, dropout__image=0.0, spec_augment__num_times=0)
  )
  unflipped = ClipPreprocessing(settings()).evaluate(example())["image"]
  rng = np.random.default_rng(0)
  num_flipped = 0
  for _ in range(40):
    frames = preprocessing.train(example(), rng)["image"]
    is_flipped = np.any(frames != unflipped)
    if is_flipped:
      np.testing.assert_array_equal(frames, unflipped[:, :, ::-1])
    num_flipped += is_flipped
  assert 10 < num_flipped < 30


@pytest.mark.parametrize("name", ["image", "audio"])
def test_modality_dropout_leaves_out_one_modality_of_some_examples(name):
  dropout = {"image": 0.0, "audio": 0.0, name: 0.3}
  preprocessing = ClipPreprocessing({**settings(), "dropout": dropout})
  rng = np.random.default_rng(0)
  examples = [preprocessing.train(example(), rng) for _ in range(100)]
  dropped = {k: sum(not each[k].any() for each in examples) for k in dropout}
  assert 20 <= dropped.pop(name) <= 40
  assert set(dropped.values()) == {0}


def test_color_jitter_of_zero_changes_nothing():
  frames = example()["image"]
  rng = np.random.default_rng(0)
  out = clip_preprocessing.color_jitter(frames, rng, NO_JITTER)
  np.testing.assert_allclose(out, frames, atol=0.01)


def test_brightness_contrast_and_saturation_change_as_defined():
  rng = np.random.default_rng(1)
  # These are far from black and white, so that nothing is clipped.
  frames = rng.integers(100, 140, (2, 4, 4, 3), np.uint8)

  def changed(**amounts):
    return clip_preprocessing.color_jitter(
      frames, LargestDraws(), NO_JITTER | amounts
    )

  np.testing.assert_allclose(changed(brightness=0.1), frames + 25.5, atol=0.01)
  more = changed(contrast=0.4)
  assert more.std((0, 1, 2)).mean() == pytest.approx(
    1.4 * frames.std((0, 1, 2)).mean(), rel=1e-3
  )
  luma = np.array([0.299, 0.587, 0.114])
  gray = frames @ luma
  vivid = changed(saturation=0.5)
  np.testing.assert_allclose(vivid @ luma, gray, atol=0.05)
  np.testing.assert_allclose(
    vivid - gray[..., None], 1.5 * (frames - gray[..., None]), atol=0.05
  )


def test_a_third_of_a_hue_rotation_turns_red_into_green_or_blue():
  frames = np.full((1, 1, 1, 3), (150, 100, 100), np.uint8)
  color = clip_preprocessing.color_jitter(
    frames, LargestDraws(), NO_JITTER | {"hue": 1 / 3}
  )[0, 0, 0]
  hue, *_ = colorsys.rgb_to_hsv(*color / 255)
  # The rotation is in YIQ, which is only roughly one in HSV.
  assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 0.12


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"crop": "random"}, "center, inception"),
    ({"audio": "mp3"}, "raw, mel"),
    ({"dropout__image": 1.0}, "less than 1"),
  ],
)
def test_settings_out_of_range_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    ClipPreprocessing(settings(**changes))
