"""Sources of pairs of frames with optical flow, by name.

A source has a length and returns pair i as a dict: `frames` uint8
[2, H, W, 3]; `flow` float32 [H, W, 2], NaN where it is unknown; `occluded`
bool [H, W], all False if the data set does not provide it. Sizes may differ
between pairs. The data sets on disk are in `folders`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from perceiver_jax.checks import check_choice, check_leaf
from perceiver_jax.data.core.source import Example, make_named
from perceiver_jax.data.flow import effects, folders, middlebury, render
from perceiver_jax.data.flow.scene import Scene, draw_layers, make_scene
from perceiver_jax.data.flow.textures import Textures

_SPLITS = ("train", "test")


class FlowSource(Protocol):
  """Protocol of an optical flow data set.

  Attributes:
    in_memory: whether pairs are available without reading or decoding.
    has_ground_truth: whether flow is known, unlike in benchmarks' test splits.
    knows_occlusion: whether `occluded` is known.
  """

  in_memory: bool
  has_ground_truth: bool
  knows_occlusion: bool

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Example: ...


class Rendered:
  """Rendered pairs; pair i is deterministic.

  Args:
    scene: settings of the scenes.
    textures: textures of the layers.
    size: (H, W).
    length: number of pairs.
    seed: random seed.
  """

  # Rendering is as slow as reading, so threads help.
  in_memory = False
  has_ground_truth = True
  knows_occlusion = True

  def __init__(
    self,
    scene: Scene,
    textures: Textures,
    size: tuple[int, int],
    length: int,
    seed: int,
  ):
    self._scene, self._textures, self._size = scene, textures, size
    self._length, self._seed = length, seed

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    index = range(self._length)[index]
    rng = np.random.default_rng((self._seed, index))
    layers = draw_layers(rng, self._scene, self._textures, *self._size)
    pair = render.render(layers, *self._size)
    frames = effects.apply_effects(rng, self._scene, pair.frames)
    return {"frames": frames, "flow": pair.flow, "occluded": pair.occluded}


def rendered(
  split: str,
  size: tuple[int, int] = (448, 576),
  num_train: int = 400_000,
  num_test: int = 256,
  textures: str = "",
  noise_share: float = 0.2,
  texture_scale: tuple[float, float] = (0.5, 2.0),
  texture_detail: float = 0.0,
  scene: Mapping[str, Any] | None = None,
) -> Rendered:
  """Makes a source of pairs drawn by `render`.

  The textures of "test" differ from those of "train": the right third of each
  installed photo, or every tenth image of a folder.

  Args:
    split: "train" or "test".
    size: (H, W) in pixels.
    num_train: number of pairs of "train"; the paper reports 400,000 pairs for
      AutoFlow.
    num_test: number of pairs of "test".
    textures: a folder of images; if empty, uses installed photos.
    noise_share: share of the textures that are noise.
    texture_scale: minimum and maximum scale of photos; see `Textures`.
    texture_detail: minimum detail of a texture; see `Textures`.
    scene: settings of `scene.Scene`.

  Raises:
    UserError: the split is unknown, a number is out of range, or the folder
      has too few images.
  """
  check_choice(split, _SPLITS, "split", "rendered")
  check_leaf(
    "data.source_args.rendered.size",
    size,
    len(size) == 2 and all(isinstance(n, int) and n >= 16 for n in size),
    "height and width in pixels, 16 or more",
  )
  check_leaf(
    "data.source_args.rendered.texture_scale",
    texture_scale,
    len(texture_scale) == 2 and 0 < texture_scale[0] <= texture_scale[1],
    "the minimum and the maximum, above 0",
  )
  return Rendered(
    make_scene(scene or {}),
    Textures(split, textures, noise_share, texture_scale, texture_detail),
    tuple(size),
    length=num_test if split == "test" else num_train,
    seed=_SPLITS.index(split),
  )


SOURCES: dict[str, Callable[..., FlowSource]] = {
  "rendered": rendered,
  "autoflow": folders.autoflow,
  "flying_chairs": folders.flying_chairs,
  "sintel": folders.sintel,
  "kitti": folders.kitti,
  "pairs": folders.pairs,
  "motorcycle": middlebury.motorcycle,
}


def make_flow_source(name: str, /, **kwargs: Any) -> FlowSource:
  """Makes the source called `name`.

  Args:
    name: a key of `SOURCES`.
    **kwargs: arguments of the source.

  Raises:
    UserError: the name or an argument is unknown, or the data is missing.
  """
  return make_named(SOURCES, name, "optical flow", kwargs)
