import numpy as np
import pytest

from perceiver_jax.viz.side_by_side import side_by_side


def _flat(level, *shape):
  return np.full((*shape, 3), level, np.uint8)


def test_videos_lie_beside_each_other_under_their_labels():
  noise = np.random.default_rng(0).integers(0, 256, (5, 64, 48, 3), np.uint8)
  out = side_by_side({"original": noise, "copy": noise // 2}, gap=6)
  assert out.dtype == np.uint8
  frames, height, width, channels = out.shape
  assert (frames, width, channels) == (5, 48 + 6 + 48, 3)
  label = height - 64
  np.testing.assert_array_equal(out[:, label:, :48], noise)
  np.testing.assert_array_equal(out[:, label:, 54:], noise // 2)
  assert (out[:, :, 48:54] == 255).all()
  # The labels are black on white, differ, and stay over the whole video.
  left, right = out[0, :label, :48], out[0, :label, 54:]
  for text in (left, right):
    assert text.min() < 64
    assert text.max() == 255
  assert (left != right).any()
  assert (out[:, :label] == out[:1, :label]).all()


def test_pictures_may_differ_in_width():
  parts = {"a": _flat(1, 20, 30), "b": _flat(2, 20, 7), "c": _flat(3, 20, 1)}
  out = side_by_side(parts, gap=2)
  assert out.ndim == 3
  expected = [1] * 30 + [255] * 2 + [2] * 7 + [255] * 2 + [3]
  assert out[-1, :, 0].tolist() == expected


def test_labels_grow_with_the_picture_and_are_centred():
  small = side_by_side({"name": _flat(9, 64, 200)})
  large = side_by_side({"name": _flat(9, 640, 200)})
  assert large.shape[0] - 640 > 2 * (small.shape[0] - 64)
  ink = np.flatnonzero((small[:-64] < 128).any(axis=(0, 2)))
  assert abs((ink[0] + ink[-1]) / 2 - 100) < 2


def test_long_labels_are_cut_to_the_width():
  out = side_by_side({"reconstruction " * 1000: _flat(9, 32, 80)})
  label = out[:-32]
  assert (label[:, [0, -1]] == 255).all()
  assert (label[:, 10:70] < 128).any()


def test_any_label_can_be_drawn():
  for name in ("", "\n", "λ ü я", "漢字", "\ud800\x00"):
    side_by_side({name: _flat(9, 8, 8)})


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="no pictures"):
    side_by_side({})
  first = _flat(1, 3, 8, 8)
  for other in (
    _flat(1, 2, 8, 8),
    _flat(1, 3, 9, 8),
    _flat(1, 8, 8),
    first[..., 0],
    first.astype(np.float32),
  ):
    with pytest.raises(ValueError, match="'other' is"):
      side_by_side({"first": first, "other": other})
