"""Pictures to test with, and how to compare them."""

import numpy as np

# Four flat quarters: any turn or flip shows, and JPEG keeps them exactly
# enough, as do averages and cubics away from the seams.
QUARTERS = np.array(
  [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [128, 128, 128]]], np.uint8
)


def quarters(height=32, width=48):
  """uint8 [height, width, 3]: red and green over blue and grey."""
  picture = QUARTERS.repeat(height // 2, axis=0)
  return picture.repeat(width // 2, axis=1)


def noise(*shape, seed=0):
  """Any uint8 pixels."""
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def close(actual, expected, tolerance=0):
  """Asserts that pixels are of one shape and within a tolerance."""
  assert actual.shape == expected.shape
  difference = np.abs(actual.astype(np.float64) - expected)
  assert difference.max() <= tolerance
