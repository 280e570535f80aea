import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.viz.attention_maps import (
  audio_maps,
  choose_latents,
  heat_map,
  image_maps,
  input_grid,
  latent_attention,
  overlay,
  rollout,
  video_maps,
)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def attention(rng, *shape):
  weights = rng.random(shape, np.float32)
  return weights / weights.sum(axis=-1, keepdims=True)


def test_rollout_chains_queries_through_latents_to_inputs(rng):
  decoder, encoder = attention(rng, 3, 4), attention(rng, 4, 10)
  result = rollout(decoder, encoder)
  expected = np.einsum("on,nm->om", decoder, encoder)
  np.testing.assert_allclose(result, expected, rtol=1e-6)
  np.testing.assert_allclose(result.sum(axis=-1), 1.0, rtol=1e-5)


def test_latents_are_evenly_spaced():
  assert choose_latents(512, 3) == [0, 255, 511]
  assert choose_latents(5) == [0, 1, 2, 3, 4]


def test_attention_of_latents_is_of_a_head_or_of_their_mean(rng):
  weights = attention(rng, 2, 5, 6)
  mean = latent_attention(weights, [4, 1])
  np.testing.assert_allclose(mean, weights[:, [4, 1]].mean(axis=0), rtol=1e-6)
  head = latent_attention(weights, [4, 1], head=1)
  np.testing.assert_array_equal(head, weights[1, [4, 1]])


@settings(max_examples=20, deadline=None)
@given(
  st.sampled_from([(8, 8, 1), (8, 12, 4), (6, 4, 2), (5, 7, 1)]),
  st.integers(0, 99),
)
def test_maps_of_images_have_their_shape_and_follow_a_permutation(sizes, seed):
  rng = np.random.default_rng(seed)
  height, width, patch = sizes
  values = rng.normal(size=(3, height // patch * (width // patch)))
  maps = image_maps(values, (height, width))
  assert maps.shape == (3, height, width)
  # Every pixel has the attention to its patch.
  for y, x in np.ndindex(height, width):
    element = y // patch * (width // patch) + x // patch
    np.testing.assert_array_equal(maps[:, y, x], values[:, element])
  order = rng.permutation(values.shape[1])
  permuted = image_maps(values[:, order], (height, width))
  cells = maps[:, ::patch, ::patch].reshape(3, -1)
  np.testing.assert_array_equal(
    permuted[:, ::patch, ::patch].reshape(3, -1), cells[:, order]
  )


def test_maps_of_videos_and_audio_have_their_shape(rng):
  values = rng.normal(size=(2, 3 * 4 * 2))
  maps = video_maps(values, (6, 16, 8), temporal_downsample=2)
  assert maps.shape == (2, 6, 16, 8)
  for t, y, x in np.ndindex(6, 16, 8):
    element = t // 2 * 8 + y // 4 * 2 + x // 4
    np.testing.assert_array_equal(maps[:, t, y, x], values[:, element])
  sound = audio_maps(values, (72,))
  np.testing.assert_array_equal(sound, np.repeat(values, 3, axis=1))
  spectrogram = audio_maps(values, (12, 4))
  np.testing.assert_array_equal(
    spectrogram, np.repeat(values, 2, axis=1).reshape(2, 12, 4)
  )


def test_heat_maps_are_not_smoothed_and_take_logits():
  logits = np.array([[-7.0, -5.0], [-6.0, -9.0]])
  blocks = heat_map(logits, (8, 4)).reshape(2, 2, 2, 4, 3)
  assert (blocks == blocks[:, :1, :, :1]).all()
  light = blocks[:, 0, :, 0].astype(int).sum(axis=-1)
  assert light[0, 1] > light[1, 0] > light[0, 0] > light[1, 1]


@pytest.mark.parametrize(
  ("size", "num_inputs", "grid"),
  [
    ((224, 224), 224 * 224, (224, 224)),
    ((224, 224), 56 * 56, (56, 56)),
    ((8, 16), 128, (8, 16)),
    ((16, 8), 32, (8, 4)),
    ((30, 50), 8 * 13, (8, 13)),  # Strides of 4 leave ceil(30 / 4) rows.
    ((9, 33), 3 * 9, (3, 9)),
    ((5, 5), 1, (1, 1)),
  ],
)
def test_input_grids_cover_an_image_evenly(size, num_inputs, grid):
  assert input_grid(size, num_inputs) == grid


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ((8, 8, 1), (128, 128)),
    ((8, 4), (128, 64)),
    ((28, 28, 3), (140, 140)),
    ((100, 130, 3), (100, 130)),
    ((224, 224, 2), (224, 224)),
  ],
)
def test_overlays_are_large_enough_to_see(rng, shape, size):
  image = rng.integers(0, 256, shape, np.uint8)
  result = overlay(image, attention(rng, 4, 4))
  assert result.shape == (*size, 3)
  assert result.dtype == np.uint8


def test_heat_is_yellow_where_the_weight_is_and_nowhere_else():
  weights = np.zeros((8, 8))
  weights[2, 5] = 0.7
  blocks = overlay(np.full((8, 8), 100, np.uint8), weights)
  blocks = blocks.reshape(8, 16, 8, 16, 3)
  hot = blocks[2, :, 5].reshape(-1, 3).astype(int)
  assert (hot[:, 0] - hot[:, 2] > 100).all()
  assert (hot[:, 1] - hot[:, 2] > 100).all()
  cold = np.ones((8, 8), bool)
  cold[2, 5] = False
  gray = blocks.transpose(0, 2, 1, 3, 4)[cold]
  # The image's own light, dimmed.
  assert (gray == 60).all()


def test_only_the_relative_size_of_weights_is_shown(rng):
  image = rng.integers(0, 256, (8, 8, 3), np.uint8)
  weights = attention(rng, 8, 8)
  first, second = overlay(image, weights), overlay(image, weights * 1000)
  np.testing.assert_allclose(first, second, atol=1)


def test_equal_weights_show_the_dimmed_image_in_gray(rng):
  image = rng.integers(0, 256, (64, 128, 3), np.uint8)
  result = overlay(image, np.full((4, 4), 0.25))
  assert (result == result[..., :1]).all()
  gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  np.testing.assert_allclose(result[..., 0], 0.6 * gray, atol=1)


def test_one_outlier_does_not_hide_the_rest(rng):
  weights = rng.random((16, 16))
  weights[0, 0] = 1e6
  heat = overlay(np.zeros((128, 128), np.uint8), weights)[16:, 16:]
  assert heat.max() > 150


def test_float_images_are_read_in_minus_one_to_one(rng):
  image = rng.integers(0, 256, (8, 8, 3), np.uint8)
  scaled = image.astype(np.float32) / 127.5 - 1
  weights = attention(rng, 8, 8)
  result = overlay(scaled, weights)
  np.testing.assert_allclose(result, overlay(image, weights), atol=1)


@pytest.mark.filterwarnings("error")
def test_float_images_out_of_range_are_clipped():
  image = np.array([[-9.0, 9.0], [np.nan, np.inf]])
  result = overlay(image, np.zeros((2, 2)))[::64, ::64, 0]
  np.testing.assert_array_equal(result, [[0, 153], [76, 153]])


@pytest.mark.parametrize(
  "weights",
  [[1.0], [[-1.0]], [[np.nan]], [[np.inf, 0.0]], [[[1.0]]]],
)
def test_weights_that_are_not_a_grid_of_finite_numbers_are_refused(weights):
  with pytest.raises(ValueError, match="no grid of numbers"):
    overlay(np.zeros((4, 4)), np.array(weights))
