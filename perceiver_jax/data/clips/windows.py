"""Random and evenly spaced windows of clips of video and audio.

A clip is longer than the input of a model: training reads a random window of
it, evaluation reads evenly spaced windows. Shapes: T frames, H height, W width,
S samples, P classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.core import timeouts
from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError

# Video, and the audio of prepared clips, may end this much before the clip
# does. The last frame is repeated, and audio is padded with silence. Audio that
# is not prepared may end half as much before (`audio`).
MISSING = 0.2  # seconds
_MAX_UNREADABLE = 0.01  # As a share of the clips.


class Window(NamedTuple):
  """The part of a clip that a model takes.

  Attributes:
    num_frames: T; 0 for audio only.
    fps: frames per second.
    num_samples: S; 0 for video only.
    sample_rate: samples per second.
    size: (H, W) to which the central crop of a frame is resized; () keeps the
      size of the clip.
  """

  num_frames: int
  fps: float
  num_samples: int
  sample_rate: int
  size: tuple[int, ...] = ()

  @property
  def seconds(self) -> float:
    """Returns the duration of the window."""
    video = self.num_frames / self.fps
    return max(video, self.num_samples / self.sample_rate)


class Clips(Protocol):
  """Protocol of a data set of clips.

  Attributes:
    class_names: name of each class.
    labels: for each clip, the indices of its classes in `class_names`.
    in_memory: whether windows are available without reading or decoding.
  """

  class_names: tuple[str, ...]
  labels: Sequence[Sequence[int]]
  in_memory: bool

  def __len__(self) -> int: ...

  def read(self, index: int, window: Window, position: float) -> Example:
    """Reads a part of a clip.

    Args:
      index: index of the clip.
      window: size of the part.
      position: relative position of the part, from 0, at the start of the
        clip, to 1, at its end.

    Returns:
      `image` uint8 [T, H, W, 3] if there are frames, `audio` float32 [S, 1] if
      there are samples.

    Raises:
      UserError: the clip can't be read.
    """
    ...


class EvenWindows:
  """A source of evenly spaced windows of every clip; see `pipeline`.

  Example i is a window of clip i % len(clips). An unreadable example is
  therefore replaced by one of another clip.

  Args:
    clips: the clips.
    window: size of the windows.
    count: windows per clip; a single one is in the middle.

  Raises:
    UserError: `count` is below 1.
  """

  def __init__(self, clips: Clips, window: Window, count: int):
    if count < 1:
      raise UserError(f"config.data.num_windows is {count}; give 1 or more")
    self._clips, self._window = clips, window
    self._positions = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    self.class_names = clips.class_names
    self.num_classes = len(clips.class_names)
    self.in_memory = clips.in_memory

  def __len__(self) -> int:
    return len(self._clips) * len(self._positions)

  def __getitem__(self, index: int) -> Example:
    number, clip = divmod(index, len(self._clips))
    return _read(
      self._clips, clip, self._window, float(self._positions[number])
    )


class RandomWindows:
  """A source of indices of clips, and a transform to windows.

  A window depends on the random generator of an example, which a pipeline
  passes to its transform but not to its source; so `read` is the transform.

  Args:
    clips: the clips.
    window: size of the windows.
    balanced: whether to sample all classes equally often. `read` then draws a
      class and a clip of it, whatever the index.
    max_unreadable: see `SkipUnreadable`.

  Raises:
    UserError: `balanced` is set and no clip has a class.
  """

  def __init__(
    self,
    clips: Clips,
    window: Window,
    balanced: bool = False,
    max_unreadable: float = _MAX_UNREADABLE,
  ):
    self._window = window
    self._members = _by_class(clips.labels) if balanced else []
    self.class_names = clips.class_names
    self.num_classes = len(clips.class_names)
    self.in_memory = clips.in_memory
    self._readable = SkipUnreadable(_Clips(clips), max_unreadable, "clip")

  def __len__(self) -> int:
    return len(self._readable)

  def __getitem__(self, index: int) -> Example:
    return {"clip": np.int64(index)}

  def read(self, example: Example, rng: np.random.Generator) -> Example:
    """Reads a random window of a clip, or of the next readable one.

    Returns:
      The result of `Clips.read` with `label` float32 [P] with 1 at the clip's
      classes, and `unreadable` of `SkipUnreadable`.

    Raises:
      UserError: too many clips cannot be read.
    """
    position = float(rng.random())
    clip = example["clip"]
    if self._members:
      clip = rng.choice(self._members[rng.integers(len(self._members))])
    clips = self._readable.source.clips

    def read_clip(index: int) -> Example:
      with timeouts.watched(index):
        return _read(clips, index, self._window, position)

    return self._readable.first_readable(int(clip), read_clip)


def even_windows(
  clips: Clips,
  window: Window,
  count: int,
  max_unreadable: float = _MAX_UNREADABLE,
) -> SkipUnreadable:
  """Returns `EvenWindows` that replace an unreadable window by the next one.

  A clip counts as unreadable if one of its windows is.
  """
  source = EvenWindows(clips, window, count)
  return SkipUnreadable(source, max_unreadable, "clip", len(clips))


def check_window(settings: Mapping[str, Any]) -> Window:
  """Returns the window of a config's `data` section.

  Args:
    settings: `num_frames`, `fps`, `num_samples`, `sample_rate`, `image_size`.

  Raises:
    UserError: a number is out of range.
  """
  for leaf in ("num_frames", "fps", "num_samples", "sample_rate"):
    value = settings[leaf]
    check_leaf(f"data.{leaf}", value, value > 0, "more than 0")
  size = tuple(settings["image_size"])
  check_leaf(
    "data.image_size",
    size,
    len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size),
    "height and width in pixels",
  )
  return Window(
    settings["num_frames"],
    settings["fps"],
    settings["num_samples"],
    settings["sample_rate"],
    size,
  )


def _by_class(labels: Sequence[Sequence[int]]) -> list[np.ndarray]:
  """Returns the indices of the clips of each class with any, by class."""
  clips = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
  if not len(clips):
    raise UserError(
      "no clip has a class; set config.data.balanced=False or give labels"
    )
  classes = np.fromiter((c for each in labels for c in each), np.int64)
  order = np.argsort(classes, kind="stable")
  first = np.flatnonzero(np.diff(classes[order])) + 1
  return np.split(clips[order], first)


class _Clips:
  """Adapts clips to the interface of `SkipUnreadable`."""

  def __init__(self, clips: Clips):
    self.clips = clips
    self.class_names = clips.class_names
    self.num_classes = len(clips.class_names)
    self.in_memory = clips.in_memory

  def __len__(self) -> int:
    return len(self.clips)


def _read(clips: Clips, index: int, window: Window, position: float) -> Example:
  label = np.zeros(len(clips.class_names), np.float32)
  label[list(clips.labels[index])] = 1
  return {**clips.read(index, window, position), "label": label}
