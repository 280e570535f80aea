import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.viz.flow_colors import flow_to_rgb, wheel

_UNIT = 2 * np.pi / 55


def _color(step, length=1.0, most=1.0):
  """Returns the color of flow at a step of the wheel, from 0 to 55."""
  direction = [np.cos(step * _UNIT), np.sin(step * _UNIT)]
  flow = length * np.array([[direction]])
  return flow_to_rgb(flow, most)[0, 0].tolist()


@pytest.mark.parametrize(
  ("step", "rgb"),
  [
    (0, (255, 0, 0)),
    (15, (255, 255, 0)),
    (21, (0, 255, 0)),
    (25, (0, 255, 255)),
    (36, (0, 0, 255)),
    (49, (255, 0, 255)),
    (55, (255, 0, 0)),
    (3, (255, 51, 0)),
    (18, (128, 255, 0)),
  ],
)
def test_the_color_wheel_is_that_of_middlebury(step, rgb):
  # Flow that is longer than the maximum by rounding would be darkened.
  np.testing.assert_allclose(_color(step, 0.9999999), rgb, atol=1)


def test_directions_have_the_colors_of_published_images():
  right, down = np.eye(2)
  left, up = -np.eye(2)
  image = flow_to_rgb(np.array([[right, down, left, up]]))[0].astype(int)
  assert image[0].tolist() == [255, 0, 0]
  red, green, blue = image[1]  # Down is yellow, slightly red.
  assert red == 255
  assert 220 < green < 255
  assert blue == 0
  red, green, blue = image[2]  # Left is cyan, slightly blue.
  assert red == 0
  assert 150 < green < 255
  assert blue == 255
  red, green, blue = image[3]  # Up is blue, slightly magenta.
  assert 64 < red < 128
  assert green == 0
  assert blue == 255


@settings(deadline=None)
@given(st.floats(0, 55), st.floats(0, 1))
def test_shorter_flow_is_closer_to_white(step, length):
  full = np.array(_color(step, 0.9999999), float)
  expected = 255 - length * (255 - full)
  np.testing.assert_allclose(_color(step, length), expected, atol=1.01)


@settings(deadline=None)
@given(st.floats(0, 54), st.floats(0.01, 1))
def test_hue_changes_continuously_with_direction(step, by):
  change = np.subtract(_color(step + by, 0.999), _color(step, 0.999))
  # The fastest change is from green to cyan: a full channel in 4 steps.
  assert np.abs(change).max() <= 255 / 4 * by + 1


def test_flow_longer_than_the_maximum_is_darkened():
  assert _color(0, 2) == [191, 0, 0]
  assert _color(0, 1) == [255, 0, 0]


def test_the_maximum_defaults_to_the_longest_flow_of_the_image():
  flow = np.zeros((2, 2, 2))
  flow[0, 0], flow[0, 1] = (7, 0), (3.5, 0)
  expected = [[[255, 0, 0], [255, 128, 128]], [[255] * 3] * 2]
  np.testing.assert_array_equal(flow_to_rgb(flow), expected)
  np.testing.assert_array_equal(flow_to_rgb(1e-6 * flow), expected)


def test_zero_flow_is_white_and_unknown_flow_is_black_and_ignored():
  flow = np.zeros((1, 5, 2), np.float32)
  flow[0, 1] = (np.nan, 0)
  flow[0, 2] = (0, -np.inf)
  flow[0, 3] = (1e10, 1e10)
  image = flow_to_rgb(flow)
  assert image.dtype == np.uint8
  np.testing.assert_array_equal(image[0, [0, 4]], 255)
  np.testing.assert_array_equal(image[0, 1:4], 0)
  flow[0, 4] = (2, 0)
  assert flow_to_rgb(flow)[0, 4].tolist() == [255, 0, 0]
  assert (flow_to_rgb(flow * np.nan) == 0).all()


def test_other_shapes_and_maxima_out_of_range_are_refused():
  with pytest.raises(ValueError, match=r"\[H, W, 2\]"):
    flow_to_rgb(np.zeros((2, 2, 3)))
  for most in (0, -1, np.nan):
    with pytest.raises(ValueError, match="must be positive"):
      flow_to_rgb(np.zeros((2, 2, 2)), most)


def test_the_legend_shows_every_direction_on_white():
  legend = wheel(64)
  assert legend.shape == (64, 64, 3)
  assert legend.dtype == np.uint8
  np.testing.assert_array_equal(legend[[0, 0, -1, -1], [0, -1, 0, -1]], 255)
  assert legend[31:33, 31:33].min() > 240  # The center is zero flow.
  right, left = legend[32, 62].astype(int), legend[31, 1].astype(int)
  assert right[0] > right[1] + 200
  assert left[2] > left[0] + 200
  # Opposite directions have different colors.
  differs = (legend != legend[::-1, ::-1]).any(axis=2)
  disc = np.hypot(*np.indices((64, 64)) - 31.5) < 30
  assert differs[disc].all()
