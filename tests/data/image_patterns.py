"""Images for tests, and an assertion that compares images."""

import numpy as np

# Four quarters of one color each. Any rotation or flip is visible, and JPEG,
# averages and cubic interpolation hardly change them away from their borders.
QUARTERS = np.array(
  [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [128, 128, 128]]], np.uint8
)


def quarters(height=32, width=48):
  """Returns uint8 [height, width, 3]: red and green over blue and gray."""
  image = QUARTERS.repeat(height // 2, axis=0)
  return image.repeat(width // 2, axis=1)


def noise(*shape, seed=0):
  """Returns random uint8 pixels."""
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def assert_close(actual, expected, tolerance=0):
  """Asserts that images have the same shape and pixels within a tolerance."""
  assert actual.shape == expected.shape
  difference = np.abs(actual.astype(np.float64) - expected)
  assert difference.max() <= tolerance
