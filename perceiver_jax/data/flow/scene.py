"""Random scenes of moving layers, as in AutoFlow.

A scene is a background with objects in front of it, each with a texture, a mask
and a motion (Sun et al., "AutoFlow: Learning a Better Training Set for Optical
Flow", 2021). Neither AutoFlow's renderer nor its learned hyperparameters were
released; the defaults here are our own. Lengths are fractions of the frame's
height, so that the same settings fit any size.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.flow import settings as flow_settings
from perceiver_jax.data.flow.motion import (
  Box,
  Motion,
  affine,
  inverted,
  thin_plate,
)
from perceiver_jax.data.flow.shapes import Outline, random_shape
from perceiver_jax.data.flow.textures import Textures
from perceiver_jax.errors import UserError

# Margin of the texture around a layer, as a fraction of the larger side.
_MARGIN = 0.15


class Scene(NamedTuple):
  """Settings of random scenes. Shares of pairs or layers are from 0 to 1.

  Attributes:
    objects: minimum and maximum number of objects.
    diameter: smallest and largest diameter of an object, over the frame's
      height.
    vertices: see `shapes.Outline`, as for the next five.
    irregularity: irregularity of a polygon's angles.
    spikiness: spikiness of shapes.
    blob_share: share of smooth shapes.
    hole_share: share of shapes with a hole.
    elongation: largest ratio of a shape's axes.
    translation: mean length of an object's translation, over the frame's
      height; lengths are drawn from an exponential distribution.
    max_translation: longest translation, as a multiple of the mean.
    rotation: standard deviation of an object's rotation, in degrees.
    scale: standard deviation of the logarithm of an object's scale.
    shear: standard deviation of an object's shear.
    follow_share: share of objects that move with the background, in addition
      to their own motion.
    warp_share: share of layers that are bent.
    warp_points: number of control points along each axis of a layer; see
      `motion.thin_plate`.
    warp_strength: standard deviation of their moves; see `motion.thin_plate`.
    background_translation: `translation` of the background.
    background_rotation: `rotation` of the background.
    background_scale: `scale` of the background.
    background_shear: `shear` of the background.
    edge_blur: largest standard deviation of the blur of an object's edge, in
      pixels.
    motion_blur_share: share of pairs with motion blur.
    motion_blur: longest blur, as a fraction of the motion between the frames.
    fog_share: share of pairs with fog.
    fog_density: largest density of fog, 0 to 1.
    light_share: share of pairs whose frames differ in lighting.
    light: largest difference in brightness, as a fraction.
    noise_share: share of pairs with sensor noise.
    noise: largest standard deviation of the noise, in levels of 255.
  """

  objects: tuple[int, int] = (2, 8)
  diameter: tuple[float, float] = (0.12, 0.8)
  vertices: tuple[int, int] = (3, 12)
  irregularity: float = 0.7
  spikiness: float = 0.25
  blob_share: float = 0.5
  hole_share: float = 0.1
  elongation: float = 3.0
  translation: float = 0.05
  max_translation: float = 6.0
  rotation: float = 8.0
  scale: float = 0.08
  shear: float = 0.03
  follow_share: float = 0.5
  warp_share: float = 0.5
  warp_points: int = 4
  warp_strength: float = 0.08
  background_translation: float = 0.03
  background_rotation: float = 2.0
  background_scale: float = 0.04
  background_shear: float = 0.01
  edge_blur: float = 1.0
  motion_blur_share: float = 0.3
  motion_blur: float = 0.5
  fog_share: float = 0.2
  fog_density: float = 0.7
  light_share: float = 0.5
  light: float = 0.15
  noise_share: float = 0.2
  noise: float = 6.0


class Layer(NamedTuple):
  """A textured shape with its position in the second frame and its motion.

  Attributes:
    texture: uint8 [h, w, 3].
    to_texture: affine map [2, 3] from the second frame to the texture.
    motion: from the first frame to the second.
    mask: uint8 coverage of the pixels of `mask_box`; None covers all of them.
    mask_box: extent of the layer in the second frame.
    first_box: pixels of the first frame in which the layer may be visible.
  """

  texture: np.ndarray
  to_texture: np.ndarray
  motion: Motion
  mask: np.ndarray | None
  mask_box: Box
  first_box: Box


def make_scene(settings: Mapping[str, Any]) -> Scene:
  """Makes a `Scene` from the leaves of a config.

  Raises:
    UserError: a leaf is unknown, or a number is out of range.
  """
  section = "data.source_args.rendered.scene"
  scene = flow_settings.make(Scene, section, settings)
  for name in ("objects", "diameter", "vertices"):
    value = getattr(scene, name)
    is_valid = 0 <= value[0] <= value[1]
    check_leaf(f"{section}.{name}", value, is_valid, "minimum and maximum")
  minimum = {"diameter": 1e-3, "vertices": 3}
  for name, value in minimum.items():
    if getattr(scene, name)[0] < value:
      raise UserError(f"the rendered scenes need {name} of {value} or more")
  if scene.warp_points < 2 or scene.elongation < 1 or scene.objects[1] > 200:
    raise UserError(
      "the rendered scenes need warp_points of 2 or more, elongation of 1 or"
      " more, and at most 200 objects"
    )
  return scene


def draw_layers(
  rng: np.random.Generator,
  scene: Scene,
  textures: Textures,
  height: int,
  width: int,
) -> list[Layer]:
  """Draws the layers of a random pair, the background first.

  Args:
    rng: random generator.
    scene: settings of the scene.
    textures: textures of the layers.
    height: height of the frames in pixels.
    width: width of the frames in pixels.
  """
  blur = 0.0
  if rng.random() < scene.motion_blur_share:
    blur = rng.uniform(0, scene.motion_blur)
  frame = Box(0, 0, width, height)
  camera = _affine(rng, scene, frame, "background_", height)
  motion = _bent(rng, scene, Motion(camera, frame, None))
  layers = [_layer(rng, textures, motion, None, frame, frame, blur)]
  for _ in range(rng.integers(scene.objects[0], scene.objects[1] + 1)):
    layers.append(_object(rng, scene, textures, frame, camera, blur))
  return layers


def _object(
  rng: np.random.Generator,
  scene: Scene,
  textures: Textures,
  frame: Box,
  camera: np.ndarray,
  blur: float,
) -> Layer:
  height, width = frame.shape
  diameter = height * np.exp(rng.uniform(*np.log(scene.diameter)))
  outline = Outline(*(getattr(scene, name) for name in Outline._fields))
  center = rng.uniform((0, 0), (width, height))
  mask, box = random_shape(rng, outline, center, diameter)
  softness = rng.uniform(0, scene.edge_blur)
  if softness > 0.2:
    # The mask already has a margin of two pixels around the shape.
    reach = max(0, int(3 * softness) - 2)
    mask = cv2.GaussianBlur(np.pad(mask, reach), (0, 0), softness)
    box = _grow(box, reach)
  matrix = _affine(rng, scene, box, "", height)
  if rng.random() < scene.follow_share:
    matrix = _compose(matrix, camera)
  mask, box = _blurred_mask(mask, box, blur * _displacement(matrix, box))
  motion = _bent(rng, scene, Motion(matrix, _preimage(box, matrix), None))
  reach = 0 if motion.bend is None else int(np.abs(motion.bend).max()) + 1
  first_box = _preimage(_grow(box, reach), matrix)
  return _layer(rng, textures, motion, mask, box, first_box, blur)


def _affine(
  rng: np.random.Generator, scene: Scene, box: Box, kind: str, height: int
) -> np.ndarray:
  setting = lambda name: getattr(scene, kind + name)
  mean = height * setting("translation")
  length = min(rng.exponential(mean), scene.max_translation * mean)
  angle = rng.uniform(0, 2 * np.pi)
  return affine(
    np.array([box.left + box.right - 1, box.top + box.bottom - 1]) / 2,
    length * np.array([np.cos(angle), np.sin(angle)]),
    rng.normal(0, setting("rotation")),
    np.exp(rng.normal(0, setting("scale"))),
    rng.normal(0, setting("shear")),
  )


def _bent(rng: np.random.Generator, scene: Scene, motion: Motion) -> Motion:
  if rng.random() >= scene.warp_share:
    return motion
  strength = rng.uniform(0, scene.warp_strength)
  bend = thin_plate(rng, motion.box, scene.warp_points, strength)
  return motion._replace(bend=bend)


def _layer(
  rng: np.random.Generator,
  textures: Textures,
  motion: Motion,
  mask: np.ndarray | None,
  box: Box,
  first_box: Box,
  blur: float,
) -> Layer:
  """Makes a layer with a given motion and a rotated texture.

  Due to the rotation, both frames are resampled from the texture, not only the
  first.
  """
  margin = round(_MARGIN * max(box.shape))
  rows, columns = (n + 2 * margin for n in box.shape)
  texture = textures.draw(rng, rows, columns)
  corner = np.array([box.left - margin, box.top - margin], float)
  middle = np.array([columns - 1, rows - 1]) / 2
  turn = affine(middle, 0.0, rng.uniform(-180, 180), 1.0, 0.0)[:, :2]
  to_texture = np.column_stack([turn, middle - turn @ (corner + middle)])
  path = blur * _displacement(motion.matrix, box)
  return Layer(
    _motion_blurred(texture, turn @ path),
    to_texture,
    motion,
    mask,
    box,
    first_box,
  )


def _displacement(matrix: np.ndarray, box: Box) -> np.ndarray:
  """Returns the displacement (x, y) of the center of a box."""
  middle = np.array([box.left + box.right, box.top + box.bottom, 2]) / 2
  return middle[:2] - inverted(matrix) @ middle


def _blurred_mask(
  mask: np.ndarray, box: Box, path: np.ndarray
) -> tuple[np.ndarray, Box]:
  """Blurs a mask along a line; returns it with its enlarged box."""
  reach = int(np.ceil(np.hypot(*path) / 2))
  return _motion_blurred(np.pad(mask, reach), path), _grow(box, reach)


def _motion_blurred(image: np.ndarray, path: np.ndarray) -> np.ndarray:
  """Blurs an image along a line (x, y)."""
  length = np.hypot(*path)
  if length < 1:
    return image
  reach = int(np.ceil(length / 2))
  size = 2 * reach + 1
  kernel = np.zeros((size, size), np.uint8)
  ends = np.rint((reach + np.stack([-path, path]) / 2) * 16).astype(int)
  cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
  kernel = kernel.astype(np.float32)
  return cv2.filter2D(image, -1, kernel / kernel.sum())


def _compose(after: np.ndarray, before: np.ndarray) -> np.ndarray:
  return after @ np.vstack([before, [0, 0, 1]])


def _preimage(box: Box, matrix: np.ndarray) -> Box:
  """Returns the box of the first frame that moves into a box."""
  x, y = [box.left, box.right], [box.top, box.bottom]
  corners = np.stack([*map(np.ravel, np.meshgrid(x, y)), np.ones(4)])
  points = inverted(matrix) @ corners
  low = np.floor(points.min(1)).astype(int)
  high = np.ceil(points.max(1)).astype(int) + 1
  return Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def _grow(box: Box, by: int) -> Box:
  left, top, right, bottom = box
  return Box(left - by, top - by, right + by, bottom + by)
