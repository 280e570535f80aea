"""Optical flow as pictures, in the colours of the Middlebury benchmark.

Hue says where a pixel moves, by Baker et al.'s colour wheel ("A Database and
Evaluation Methodology for Optical Flow", 2011); saturation says how far.
Shapes: flow [H, W, 2], x (right) then y (down), in pixels.
"""

import numpy as np

# Steps between the colours named, which share the wheel by how many hues
# people tell apart: red-yellow 15, yellow-green 6, green-cyan 4, cyan-blue 11,
# blue-magenta 13, magenta-red 6.
_STOPS = np.cumsum([0, 15, 6, 4, 11, 13, 6])
_COLOURS = np.array(
  [
    [1, 0, 0],
    [1, 1, 0],
    [0, 1, 0],
    [0, 1, 1],
    [0, 0, 1],
    [1, 0, 1],
    [1, 0, 0],
  ],
  np.float64,
)
_STEPS = _STOPS[-1]
# Middlebury's files mark unknown flow with values above this.
_UNKNOWN = 1e9
# Flow longer than the longest that was asked for is darkened.
_BEYOND = 0.75


def flow_to_rgb(
  flow: np.ndarray, max_magnitude: float | None = None
) -> np.ndarray:
  """Draws optical flow.

  Args:
    flow: [H, W, 2] in pixels; unknown where it is NaN, infinite or over 1e9.
    max_magnitude: length in pixels that is drawn in full colour; longer flow
      is darkened. The longest in `flow` if not given.

  Returns:
    uint8 [H, W, 3]: white where nothing moves, black where flow is unknown.

  Raises:
    ValueError: `flow` has another shape, or `max_magnitude` is not positive.
  """
  if flow.ndim != 3 or flow.shape[2] != 2:
    raise ValueError(f"flow is [H, W, 2], got {flow.shape}")
  if max_magnitude is not None and not max_magnitude > 0:
    raise ValueError(f"max_magnitude must be positive, got {max_magnitude}")
  known = (np.abs(flow) <= _UNKNOWN).all(axis=2)
  x, y = np.moveaxis(np.where(known[..., None], flow, 0.0), 2, 0)
  length = np.hypot(x, y)
  share = length / (max_magnitude or length.max(initial=0) or 1.0)
  hue = np.arctan2(y, x) / (2 * np.pi) * _STEPS
  pure = np.stack(
    [np.interp(hue, _STOPS, channel, period=_STEPS) for channel in _COLOURS.T],
    axis=2,
  )
  share = share[..., None]
  colour = np.where(share <= 1, 1 - share * (1 - pure), pure * _BEYOND)
  return np.rint(255 * colour * known[..., None]).astype(np.uint8)


def wheel(size: int = 128) -> np.ndarray:
  """Draws the legend: each place in the colour of flow that leads there.

  Args:
    size: rows and columns.

  Returns:
    uint8 [size, size, 3]: a disc whose rim is the longest flow, on white.
  """
  axis = (np.arange(size) + 0.5) * 2 / size - 1
  flow = np.stack(np.meshgrid(axis, axis), axis=2)
  inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
  picture = flow_to_rgb(flow, max_magnitude=1.0)
  return np.where(inside[..., None], picture, np.uint8(255))
