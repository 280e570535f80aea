"""Preprocessing of point clouds (Perceiver v2, section 4.3).

Clouds are float32 [n, 3] with n > 0, and z is the vertical axis.
"""

import numpy as np


def augment(
  points: np.ndarray,
  rng: np.random.Generator,
  *,
  point_scale: float,
  rotation: float,
) -> np.ndarray:
  """Scales each point and rotates the cloud, around the mean of its points.

  Args:
    points: A cloud.
    rng: Random generator.
    point_scale: Each point is scaled by its own random factor, which differs
      from 1 by up to this; the paper's is 0.01.
    rotation: Largest rotation about the vertical axis, in degrees.
  """
  points = points.astype(np.float64)
  points -= points.mean(axis=0)
  factors = rng.uniform(1 - point_scale, 1 + point_scale, (len(points), 1))
  angle = np.radians(rng.uniform(-rotation, rotation))
  return rotate(points * factors, angle).astype(np.float32)


def rotate(points: np.ndarray, angle: float) -> np.ndarray:
  """Rotates points about the vertical axis by an angle in radians."""
  c, s = np.cos(angle), np.sin(angle)
  return points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def normalize(points: np.ndarray) -> np.ndarray:
  """Moves the mean to 0 and scales the largest absolute coordinate to 1."""
  points = points.astype(np.float64)  # Large coordinates would overflow.
  points -= points.mean(axis=0)
  size = np.abs(points).max()
  return (points / size if size > 0 else points).astype(np.float32)


def pad(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Pads a cloud of up to `count` points with zeros.

  Returns:
    The points [count, 3], and a mask [count] that is True at real points.
  """
  padded = np.zeros((count, 3), np.float32)
  padded[: len(points)] = points
  return padded, np.arange(count) < len(points)
