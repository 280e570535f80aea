"""Generated clips of two events, and features of their frames.

A texture appears for a few frames, and later another one. The class is which
came first and which second, so the mean over the frames tells which two there
are, but not their order. The clips are synthetic.

Shapes: T frames, S patches of a frame, C channels of their features.
"""

import itertools

import numpy as np

from perceiver_jax.checks import check_choice, check_leaf
from perceiver_jax.data.core.source import Example

TEXTURES = ("columns", "rows", "checkers", "blocks")
CLASSES = tuple(
  f"{first} then {second}"
  for first, second in itertools.permutations(TEXTURES, 2)
)
SPLITS = ("train", "test")
SIDE = 12  # Pixels.
PATCH = 4
NUM_PATCHES = (SIDE // PATCH) ** 2
MIN_FRAMES = 6
_EVENT_SIDE = 8
_MAX_EVENT_FRAMES = 2
_NOISE = 0.3


class Events:
  """Clips of two events, as the features of a frozen encoder.

  The encoder is a random linear layer on patches of 4 x 4 pixels and a ReLU; it
  is the same for all clips.

  Args:
    split: "train" or "test"; their clips are independent.
    num_train: Number of training clips.
    num_test: Number of test clips.
    max_frames: Most frames of a clip; the fewest are 6.
    num_channels: C.

  Raises:
    UserError: A number is out of range.
  """

  class_names = CLASSES
  num_classes = len(CLASSES)
  in_memory = True

  def __init__(
    self,
    split: str,
    num_train: int = 16_384,
    num_test: int = 1024,
    max_frames: int = 10,
    num_channels: int = 32,
  ):
    check_choice(split, SPLITS, "split", "the generated events")
    leaf = "data.source_args.events"
    size = num_train if split == "train" else num_test
    check_leaf(f"{leaf}.num_{split}", size, size >= 1, "1 or more")
    check_leaf(
      f"{leaf}.max_frames",
      max_frames,
      max_frames >= MIN_FRAMES,
      f"{MIN_FRAMES} or more",
    )
    check_leaf(
      f"{leaf}.num_channels", num_channels, num_channels >= 1, "1 or more"
    )
    self._seed = SPLITS.index(split)
    self._size = size
    self._max_frames = max_frames
    self._projection = frozen_projection(num_channels)

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> Example:
    """Returns `features` float32 [T, S, C] and the label of a clip."""
    rng = np.random.default_rng((self._seed, index))
    label = int(rng.integers(len(CLASSES)))
    frames = make_clip(label, self._max_frames, rng)
    features = encode(frames, self._projection)
    return {"features": features, "label": np.int32(label)}


def make_clip(
  label: int, max_frames: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns the frames float32 [T, 12, 12] of a clip.

  Args:
    label: Index in `CLASSES`.
    max_frames: Most frames.
    rng: Draws the number of frames, and when, where and how clearly the events
      are seen.
  """
  num_frames = int(rng.integers(MIN_FRAMES, max_frames + 1))
  frames = _NOISE * rng.standard_normal((num_frames, SIDE, SIDE))
  middle = int(rng.integers(2, num_frames - 1))
  parts = ((0, middle), (middle, num_frames))
  names = CLASSES[label].split(" then ")
  for name, (start, stop) in zip(names, parts, strict=True):
    length = int(rng.integers(1, min(_MAX_EVENT_FRAMES, stop - start) + 1))
    begin = int(rng.integers(start, stop - length + 1))
    y, x = rng.integers(0, SIDE - _EVENT_SIDE + 1, 2)
    rows, columns = (slice(i, i + _EVENT_SIDE) for i in (y, x))
    frames[begin : begin + length, rows, columns] += rng.uniform(
      0.7, 1.3
    ) * _texture(name)
  return frames.astype(np.float32)


def frozen_projection(num_channels: int) -> np.ndarray:
  """Returns the weights [16, C] of the frozen encoder."""
  shape = PATCH**2, num_channels
  return np.random.default_rng(0).normal(0, 1 / PATCH, shape)


def encode(frames: np.ndarray, projection: np.ndarray) -> np.ndarray:
  """Returns the features float32 [T, S, C] of frames [T, 12, 12]."""
  across = SIDE // PATCH
  patches = frames.reshape(-1, across, PATCH, across, PATCH)
  patches = patches.swapaxes(2, 3).reshape(-1, NUM_PATCHES, PATCH**2)
  return np.maximum(patches @ projection, 0).astype(np.float32)


def _texture(name: str) -> np.ndarray:
  """Returns a texture of 1 and -1, [8, 8]."""
  y, x = np.indices((_EVENT_SIDE, _EVENT_SIDE))
  odd = {
    "columns": x % 2,
    "rows": y % 2,
    "checkers": (x + y) % 2,
    "blocks": (x // 2 + y // 2) % 2,
  }[name]
  return 1.0 - 2.0 * odd
