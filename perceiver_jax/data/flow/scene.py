"""Random scenes of moving layers, in the manner of AutoFlow.

A scene is a background and objects before it, each with a texture, a mask and
a motion (Sun et al., "AutoFlow: Learning a Better Training Set for Optical
Flow", 2021; their renderer was not released, and the numbers they searched for
are not known: these are ours). Lengths are shares of the frame's height, so
that the same settings fit any size.
"""

from collections.abc import Mapping
from typing import (
  Any,
  NamedTuple,
)

import cv2
import numpy as np

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

# Pixels of texture beyond what is seen in the second frame.
_MARGIN = 0.15


class Scene(NamedTuple):
  """How scenes are drawn. Shares of pairs or layers are from 0 to 1.

  Attributes:
    objects: least and most of them.
    diameter: of an object, smallest and largest, over the frame's height.
    vertices: see `shapes.Outline`, as the next five.
    irregularity: of polygons.
    spikiness: of shapes.
    blob_share: of smooth shapes.
    hole_share: of shapes with a hole.
    elongation: of shapes.
    translation: mean length of an object's, over the frame's height; lengths
      are distributed exponentially, so that most are short and some long.
    longest: times the mean that a translation may be long.
    rotation: standard deviation of an object's, in degrees.
    scale: standard deviation of the logarithm of an object's growth.
    shear: standard deviation of an object's.
    follow_share: share of objects that move with the background, and by their
      own motion in addition.
    warp_share: share of layers that are bent.
    warp_points: along each axis of a layer; see `motion.thin_plate`.
    warp_strength: see there.
    background_translation: as `translation`, of the background.
    background_rotation: as `rotation`.
    background_scale: as `scale`.
    background_shear: as `shear`.
    edge_blur: most pixels that an object's edge is softened by.
    motion_blur_share: share of pairs with motion blur.
    motion_blur: most of a motion that is smeared: 1 is all of it.
    fog_share: share of pairs seen through fog.
    fog_density: most of it.
    light_share: share of pairs whose frames are lit differently.
    light: most that they differ, as a share of the brightness.
    noise_share: share of pairs with noise of the sensor.
    noise: its largest standard deviation, in levels of 255.
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
  longest: float = 6.0
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
  """What is drawn, from back to front. Its home is the second frame.

  Attributes:
    texture: uint8 [h, w, 3].
    place: [2, 3], from the second frame to the texture.
    motion: from the first frame to the second.
    mask: coverage uint8 over `mask_box`; None covers everything.
    mask_box: in the second frame.
    first_box: pixels of the first frame it may be seen at.
  """

  texture: np.ndarray
  place: np.ndarray
  motion: Motion
  mask: np.ndarray | None
  mask_box: Box
  first_box: Box


def make_scene(settings: Mapping[str, Any]) -> Scene:
  """A `Scene` from the leaves of a config.

  Raises:
    UserError: there is no such leaf, or a number is out of range.
  """
  unknown = sorted(set(settings) - set(Scene._fields))
  if unknown:
    raise UserError(
      f"the rendered scenes have no setting {', '.join(unknown)}; choose from"
      f" {', '.join(Scene._fields)}"
    )
  scene = Scene(**settings)
  for name in ("objects", "diameter", "vertices"):
    value = getattr(scene, name)
    if len(value) != 2 or not 0 <= value[0] <= value[1]:
      raise UserError(
        f"the rendered scenes have {name} {value}; give the least and the most"
      )
  least = {"diameter": 1e-3, "vertices": 3}
  for name, value in least.items():
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
  """The layers of one pair, the background first.

  Args:
    rng: draws what is random.
    scene: how.
    textures: what they look like.
    height: of the frames, in pixels.
    width: of the frames.
  """
  smear = 0.0
  if rng.random() < scene.motion_blur_share:
    smear = rng.uniform(0, scene.motion_blur)
  frame = Box(0, 0, width, height)
  camera = _affine(rng, scene, frame, "background_", height)
  motion = _bent(rng, scene, Motion(camera, frame, None))
  layers = [_layer(rng, textures, motion, None, frame, frame, smear)]
  for _ in range(rng.integers(scene.objects[0], scene.objects[1] + 1)):
    layers.append(_object(rng, scene, textures, frame, camera, smear))
  return layers


def _object(
  rng: np.random.Generator,
  scene: Scene,
  textures: Textures,
  frame: Box,
  camera: np.ndarray,
  smear: float,
) -> Layer:
  height, width = frame.shape
  diameter = height * np.exp(rng.uniform(*np.log(scene.diameter)))
  outline = Outline(*(getattr(scene, name) for name in Outline._fields))
  centre = rng.uniform((0, 0), (width, height))
  mask, box = random_shape(rng, outline, centre, diameter)
  softness = rng.uniform(0, scene.edge_blur)
  if softness > 0.2:
    # Two pixels around the shape are there already.
    reach = max(0, int(3 * softness) - 2)
    mask = cv2.GaussianBlur(np.pad(mask, reach), (0, 0), softness)
    box = _grown(box, reach)
  matrix = _affine(rng, scene, box, "", height)
  if rng.random() < scene.follow_share:
    matrix = _composed(matrix, camera)
  mask, box = _smeared(mask, box, smear * _way(matrix, box))
  motion = _bent(rng, scene, Motion(matrix, _before(box, matrix), None))
  reach = 0 if motion.bend is None else int(np.abs(motion.bend).max()) + 1
  first_box = _before(_grown(box, reach), matrix)
  return _layer(rng, textures, motion, mask, box, first_box, smear)


def _affine(
  rng: np.random.Generator, scene: Scene, box: Box, kind: str, height: int
) -> np.ndarray:
  of = lambda name: getattr(scene, kind + name)
  mean = height * of("translation")
  length = min(rng.exponential(mean), scene.longest * mean)
  angle = rng.uniform(0, 2 * np.pi)
  return affine(
    np.array([box.left + box.right - 1, box.top + box.bottom - 1]) / 2,
    length * np.array([np.cos(angle), np.sin(angle)]),
    rng.normal(0, of("rotation")),
    np.exp(rng.normal(0, of("scale"))),
    rng.normal(0, of("shear")),
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
  smear: float,
) -> Layer:
  """Gives a motion its texture, turned so that both frames are resampled."""
  margin = round(_MARGIN * max(box.shape))
  rows, columns = (n + 2 * margin for n in box.shape)
  texture = textures.draw(rng, rows, columns)
  corner = np.array([box.left - margin, box.top - margin], float)
  middle = np.array([columns - 1, rows - 1]) / 2
  turn = affine(middle, 0.0, rng.uniform(-180, 180), 1.0, 0.0)[:, :2]
  place = np.column_stack([turn, middle - turn @ (corner + middle)])
  way = smear * _way(motion.matrix, box)
  return Layer(
    _blurred(texture, turn @ way), place, motion, mask, box, first_box
  )


def _way(matrix: np.ndarray, box: Box) -> np.ndarray:
  """How the middle of a box has come there."""
  middle = np.array([box.left + box.right, box.top + box.bottom, 2]) / 2
  return middle[:2] - inverted(matrix) @ middle


def _smeared(
  mask: np.ndarray, box: Box, way: np.ndarray
) -> tuple[np.ndarray, Box]:
  """Blurs a mask along its way; it grows by that."""
  reach = int(np.ceil(np.hypot(*way) / 2))
  return _blurred(np.pad(mask, reach), way), _grown(box, reach)


def _blurred(image: np.ndarray, way: np.ndarray) -> np.ndarray:
  """Blurs along a line, in the same way in both frames."""
  length = np.hypot(*way)
  if length < 1:
    return image
  reach = int(np.ceil(length / 2))
  size = 2 * reach + 1
  kernel = np.zeros((size, size), np.uint8)
  ends = np.rint((reach + np.stack([-way, way]) / 2) * 16).astype(int)
  cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
  kernel = kernel.astype(np.float32)
  return cv2.filter2D(image, -1, kernel / kernel.sum())


def _composed(after: np.ndarray, before: np.ndarray) -> np.ndarray:
  return after @ np.vstack([before, [0, 0, 1]])


def _before(box: Box, matrix: np.ndarray) -> Box:
  """What moves into a box."""
  x, y = [box.left, box.right], [box.top, box.bottom]
  corners = np.stack([*map(np.ravel, np.meshgrid(x, y)), np.ones(4)])
  places = inverted(matrix) @ corners
  low = np.floor(places.min(1)).astype(int)
  high = np.ceil(places.max(1)).astype(int) + 1
  return Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def _grown(box: Box, by: int) -> Box:
  left, top, right, bottom = box
  return Box(left - by, top - by, right + by, bottom + by)
