import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import tiling

_TILE = (8, 12)
_SIZES = st.tuples(st.integers(1, 24), st.integers(1, 36))
_SPACING = st.sampled_from(tiling.SPACINGS)


def _coordinates(height, width):
  """Returns frames whose channels are the coordinates of the pixels."""
  y, x = np.indices((height, width)).astype(np.float32)
  return np.stack([np.stack([y, x, x * 0], axis=2)] * 2)


def _tiled(frames, predict, **kwargs):
  return tiling.tiled_flow(
    frames, predict, **{"tile": _TILE, "min_overlap": 2} | kwargs
  )


# tile_starts


@pytest.mark.parametrize(
  ("size", "tile", "even", "released"),
  [
    # Sintel, 436 x 1024.
    (436, 368, [0, 68], [0, 68]),
    (1024, 496, [0, 264, 528], [0, 476, 528]),
    # KITTI, 375 x 1242.
    (375, 368, [0, 7], [0, 7]),
    (1242, 496, [0, 373, 746], [0, 476, 746]),
    (496, 496, [0], [0]),
    (497, 496, [0, 1], [0, 1]),
    # Two tiles overlap by exactly 20; one more pixel needs a third tile.
    (972, 496, [0, 476], [0, 476]),
    (973, 496, [0, 238, 477], [0, 476, 477]),
    (960, 496, [0, 464], [0, 464]),
  ],
)
def test_tiles_start_as_in_the_paper_and_in_the_notebook(
  size, tile, even, released
):
  assert tiling.tile_starts(size, tile) == even
  assert tiling.tile_starts(size, tile, spacing="released") == released


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 240), st.data(), _SPACING)
def test_tiles_cover_an_axis_with_the_minimum_overlap_and_no_repeats(
  tile, more, data, spacing
):
  overlap = data.draw(st.integers(0, tile - 1))
  starts = tiling.tile_starts(tile + more, tile, overlap, spacing)
  assert starts[0] == 0
  assert starts[-1] == more
  steps = np.diff(starts)
  assert ((steps > 0) & (steps <= tile - overlap)).all()
  if spacing == "even" and len(steps):
    assert np.ptp(steps) <= 1
    # One tile fewer would not be enough.
    assert more > (len(steps) - 1) * (tile - overlap)


@pytest.mark.parametrize(
  ("size", "tile", "overlap"), [(9, 10, 2), (10, 8, 8), (10, 8, -1)]
)
def test_sizes_overlaps_and_spacings_out_of_range_are_refused(
  size, tile, overlap
):
  with pytest.raises(ValueError, match="must ascend"):
    tiling.tile_starts(size, tile, overlap)
  with pytest.raises(ValueError, match=r"one of .* got 'odd'"):
    tiling.tile_starts(10, 8, 2, "odd")


# edge_distance


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_weights_are_positive_and_symmetric_and_grow_inward(height, width):
  weights = tiling.edge_distance(height, width)
  assert weights.shape == (height, width)
  assert weights[0, 0] == weights.min() == 1
  assert weights.max() == (min(height, width) + 1) // 2
  np.testing.assert_array_equal(weights, weights[::-1])
  np.testing.assert_array_equal(weights, weights[:, ::-1])


def test_weights_are_the_distance_to_the_nearest_edge():
  expected = [[1, 1, 1, 1], [1, 2, 2, 1], [1, 1, 1, 1]]
  np.testing.assert_array_equal(tiling.edge_distance(3, 4), expected)


# tiled_flow


@settings(deadline=None)
@given(_SIZES, _SPACING, st.floats(-999, 999, width=32), st.integers(1, 9))
def test_constant_flow_is_blended_exactly(size, spacing, value, batch_size):
  flow = _tiled(
    np.zeros((2, *size, 3), np.uint8),
    lambda frames: np.full((*frames.shape[:1], *_TILE, 2), value, np.float32),
    spacing=spacing,
    batch_size=batch_size,
  )
  assert flow.dtype == np.float32
  np.testing.assert_array_equal(flow, np.full((*size, 2), np.float32(value)))


@settings(deadline=None)
@given(_SIZES, _SPACING, st.integers(1, 9))
def test_flow_that_is_linear_in_the_coordinates_is_blended_exactly(
  size, spacing, batch_size
):
  frames = _coordinates(*size)
  flow = _tiled(
    frames,
    lambda tiles: tiles[:, 0, :, :, :2] * [3, -2] + 1,
    spacing=spacing,
    batch_size=batch_size,
  )
  np.testing.assert_allclose(flow, frames[0, ..., :2] * [3, -2] + 1, rtol=1e-6)


def test_overlapping_tiles_are_weighted_by_the_distance_to_their_edges():
  calls = iter([0.0, 1.0])
  flow = tiling.tiled_flow(
    np.zeros((2, 9, 14, 3)),
    lambda frames: np.full((1, 9, 9, 2), next(calls)),
    tile=(9, 9),
    min_overlap=4,
  )
  # Columns 5 to 8 are 4, 3, 2, 1 pixels from the edge of the first tile and
  # 1, 2, 3, 4 from that of the second. The middle row is no closer to an edge.
  expected = [0] * 5 + [1 / 5, 2 / 5, 3 / 5, 4 / 5] + [1] * 5
  np.testing.assert_allclose(flow[4, :, 0], expected, rtol=1e-6)


def test_all_calls_have_one_size_with_little_padding():
  sizes = []

  def predict(frames):
    sizes.append(frames.shape)
    return np.zeros((*frames.shape[:1], *_TILE, 2))

  frames = np.zeros((2, 13, 32, 3))  # 2 x 3 tiles
  for batch_size, expected in {
    1: [1] * 6,
    4: [3, 3],
    5: [3, 3],
    9: [6],
  }.items():
    sizes.clear()
    _tiled(frames, predict, batch_size=batch_size)
    assert sizes == [(size, 2, *_TILE, 3) for size in expected]
  sizes.clear()
  _tiled(np.zeros((2, 8, 52, 3)), predict, batch_size=3)  # 5 tiles
  assert [size[0] for size in sizes] == [3, 3]


def test_images_smaller_than_a_tile_are_padded_with_their_edges():
  frames = _coordinates(3, 5)
  calls = []

  def predict(tiles):
    calls.append(tiles)
    return tiles[:, 0, :, :, :2]

  flow = _tiled(frames, predict)
  np.testing.assert_array_equal(flow, frames[0, ..., :2])
  y, x = np.indices(_TILE)
  np.testing.assert_array_equal(calls[0][0, 1, ..., 0], np.minimum(y, 2))
  np.testing.assert_array_equal(calls[0][0, 1, ..., 1], np.minimum(x, 4))


def test_frames_keep_their_type():
  def predict(tiles):
    assert tiles.dtype == np.uint8
    return np.zeros((1, *_TILE, 2), np.float32)

  assert _tiled(np.zeros((2, 4, 4, 3), np.uint8), predict).shape == (4, 4, 2)


def test_shapes_and_batch_sizes_out_of_range_are_refused():
  frames = np.zeros((2, 8, 12, 3))
  for wrong in (frames[0], frames[:1], frames[:, :0]):
    with pytest.raises(ValueError, match=r"frames are \[2, H, W, C\]"):
      _tiled(wrong, lambda tiles: tiles)
  with pytest.raises(ValueError, match=r"predict gave \(1, 2, 8, 12, 3\)"):
    _tiled(frames, lambda tiles: tiles)
  with pytest.raises(ValueError, match="batch_size must be at least 1"):
    _tiled(frames, lambda tiles: tiles, batch_size=0)


def test_small_tiles_overlap_less_and_are_predicted_in_batches():
  published, small = tiling.TRAINING_SIZE, (32, 48)
  assert tiling.overlap(published) == tiling.MIN_OVERLAP
  assert tiling.tiles_at_once(published) == 1
  assert tiling.overlap(small) == 2
  assert tiling.tiles_at_once(small) == 16
  assert tiling.tiles_at_once((184, 248)) == 4
  assert tiling.tiles_at_once((736, 992)) == 1
  assert tiling.overlap((1, 1)) == 0
  # With the overlap of the published model, a frame of Sintel would need 1,260
  # of these tiles.
  starts = [
    tiling.tile_starts(size, tile, tiling.overlap(small))
    for size, tile in zip((436, 1024), small, strict=True)
  ]
  assert len(starts[0]) * len(starts[1]) == 15 * 23
