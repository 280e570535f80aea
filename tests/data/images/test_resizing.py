import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_patterns import QUARTERS, assert_close, noise, quarters

from perceiver_jax.data.images import resizing
from perceiver_jax.errors import UserError

# resize


def test_resize_averages_when_it_reduces():
  fine = np.indices((8, 8)).sum(0)[..., None] % 2 * 200
  small = resizing.resize(fine.astype(np.uint8), 4, 2)
  assert_close(small, np.full((4, 2, 1), 100))


def test_resize_keeps_corners_in_place_when_it_enlarges():
  large = resizing.resize(quarters(8, 8), 64, 64)
  assert_close(large[[0, -1]][:, [0, -1]], QUARTERS)


@settings(max_examples=25, deadline=None)
@given(
  st.tuples(*[st.integers(1, 40)] * 4),
  st.sampled_from([1, 3]),
  st.sampled_from([np.uint8, np.float32]),
)
def test_resize_to_any_size_keeps_uniform_images(sizes, c, dtype):
  height, width, rows, columns = sizes
  out = resizing.resize(np.full((height, width, c), 37, dtype), rows, columns)
  assert out.dtype == dtype
  assert_close(out, np.full((rows, columns, c), 37), 1e-3)


# cubic_resize


def _kernel(x):
  """The cubic convolution kernel (Keys, 1981, equation 15)."""
  x = abs(x)
  if x <= 1:
    return 1.5 * x**3 - 2.5 * x**2 + 1
  if x < 2:
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return 0.0


def _reference(image, height, width):
  """Every output pixel as a sum over the whole image, in float64."""

  def weights(size, new_size):
    centers = (np.arange(new_size) + 0.5) * size / new_size
    pixels = np.arange(size) + 0.5
    w = [[_kernel(c - p) for p in pixels] for c in centers]
    return np.array(w) / np.sum(w, axis=1, keepdims=True)

  rows, columns = image.shape[:2]
  down, across = weights(rows, height), weights(columns, width)
  return np.einsum("yh,xw,hwc->yxc", down, across, image.astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(
  st.tuples(*[st.integers(1, 24)] * 4),
  st.sampled_from([1, 3]),
  st.sampled_from([np.uint8, np.float32]),
  st.integers(0, 99),
)
def test_cubic_resize_agrees_with_its_definition(sizes, c, dtype, seed):
  rows, columns, height, width = sizes
  image = noise(rows, columns, c, seed=seed).astype(dtype)
  out = resizing.cubic_resize(image, height, width)
  assert out.dtype == np.float32
  assert_close(out, _reference(image, height, width), 1e-3)


def test_cubic_resize_accepts_views_of_an_array():
  image = noise(200, 60, 3)
  part = image[5:170, 7:59]
  assert_close(
    resizing.cubic_resize(part, 22, 30), _reference(part, 22, 30), 1e-3
  )
  turned = image[:, ::-1]
  assert_close(
    resizing.cubic_resize(turned, 22, 30), _reference(turned, 22, 30), 1e-3
  )


def test_cubic_resize_to_the_same_size_changes_nothing():
  image = noise(9, 7, 3)
  assert_close(resizing.cubic_resize(image, 9, 7), image)


@pytest.mark.parametrize("size", [(3, 4), (37, 41), (200, 5)])
def test_cubic_resize_keeps_uniform_images(size):
  flat = np.full((30, 40, 3), 255, np.uint8)
  assert_close(
    resizing.cubic_resize(flat, *size), np.full((*size, 3), 255), 1e-4
  )


@pytest.mark.parametrize("width", [13, 150])
def test_cubic_resize_keeps_slopes_away_from_the_border(width):
  slope = np.tile(np.arange(50, dtype=np.float32) * 4 + 20, (5, 1))[..., None]
  out = resizing.cubic_resize(slope, 5, width)[2, :, 0]
  place = (np.arange(width) + 0.5) * 50 / width - 0.5
  inside = (place >= 1) & (place <= 48)
  assert inside.sum() > width / 2
  np.testing.assert_allclose(out[inside], place[inside] * 4 + 20, atol=1e-3)


def test_cubic_resize_overshoots_at_edges_and_is_not_clamped():
  edge = np.zeros((8, 8, 1), np.uint8)
  edge[:, 4:] = 255
  out = resizing.cubic_resize(edge, 8, 32)
  # The kernel's negative lobe weighs most at 3/8 of a pixel from the edge.
  assert out.min() == pytest.approx(-255 * 9 / 128, abs=3)
  assert out.max() == pytest.approx(255 * (1 + 9 / 128), abs=3)


def test_resize_by_takes_the_name_of_a_method():
  image = noise(6, 8, 3)
  assert_close(
    resizing.resize_by(image, 3, 4, "area"), resizing.resize(image, 3, 4)
  )
  cubic = resizing.cubic_resize(image, 3, 4)
  assert_close(resizing.resize_by(image, 3, 4, "cubic"), cubic)
  assert tuple(resizing.RESIZES) == ("area", "cubic")
  with pytest.raises(UserError, match="'nearest'; give area or cubic"):
    resizing.resize_by(image, 3, 4, "nearest")
