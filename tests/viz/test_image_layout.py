import cv2
import numpy as np
import pytest

from perceiver_jax.viz.image_layout import (
  contact_sheet,
  png_bytes,
  side_by_side,
)


def _flat(level, *shape):
  return np.full((*shape, 3), level, np.uint8)


def test_videos_are_placed_side_by_side_under_their_titles():
  noise = np.random.default_rng(0).integers(0, 256, (5, 64, 48, 3), np.uint8)
  out = side_by_side({"original": noise, "copy": noise // 2}, gap=6)
  assert out.dtype == np.uint8
  frames, height, width, channels = out.shape
  assert (frames, width, channels) == (5, 48 + 6 + 48, 3)
  title = height - 64
  np.testing.assert_array_equal(out[:, title:, :48], noise)
  np.testing.assert_array_equal(out[:, title:, 54:], noise // 2)
  assert (out[:, :, 48:54] == 255).all()
  # Titles are black on white and the same in all frames.
  left, right = out[0, :title, :48], out[0, :title, 54:]
  for text in (left, right):
    assert text.min() < 64
    assert text.max() == 255
  assert (left != right).any()
  assert (out[:, :title] == out[:1, :title]).all()


def test_images_may_differ_in_width():
  parts = {"a": _flat(1, 20, 30), "b": _flat(2, 20, 7), "c": _flat(3, 20, 1)}
  out = side_by_side(parts, gap=2)
  assert out.ndim == 3
  expected = [1] * 30 + [255] * 2 + [2] * 7 + [255] * 2 + [3]
  assert out[-1, :, 0].tolist() == expected


def test_titles_grow_with_the_image_and_are_centered():
  small = side_by_side({"name": _flat(9, 64, 200)})
  large = side_by_side({"name": _flat(9, 640, 200)})
  assert large.shape[0] - 640 > 2 * (small.shape[0] - 64)
  ink = np.flatnonzero((small[:-64] < 128).any(axis=(0, 2)))
  assert abs((ink[0] + ink[-1]) / 2 - 100) < 2


def test_long_titles_are_cropped_to_the_width():
  out = side_by_side({"reconstruction " * 1000: _flat(9, 32, 80)})
  title = out[:-32]
  assert (title[:, [0, -1]] == 255).all()
  assert (title[:, 10:70] < 128).any()


def test_any_title_can_be_drawn():
  for name in ("", "\n", "λ ü я", "漢字", "\ud800\x00"):
    side_by_side({name: _flat(9, 8, 8)})


def test_images_of_different_shapes_or_types_are_refused():
  with pytest.raises(ValueError, match="no images"):
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


def test_a_contact_sheet_has_every_image_in_its_cell():
  colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
  images = [np.full((8, 8, 3), c, np.uint8) for c in colors]
  sheet = contact_sheet(images, ["a", "$b", "\udcff"], columns=2)
  assert sheet.dtype == np.uint8
  height, width, channels = sheet.shape
  assert channels == 3
  cells = [
    sheet[: height // 2, : width // 2],
    sheet[: height // 2, width // 2 :],
    sheet[height // 2 :, : width // 2],
  ]
  for cell, color in zip(cells, colors, strict=True):
    inside = (cell == color).all(axis=-1)
    assert inside.mean() > 0.3
  assert (sheet[height // 2 :, width // 2 :] == 255).all()


def test_a_contact_sheet_is_no_wider_than_its_images():
  image = np.zeros((4, 4), np.uint8)
  alone = contact_sheet([image], ["a"], columns=8)
  two = contact_sheet([image] * 2, ["a", "b"], columns=8)
  assert two.shape[1] == 2 * alone.shape[1]


@pytest.mark.parametrize(
  ("images", "titles", "columns"), [(0, 0, 1), (2, 1, 1), (1, 1, 0)]
)
def test_a_contact_sheet_refuses_missing_titles(images, titles, columns):
  image = np.zeros((4, 4), np.uint8)
  with pytest.raises(ValueError, match="titles"):
    contact_sheet([image] * images, ["a"] * titles, columns)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_png_bytes_are_lossless(shape):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, shape, np.uint8)
  data = np.frombuffer(png_bytes(image), np.uint8)
  assert data[:8].tobytes() == b"\x89PNG\r\n\x1a\n"
  decoded = cv2.cvtColor(cv2.imdecode(data, -1), cv2.COLOR_BGR2RGB)
  expected = np.broadcast_to(image.reshape(5, 7, -1), (5, 7, 3))
  np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [((4, 4), np.float32), ((4, 4, 4), np.uint8), ((4,), np.uint8)],
)
def test_png_bytes_refuse_other_types_and_shapes(shape, dtype):
  with pytest.raises(ValueError, match="an image must be uint8"):
    png_bytes(np.zeros(shape, dtype))
