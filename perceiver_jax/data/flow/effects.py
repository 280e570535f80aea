"""Fog, lighting changes and noise in rendered frames.

They do not change the flow. Motion blur is part of the layers (`scene`).
Shapes: H, W of the frames.
"""

import cv2
import numpy as np

from perceiver_jax.data.flow.scene import Scene

# Cells along each axis of the random fields of fog and light.
_CELLS = 4


def apply_effects(
  rng: np.random.Generator, scene: Scene, frames: np.ndarray
) -> np.ndarray:
  """Adds fog, a change of light between the frames, and noise at random.

  Args:
    rng: random generator.
    scene: settings, with the share of pairs and the largest strength of each.
    frames: uint8 [2, H, W, 3].

  Returns:
    uint8 [2, H, W, 3].
  """
  fog, light, noise = rng.random(3) < (scene.fog_share, scene.light_share,
                            scene.noise_share)  # fmt: skip
  if not (fog or light or noise):
    return frames
  x = frames.astype(np.float32)
  if fog:
    x = _fog(rng, scene, x)
  if light:
    x[1] = _light(rng, scene, x[1])
  if noise:
    deviation = np.float32(rng.uniform(0, scene.noise))
    x += deviation * rng.standard_normal(x.shape, np.float32)
  return x.clip(0, 255).astype(np.uint8)


def _fog(rng: np.random.Generator, scene: Scene, x: np.ndarray) -> np.ndarray:
  """Adds gray fog in front of the scene, the same in both frames."""
  field = _smooth(rng, x.shape[1:3])
  density = (scene.fog_density * rng.random()) * field[..., None]
  return x + density * (np.float32(rng.uniform(120, 255)) - x)


def _light(rng: np.random.Generator, scene: Scene, x: np.ndarray) -> np.ndarray:
  """Changes the brightness of a frame, by channel and by region."""
  gains = 1 + scene.light * rng.uniform(-1, 1, 3) / 2
  field = 1 + scene.light * (_smooth(rng, x.shape[:2]) - 0.5)
  return x * field[..., None] * gains.astype(np.float32)


def _smooth(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
  """Draws a smooth random field float32 [H, W] in [0, 1]."""
  cells = rng.random((_CELLS, _CELLS), np.float32)
  field = cv2.resize(cells, shape[::-1], interpolation=cv2.INTER_CUBIC)
  return field.clip(0, 1)
