"""Generated clips of moving shapes and tones, with exact labels.

A clip has one of three shapes and one of three sounds, drawn independently. Its
classes are the shape, the sound and the pair of both, so that the pair can only
be classified from video and audio together. The clips are synthetic: results on
them say nothing about AudioSet or Kinetics.
"""

import itertools

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError

SHAPES = ("disc", "tall bar", "wide bar")
SOUNDS = ("low tone", "high tone", "beeps")
PAIRS = tuple(f"{s} with {t}" for s, t in itertools.product(SHAPES, SOUNDS))
_SPLITS = ("train", "test")
# Size of frames if a window gives none.
_SIZE = (64, 64)
# Ranges in hertz; pitches are uniform on a logarithmic scale.
_PITCHES = {"low tone": (150, 300), "high tone": (1000, 2000)}
_BEEPS = (450, 650)
# Half the height and width of a shape, as fractions of the frame's.
_HALVES = {"disc": (0.2, 0.2), "tall bar": (0.3, 0.08), "wide bar": (0.08, 0.3)}
_MAX_SCALE = 1.5  # Larger shapes would not fit into the frame.


class GeneratedClips:
  """Generated clips; see `generated`.

  Args:
    length: number of clips.
    seconds: duration of a clip.
    pairs_only: whether the classes are only the pairs, one per clip.
    scale: scale of the shapes.
    seed: random seed of all clips.
  """

  in_memory = True

  def __init__(
    self, length: int, seconds: float, pairs_only: bool, scale: float, seed: int
  ):
    self._seconds, self._scale, self._seed = seconds, scale, seed
    count = len(SHAPES) * len(SOUNDS)
    numbers = np.random.default_rng(seed).permutation(length) % count
    self._kinds = [divmod(int(number), len(SOUNDS)) for number in numbers]
    pairs = [(int(number),) for number in numbers]
    if pairs_only:
      self.class_names, self.labels = PAIRS, pairs
    else:
      self.class_names = (*SHAPES, *SOUNDS, *PAIRS)
      first = len(SHAPES) + len(SOUNDS)
      self.labels = [
        (shape, len(SHAPES) + sound, first + pair)
        for (shape, sound), (pair,) in zip(self._kinds, pairs, strict=True)
      ]

  def __len__(self) -> int:
    return len(self._kinds)

  def read(self, index: int, window: Window, position: float) -> Example:
    """Generates a part of a clip; see `windows.Clips.read`."""
    shape, sound = self._kinds[index]
    start = position * max(0.0, self._seconds - window.seconds)
    # Seeded per clip, so that all windows of a clip are consistent.
    rngs = np.random.default_rng((self._seed, index)).spawn(2)
    example = {}
    if window.num_frames:
      times = start + np.arange(window.num_frames) / window.fps
      size = window.size or _SIZE
      half = self._scale * np.array(_HALVES[SHAPES[shape]])
      example["image"] = _frames(SHAPES[shape], half, times, size, rngs[0])
    if window.num_samples:
      times = start + np.arange(window.num_samples) / window.sample_rate
      example["audio"] = _audio(SOUNDS[sound], times, rngs[1])
    return example


def generated(
  split: str,
  num_train: int = 4096,
  num_test: int = 512,
  seconds: float = 3.0,
  pairs_only: bool = False,
  scale: float = 1.0,
) -> GeneratedClips:
  """Generates clips with a moving shape and a sound.

  Clip i is deterministic; "train" and "test" use different seeds. Colors,
  paths and speeds, pitches and loudness differ from clip to clip.

  Args:
    split: "train" or "test".
    num_train: number of clips of "train".
    num_test: number of clips of "test".
    seconds: duration of a clip.
    pairs_only: whether the classes are only the nine pairs of a shape and a
      sound, without the three shapes and the three sounds.
    scale: scale of the shapes, up to 1.5.

  Raises:
    UserError: the split is unknown, or a number is out of range.
  """
  check_choice(split, _SPLITS, "split", "the generated clips")
  length = num_test if split == "test" else num_train
  if length < 1 or not seconds > 0:
    raise UserError(
      f"the generated clips got {length} clips of {seconds} seconds; give more"
      " than 0 of each"
    )
  if not 0 < scale <= _MAX_SCALE:
    raise UserError(
      f"the generated clips got scale {scale}; give more than 0 and at most"
      f" {_MAX_SCALE}"
    )
  return GeneratedClips(
    length, seconds, pairs_only, scale, _SPLITS.index(split)
  )


def _frames(
  shape: str,
  half: np.ndarray,
  times: np.ndarray,
  size: tuple[int, ...],
  rng: np.random.Generator,
) -> np.ndarray:
  """Draws a shape that bounces off the edges; uint8 [T, H, W, 3]."""
  ground, ink = rng.uniform(0, 0.35, 3), rng.uniform(0.55, 1.0, 3)
  half = half * rng.uniform(0.8, 1.1)
  first, speed = rng.uniform(0, 1, 2), rng.uniform(0.15, 0.5, 2)
  # From 0 to 1 and back, then from one edge of the frame to the other.
  path = np.abs((first + speed * times[:, None]) % 2 - 1)
  center = half + path * (1 - 2 * half)
  y, x = ((np.arange(n) + 0.5) / n for n in size)
  down = (y[None, :, None] - center[:, :1, None]) / half[0]
  across = (x[None, None] - center[:, 1:, None]) / half[1]
  if shape == "disc":
    distance = np.hypot(down, across)
  else:
    distance = np.maximum(np.abs(down), np.abs(across))
  # Blurs the edge by about a pixel, so that motion is smooth.
  inside = np.clip((1 - distance) * min(half) * min(size) + 0.5, 0, 1)
  inside = inside[..., None]
  return np.rint(255 * (ground + inside * (ink - ground))).astype(np.uint8)


def _audio(
  sound: str, times: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Generates a steady or beeping tone with some noise; float32 [S, 1]."""
  low, high = np.log(_PITCHES.get(sound, _BEEPS))
  pitch, phase = np.exp(rng.uniform(low, high)), rng.uniform(0, 2 * np.pi)
  loudness = rng.uniform(0.25, 0.6)
  wave = loudness * np.sin(2 * np.pi * pitch * times + phase)
  if sound == "beeps":
    wave *= np.sin(2 * np.pi * rng.uniform(4, 7) * times) > 0
  wave += 0.01 * rng.standard_normal(len(times))
  return wave[:, None].astype(np.float32)
