import colorsys

import numpy as np
import pytest

from configs import audioset
from perceiver_jax.data.clips import mel
from perceiver_jax.data.clips import preprocessing as clip_preprocessing
from perceiver_jax.data.clips.preprocessing import ClipPreprocessing
from perceiver_jax.errors import UserError

NO_COLOUR = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def settings(variant="mel_video,smoke", **changes):
  found = audioset.get_config(variant).data
  for name, value in changes.items():
    found.update_from_flattened_dict({name.replace("__", "."): value})
  return found.to_dict()


def example(size=(24, 24), frames=8):
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (frames, *size, 3), np.uint8),
    "audio": rng.normal(size=(10_240, 1)).astype(np.float32) / 9,
    "label": np.float32([1, 0]),
  }


class Always:
  """A generator that draws the largest of everything."""

  def uniform(self, low, high):
    return high


def test_evaluation_scales_pictures_and_makes_spectrograms():
  given = settings()
  found = ClipPreprocessing(given).evaluate(example())
  np.testing.assert_allclose(
    found["image"], example()["image"] / 127.5 - 1, atol=1e-6
  )
  want = mel.log_mel(example()["audio"], 8000, given["mel"])
  np.testing.assert_array_equal(found["audio"], want.reshape(-1, 1))
  np.testing.assert_array_equal(found["label"], [1, 0])


def test_raw_sound_stays_as_it_is():
  found = ClipPreprocessing(settings("raw_video,smoke")).evaluate(example())
  np.testing.assert_array_equal(found["audio"], example()["audio"])


def test_people_see_the_pixels():
  views = ClipPreprocessing(settings())
  seen = views.pixels(views.evaluate(example())["image"])
  np.testing.assert_array_equal(seen, example()["image"])


def test_crops_and_flips_are_the_same_in_all_frames():
  views = ClipPreprocessing(settings(crop="inception", flip=True))
  still = example((40, 60), 1)
  still["image"] = still["image"].repeat(5, axis=0)
  seen = []
  for seed in range(6):
    found = views.train(still, np.random.default_rng(seed))["image"]
    assert found.shape == (5, 24, 24, 3)
    np.testing.assert_array_equal(found, found[:1].repeat(5, axis=0))
    seen.append(found[0])
  assert len({each.tobytes() for each in seen}) == 6


def test_half_of_the_clips_are_flipped():
  views = ClipPreprocessing(
    settings(flip=True, dropout__image=0.0, spec_augment__num_times=0)
  )
  want = ClipPreprocessing(settings()).evaluate(example())["image"]
  rng = np.random.default_rng(0)
  flips = 0
  for _ in range(40):
    found = views.train(example(), rng)["image"]
    is_flipped = np.any(found != want)
    if is_flipped:
      np.testing.assert_array_equal(found, want[:, :, ::-1])
    flips += is_flipped
  assert 10 < flips < 30


@pytest.mark.parametrize("name", ["image", "audio"])
def test_a_whole_modality_is_left_out_of_some_examples(name):
  dropout = {"image": 0.0, "audio": 0.0, name: 0.3}
  views = ClipPreprocessing({**settings(), "dropout": dropout})
  rng = np.random.default_rng(0)
  found = [views.train(example(), rng) for _ in range(100)]
  empty = {k: sum(not each[k].any() for each in found) for k in dropout}
  assert 20 <= empty.pop(name) <= 40
  assert set(empty.values()) == {0}


def test_nothing_is_changed_without_color_changes():
  pictures = example()["image"]
  rng = np.random.default_rng(0)
  found = clip_preprocessing.color_jitter(pictures, rng, NO_COLOUR)
  np.testing.assert_allclose(found, pictures, atol=0.01)


def test_each_color_change_is_what_its_name_says():
  rng = np.random.default_rng(1)
  # Far from black and white, so that nothing is cut off.
  pictures = rng.integers(100, 140, (2, 4, 4, 3), np.uint8)

  def changed(**amounts):
    return clip_preprocessing.color_jitter(
      pictures, Always(), NO_COLOUR | amounts
    )

  np.testing.assert_allclose(
    changed(brightness=0.1), pictures + 25.5, atol=0.01
  )
  more = changed(contrast=0.4)
  assert more.std((0, 1, 2)).mean() == pytest.approx(
    1.4 * pictures.std((0, 1, 2)).mean(), rel=1e-3
  )
  luma = np.array([0.299, 0.587, 0.114])
  gray = pictures @ luma
  vivid = changed(saturation=0.5)
  np.testing.assert_allclose(vivid @ luma, gray, atol=0.05)
  np.testing.assert_allclose(
    vivid - gray[..., None], 1.5 * (pictures - gray[..., None]), atol=0.05
  )


def test_a_third_of_a_turn_makes_green_of_red():
  pictures = np.full((1, 1, 1, 3), (150, 100, 100), np.uint8)
  found = clip_preprocessing.color_jitter(
    pictures, Always(), NO_COLOUR | {"hue": 1 / 3}
  )[0, 0, 0]
  hue, *_ = colorsys.rgb_to_hsv(*found / 255)
  # Roughly: turns of YIQ are no turns of HSV.
  assert min(abs(hue - 1 / 3), abs(hue - 2 / 3)) < 0.12


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"crop": "random"}, "center, inception"),
    ({"audio": "mp3"}, "raw, mel"),
    ({"dropout__image": 1.0}, "less than 1"),
  ],
)
def test_settings_out_of_range_are_refused(changes, why):
  with pytest.raises(UserError, match=why):
    ClipPreprocessing(settings(**changes))
