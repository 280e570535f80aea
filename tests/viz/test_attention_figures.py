import itertools

import numpy as np
import pytest
from scipy import special

from perceiver_jax.viz import attention_figures
from perceiver_jax.viz.attention_figures import (
  clip_figure,
  image_figure,
  output_overlays,
)

_GAP, _TITLE = 8, 18  # Of `image_layout`, for tiles of 128 pixels.


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def one_hot(places, inputs):
  """Logits [2, N, M] of a cross-attend whose latent n attends to places[n]."""
  logits = np.full((2, len(places), inputs), -5.0, np.float32)
  logits[:, range(len(places)), places] = 5
  return logits


def cells(figure, rows, columns, side=128):
  """Returns the images of a figure, [rows, columns, side, side, 3]."""
  height = figure.shape[0] // rows
  first = figure.shape[1] - columns * side - (columns - 1) * _GAP
  return np.array(
    [
      [
        figure[(r + 1) * height - side :, first + c * (side + _GAP) :][
          :side, :side
        ]
        for c in range(columns)
      ]
      for r in range(rows)
    ]
  )


def hottest(cell, grid):
  """Returns the brightest cell of a square grid."""
  step = len(cell) // grid
  light = cell.astype(int).sum(axis=-1)
  return light.reshape(grid, step, grid, step).mean(axis=(1, 3)).argmax()


def test_an_image_has_a_row_per_cross_attend_and_a_map_per_latent(rng):
  image = rng.integers(0, 256, (128, 128, 3), np.uint8)
  attention = [one_hot([0, 3, 9], 16), one_hot([5, 1, 12], 16)]
  figure = image_figure(image, attention, latents=[2, 0])
  assert figure.dtype == np.uint8
  tiles = cells(figure, 2, 3)
  np.testing.assert_array_equal(tiles[0, 0], image)
  assert (tiles[1, 0] == 255).all()
  assert [[hottest(c, 4) for c in row[1:]] for row in tiles] == [
    [9, 0],
    [12, 5],
  ]


def test_rows_are_broken_and_latents_chosen_by_default(rng):
  image = rng.integers(0, 256, (8, 8, 1), np.uint8)
  places = list(range(10))
  figure = image_figure(image, [one_hot(places, 64)], latents=places)
  tiles = cells(figure, 2, 9)
  brightest = [hottest(c, 8) for row in tiles for c in row[1:]]
  assert brightest[:10] == places
  assert (tiles[1, 3:] == 255).all()
  default = image_figure(image, [one_hot(places, 64)])
  expected = image_figure(
    image, [one_hot(places, 64)], [0, 1, 2, 3, 5, 6, 7, 9]
  )
  np.testing.assert_array_equal(default, expected)


def test_a_head_is_shown_alone():
  image = np.zeros((8, 8, 1), np.uint8)
  heads = np.stack([one_hot([3], 16)[0], one_hot([14], 16)[0]])
  (row,) = cells(image_figure(image, [heads], head=1), 1, 2)
  assert hottest(row[1], 4) == 14


def test_permuting_the_attention_moves_the_maps(rng):
  image = np.zeros((16, 16, 1), np.uint8)
  logits, order = rng.normal(size=(1, 1, 16)), rng.permutation(16)
  (first,) = cells(image_figure(image, [logits]), 1, 2)
  (second,) = cells(image_figure(image, [logits[..., order]]), 1, 2)
  blocks = lambda cell: cell[16::32, 16::32].reshape(16, 3)
  np.testing.assert_array_equal(blocks(second[1]), blocks(first[1])[order])


def test_frames_are_hot_when_and_where_a_latent_attends(rng):
  frames = rng.integers(0, 256, (4, 128, 128, 3), np.uint8)
  audio = np.sin(np.arange(400) / 9).astype(np.float32)
  # Two frames a patch: the second half of the clip, place 6 of 16.
  attention = {"image": one_hot([16 + 6], 32), "audio": one_hot([3], 4)}
  figure = clip_figure(
    frames, audio, [attention], temporal_downsample=2, seconds=2.0
  )
  top, bottom = np.split(figure, [_TITLE + 128 + 8 + 64 + 16])
  first = figure.shape[1] - 4 * 128 - 3 * _GAP
  frame = lambda part, t: part[_TITLE:][:128, first + t * 136 :][:, :128]
  for t in range(4):
    np.testing.assert_array_equal(frame(top, t), frames[t])
    tile = frame(bottom, t).astype(int)
    warmth = tile[..., 0] - tile[..., 2]
    hot = warmth.reshape(4, 32, 4, 32).mean(axis=(1, 3)).ravel()
    assert (hot[6] > 100) == (t >= 2)
    assert (np.delete(hot, 6) < 10).all()
  # The curve below the waveform is high in the last quarter alone.
  curve = bottom[_TITLE + 128 + 2 * (8 + 64) - 64 :][:64, first:]
  filled = (curve != 245).any(axis=-1).mean(axis=0)
  last = filled.size * 3 // 4
  assert filled[last + 1 :].min() > 0.9
  assert filled[: last - 1].max() < 0.1


def test_audio_alone_and_spectrograms_are_shown(rng):
  spectrogram = rng.random((10, 40), np.float32)
  attention = [{"audio": one_hot([7, 2], 10)}]
  figure = clip_figure(None, spectrogram, attention, latents=[0])
  panel = figure[-(128 + 16) : -16, -1024:].astype(int)
  warmth = (panel[..., 0] - panel[..., 2]).mean(axis=0)
  edges = np.linspace(0, 1024, 11).astype(int)
  columns = np.array(
    [warmth[a + 2 : b - 2].mean() for a, b in itertools.pairwise(edges)]
  )
  assert columns.argmax() == 7
  assert columns[7] > 100


def test_silence_and_few_samples_can_be_drawn():
  attention = [{"audio": one_hot([0], 2)}]
  figure = clip_figure(None, np.zeros(6, np.float32), attention)
  assert figure.shape[1] > attention_figures._AUDIO_WIDTH


def test_an_output_attends_through_the_latents_to_the_image(rng):
  images = np.zeros((1, 8, 8, 1), np.uint8)
  encoder = 30 * one_hot([3, 9], 16)[None]
  decoder = np.array([[[[-50.0, 50.0]]]])  # It reads the second latent.
  (overlay,) = output_overlays(images, [encoder], decoder)
  warmth = overlay[..., 0].astype(int) - overlay[..., 2]
  assert hottest(warmth[..., None], 4) == 9
  # Without cross-attends, latents are the inputs.
  weights = special.softmax(rng.normal(size=(1, 1, 1, 16)), axis=-1)
  (direct,) = output_overlays(images, [], np.log(weights))
  warmth = direct[..., 0].astype(int) - direct[..., 2]
  assert hottest(warmth[..., None], 4) == weights.argmax()
