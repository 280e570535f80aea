"""Point clouds colored by attention: a section with clouds to turn, and images.

Shapes: n real points of M, N latents. Clouds lie in [-1, 1], with z upward.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np

from perceiver_jax.viz import attention_maps, html, image_layout
from perceiver_jax.viz.sections import SAMPLES, Section

_HEIGHT = "height"  # Name of the colors that show no attention.
_LATENTS = 3  # Latents of each cross-attend that are shown one by one.
_AZIMUTH, _ELEVATION = np.radians(35), np.radians(20)  # First view.
_SIDE = 256  # Pixels of an image.
_BACKGROUND = (22, 25, 31)
_COLUMNS = 4
# The dark end of the palette would be invisible on the dark background.
_PALETTE = np.round(
  matplotlib.colormaps["plasma"](np.linspace(0.2, 1, 256))[:, :3] * 255
).astype(np.uint8)


class CloudSample(NamedTuple):
  """A classified point cloud.

  Attributes:
    points: float32 [n, 3] in [-1, 1].
    maps: values of the points [n] by name, such as attention weights.
    label: the correct class; "" if unknown.
    prediction: the predicted class.
    probability: probability of the predicted class.
  """

  points: np.ndarray
  maps: Mapping[str, np.ndarray]
  label: str
  prediction: str
  probability: float


def maps_of_attention(
  attention: Sequence[np.ndarray], mask: np.ndarray, kind: str
) -> dict[str, np.ndarray]:
  """Returns the attention to the real points of one cloud, by name.

  Args:
    attention: logits [heads, N, M] of each cross-attend.
    mask: True at real points [M].
    kind: the encoder's kind; that of PointNet are shares of its maxima.
  """
  maps = {}
  for number, logits in enumerate(attention, 1):
    logits = logits[..., mask].astype(np.float32)
    if not logits.size:
      continue
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True)).mean(0)  # [N, n]
    if kind == "pointnet":
      return {"share of the maxima": weights[0]}
    maps[f"cross-attend {number}, mean over latents"] = weights.mean(0)
    for latent in attention_maps.choose_latents(len(weights), _LATENTS):
      maps[f"cross-attend {number}, latent {latent}"] = weights[latent]
  return maps


def cloud_samples(
  samples: Sequence[CloudSample], title: str = SAMPLES
) -> Section:
  """Shows clouds that can be turned, confident mistakes first."""
  ordered = sorted(
    samples, key=lambda s: (s.label == s.prediction, -s.probability)
  )
  names = list(dict.fromkeys(name for s in samples for name in s.maps))
  body = html.render(
    "point_clouds",
    samples=[
      (sample, _encode_points(sample), _encode_colors(sample, names))
      for sample in ordered
    ],
    names=[*names, _HEIGHT],
    palette=_base64(_PALETTE),
    azimuth=_AZIMUTH,
    elevation=_ELEVATION,
  )
  return Section(
    title,
    body,
    "Drag a cloud to turn it, or focus it and use the arrow keys. Colors are"
    " attention weights, averaged over heads, or height; yellow is highest."
    " Each cloud has its own scale, from the 1st to the 99th percentile."
    " Mistakes come first, the most confident leading.",
  )


def contact_sheet(samples: Sequence[CloudSample]) -> np.ndarray:
  """Draws clouds with label and prediction, each in the colors of each map.

  The maps are the means over latents; without attention, the height.

  Args:
    samples: at least one.

  Returns:
    uint8 [height, width, 3].
  """
  names = dict.fromkeys(name for sample in samples for name in sample.maps)
  shown = [name for name in names if "latent " not in name] or [_HEIGHT]
  images, titles = [], []
  for sample in samples:
    mark = "" if sample.label in (sample.prediction, "") else "✗ "
    row = [f"{mark}{sample.prediction} {sample.probability:.0%}", *shown[1:]]
    if len(shown) > 1 and sample.label:
      row[-1] = f"label: {sample.label}"
    images += [draw(sample.points, _values(sample, name)) for name in shown]
    titles += row
  columns = len(shown) * max(1, _COLUMNS // len(shown))
  return image_layout.contact_sheet(images, titles, columns)


def draw(points: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Draws a cloud [n, 3] as seen from one side, colored by values [n].

  Returns:
    uint8 [h, w, 3].
  """
  image = np.full((_SIDE, _SIDE, 3), _BACKGROUND, np.uint8)
  if not len(points):
    return image
  colors = _PALETTE[_levels(values)]
  c, s = np.cos(_AZIMUTH), np.sin(_AZIMUTH)
  right = c * points[:, 0] - s * points[:, 1]
  depth = s * points[:, 0] + c * points[:, 1]  # Away from the viewer.
  c, s = np.cos(_ELEVATION), np.sin(_ELEVATION)
  up = c * points[:, 2] + s * depth
  depth = c * depth - s * points[:, 2]
  scale = 0.46 * _SIDE / max(np.linalg.norm(points, axis=1).max(), 1e-6)
  for i in np.argsort(-depth):
    center = (_SIDE / 2 + scale * right[i], _SIDE / 2 - scale * up[i])
    at = (round(float(center[0])), round(float(center[1])))
    cv2.circle(image, at, 2, colors[i].tolist(), -1, cv2.LINE_AA)
  return image


def _values(sample: CloudSample, name: str) -> np.ndarray:
  """Returns the values of a map; zeros where the cloud lacks it."""
  if name == _HEIGHT:
    return sample.points[:, 2]
  return sample.maps.get(name, np.zeros(len(sample.points)))


def _levels(values: np.ndarray) -> np.ndarray:
  """Returns values as uint8, from the 1st to the 99th percentile."""
  if not len(values):
    return np.zeros(0, np.uint8)
  return np.round(attention_maps.normalize(values) * 255).astype(np.uint8)


def _encode_points(sample: CloudSample) -> str:
  """Returns the coordinates as base64 of little-endian int16."""
  points = np.clip(sample.points, -1, 1) * 32767
  return _base64(np.round(points).astype("<i2"))


def _encode_colors(sample: CloudSample, names: Sequence[str]) -> str:
  """Returns the levels of all maps and of the height, one after the other."""
  levels = [_levels(_values(sample, name)) for name in [*names, _HEIGHT]]
  return _base64(np.concatenate(levels))


def _base64(array: np.ndarray) -> str:
  return base64.b64encode(array.tobytes()).decode()
