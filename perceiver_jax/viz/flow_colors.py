"""Optical flow in the colors of the Middlebury benchmark.

Hue is the direction of motion on the color wheel of Baker et al. ("A Database
and Evaluation Methodology for Optical Flow", 2011), saturation its length.
Shapes: flow [H, W, 2], x (right) then y (down), in pixels.
"""

import numpy as np

# Steps between the colors, in proportion to the numbers of hues that people
# distinguish: red-yellow 15, yellow-green 6, green-cyan 4, cyan-blue 11,
# blue-magenta 13, magenta-red 6.
_STOPS = np.cumsum([0, 15, 6, 4, 11, 13, 6])
_COLORS = np.array(
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
# Brightness of flow beyond `max_magnitude`.
_BEYOND = 0.75


def flow_to_rgb(
  flow: np.ndarray, max_magnitude: float | None = None
) -> np.ndarray:
  """Draws optical flow as an image.

  Args:
    flow: [H, W, 2] in pixels; unknown where NaN, infinite or above 1e9.
    max_magnitude: length in pixels with full saturation; longer flow is darker.
      None for the largest length in `flow`.

  Returns:
    uint8 [H, W, 3]: white where nothing moves, black where flow is unknown.

  Raises:
    ValueError: `flow` has the wrong shape, or `max_magnitude` is not positive.
  """
  if flow.ndim != 3 or flow.shape[2] != 2:
    raise ValueError(f"flow must be [H, W, 2], got {flow.shape}")
  if max_magnitude is not None and not max_magnitude > 0:
    raise ValueError(f"max_magnitude must be positive, got {max_magnitude}")
  known = (np.abs(flow) <= _UNKNOWN).all(axis=2)
  x, y = np.moveaxis(np.where(known[..., None], flow, 0.0), 2, 0)
  length = np.hypot(x, y)
  share = length / (max_magnitude or length.max(initial=0) or 1.0)
  hue = np.arctan2(y, x) / (2 * np.pi) * _STEPS
  pure = np.stack(
    [np.interp(hue, _STOPS, channel, period=_STEPS) for channel in _COLORS.T],
    axis=2,
  )
  share = share[..., None]
  color = np.where(share <= 1, 1 - share * (1 - pure), pure * _BEYOND)
  return np.rint(255 * color * known[..., None]).astype(np.uint8)


def wheel(size: int = 128) -> np.ndarray:
  """Draws the color wheel, the legend of flow images.

  Args:
    size: rows and columns.

  Returns:
    uint8 [size, size, 3], a disc on white; each point has the color of the flow
    from the center to the point.
  """
  axis = (np.arange(size) + 0.5) * 2 / size - 1
  flow = np.stack(np.meshgrid(axis, axis), axis=2)
  inside = np.hypot(flow[..., 0], flow[..., 1]) <= 1
  image = flow_to_rgb(flow, max_magnitude=1.0)
  return np.where(inside[..., None], image, np.uint8(255))
