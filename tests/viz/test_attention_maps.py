import cv2
import numpy as np
import pytest

from perceiver_jax.viz.attention_maps import (
  cross_attention_sheet,
  grid_weights,
  input_grid,
  overlay,
  rollout,
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


@pytest.mark.parametrize("shape", [(6,), (5, 6), (5, 4, 6)])
def test_grid_weights_average_heads_and_latents(rng, shape):
  weights = attention(rng, *shape)
  grid = grid_weights(weights, (2, 3))
  assert grid.shape == (2, 3)
  assert grid.dtype == np.float32
  expected = weights.mean(axis=tuple(range(len(shape) - 1)))
  np.testing.assert_allclose(grid.ravel(), expected, rtol=1e-5)
  assert grid.sum() == pytest.approx(1.0, rel=1e-5)


def test_grid_weights_need_a_place_an_input():
  with pytest.raises(ValueError, match="does not hold 7 inputs"):
    grid_weights(np.ones(7), (2, 3))


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
  grey = blocks.transpose(0, 2, 1, 3, 4)[cold]
  # The image's own light, dimmed.
  assert (grey == 60).all()


def test_only_the_relative_size_of_weights_is_shown(rng):
  image = rng.integers(0, 256, (8, 8, 3), np.uint8)
  weights = attention(rng, 8, 8)
  first, second = overlay(image, weights), overlay(image, weights * 1000)
  np.testing.assert_allclose(first, second, atol=1)


def test_equal_weights_show_the_dimmed_image_in_grey(rng):
  image = rng.integers(0, 256, (64, 128, 3), np.uint8)
  result = overlay(image, np.full((4, 4), 0.25))
  assert (result == result[..., :1]).all()
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  np.testing.assert_allclose(result[..., 0], 0.6 * grey, atol=1)


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
def test_weights_that_are_no_grid_of_numbers_are_an_error(weights):
  with pytest.raises(ValueError, match="no grid of numbers"):
    overlay(np.zeros((4, 4)), np.array(weights))


def one_hot_attention(places, latents, inputs):
  """Returns [B, 2, N, M]: latent n of image b attends to `places[b][n]`."""
  weights = np.zeros((len(places), 2, latents, inputs), np.float32)
  for b, row in enumerate(places):
    for n, place in enumerate(row):
      weights[b, :, n, place] = 1
  return weights


def cells(sheet, rows, columns, side, gap=8):
  """Returns the images of a sheet, [rows, columns, side, side, 3]."""
  height = sheet.shape[0] // rows
  return np.array(
    [
      [
        sheet[(r + 1) * height - side :][:side, c * (side + gap) :][:, :side]
        for c in range(columns)
      ]
      for r in range(rows)
    ]
  )


def hottest(cell, grid):
  """Returns the brightest cell of a square grid."""
  step = len(cell) // grid
  light = cell.astype(int).sum(axis=-1)
  blocks = light.reshape(grid, step, grid, step).mean(axis=(1, 3))
  return blocks.argmax()


def test_cross_attention_sheet_has_a_row_per_image_and_a_column_per_attend(rng):
  images = rng.integers(0, 256, (2, 128, 128, 3), np.uint8)
  first = one_hot_attention([[0, 0], [5, 5]], 2, 16)
  second = one_hot_attention([[3, 3], [12, 12]], 2, 16)
  sheet = cross_attention_sheet(images, ["cat", "dog"], [first, second])
  assert sheet.dtype == np.uint8
  tiles = cells(sheet, 2, 3, 128)
  np.testing.assert_array_equal(tiles[:, 0], images)
  places = [[hottest(cell, 4) for cell in row[1:]] for row in tiles]
  assert places == [[0, 3], [5, 12]]


def test_maps_are_the_mean_over_latents_without_the_image(rng):
  images = rng.integers(0, 256, (1, 8, 8, 1), np.uint8)
  weights = one_hot_attention([[1, 1, 2]], 3, 4)
  (row,) = cells(cross_attention_sheet(images, ["a"], [weights]), 1, 2, 128)
  blocks = row[1].reshape(2, 64, 2, 64, 3)
  assert (blocks == blocks[:, :1, :, :1]).all()
  light = blocks[:, 0, :, 0].astype(int).sum(axis=-1).ravel()
  assert light[1] > light[2] > light[0] == light[3]


def test_chosen_latents_have_separate_columns(rng):
  images = rng.integers(0, 256, (1, 8, 8, 3), np.uint8)
  weights = [
    one_hot_attention([[1, 9, 2]], 3, 16),
    one_hot_attention([[4, 9, 7]], 3, 16),
  ]
  sheet = cross_attention_sheet(images, ["a"], weights, latents=[2, 0])
  (row,) = cells(sheet, 1, 5, 128)
  assert [hottest(cell, 4) for cell in row[1:]] == [2, 1, 7, 4]


def test_cross_attention_sheet_needs_images_with_titles(rng):
  images = np.zeros((2, 8, 8, 3), np.uint8)
  weights = attention(rng, 2, 1, 3, 64)
  with pytest.raises(ValueError, match="zip"):
    cross_attention_sheet(images, ["a"], [weights])
  with pytest.raises(ValueError, match="concatenate"):
    cross_attention_sheet(images[:0], [], [weights[:0]])
