"""Clips of video and sound, and the windows that a model sees of them.

A clip is longer than what a model takes: training sees a random part of it,
evaluation evenly spaced parts. Shapes: T frames, H height, W width, S samples,
P classes.
"""

from collections.abc import (
  Mapping,
  Sequence,
)
from typing import (
  Any,
  NamedTuple,
  Protocol,
)

import numpy as np

from perceiver_jax.data.core.skip_unreadable import SkipUnreadable
from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError

# Pictures or sound may end that much before the clip does. The last picture
# stays, and there is silence.
MISSING = 0.2  # seconds
# Share of the clips.
_MOST_UNREADABLE = 0.01


class Window(NamedTuple):
  """The part of a clip that a model sees.

  Attributes:
    num_frames: T; 0 where only the sound is wanted.
    fps: frames per second.
    num_samples: S; 0 where only the pictures are wanted.
    sample_rate: samples per second.
    size: (H, W), to which the central part of every frame is resized; () for
      the clip's own.
  """

  num_frames: int
  fps: float
  num_samples: int
  sample_rate: int
  size: tuple[int, ...] = ()

  @property
  def seconds(self) -> float:
    """How long it lasts."""
    pictures = self.num_frames / self.fps
    return max(pictures, self.num_samples / self.sample_rate)


class Clips(Protocol):
  """What windows are cut out of.

  Attributes:
    class_names: name of each class.
    labels: of each clip, the positions of its classes in `class_names`.
    in_memory: whether reading a window costs no reading or decoding.
  """

  class_names: tuple[str, ...]
  labels: Sequence[Sequence[int]]
  in_memory: bool

  def __len__(self) -> int: ...

  def read(self, index: int, window: Window, place: float) -> Example:
    """Reads a part of a clip.

    Args:
      index: of the clip.
      window: what is wanted.
      place: where it lies, from 0 (at the beginning of the clip) to 1 (at its
        end).

    Returns:
      `image` uint8 [T, H, W, 3] if there are frames, `audio` float32 [S, 1] if
      there are samples.

    Raises:
      UserError: the clip can't be read.
    """
    ...


class EvenWindows:
  """A source of evenly spaced windows of every clip; see `pipeline`.

  Example i is of clip i % len(clips): the next of a clip that can't be read,
  which takes its place, is then of another clip.

  Args:
    clips: what they are cut out of.
    window: what each is.
    count: windows a clip; a single one is in the middle.

  Raises:
    UserError: there is no window.
  """

  def __init__(self, clips: Clips, window: Window, count: int):
    if count < 1:
      raise UserError(f"config.data.num_windows is {count}; give 1 or more")
    self._clips, self._window = clips, window
    self._places = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    self.class_names = clips.class_names
    self.num_classes = len(clips.class_names)
    self.in_memory = clips.in_memory

  def __len__(self) -> int:
    return len(self._clips) * len(self._places)

  def __getitem__(self, index: int) -> Example:
    number, clip = divmod(index, len(self._clips))
    return _read(self._clips, clip, self._window, float(self._places[number]))


class RandomWindows:
  """A source of what `read` makes random windows of: clips, or classes.

  What a window is depends on the generator of an example, which the source of
  a pipeline does not get; so `read` is the pipeline's transform.

  Args:
    clips: what they are cut out of.
    window: what each is.
    balanced: whether all classes come equally often. Examples are then classes
      in turn, and `read` draws one of the clips of a class.
    most_unreadable: see `SkipUnreadable`.

  Raises:
    UserError: classes shall come equally often and no clip has one.
  """

  def __init__(
    self,
    clips: Clips,
    window: Window,
    balanced: bool = False,
    most_unreadable: float = _MOST_UNREADABLE,
  ):
    self._window = window
    self._members = _by_class(clips.labels) if balanced else []
    self.class_names = clips.class_names
    self.num_classes = len(clips.class_names)
    self.in_memory = clips.in_memory
    self._tolerant = SkipUnreadable(_Clips(clips), most_unreadable, "clip")

  def __len__(self) -> int:
    return len(self._tolerant)

  def __getitem__(self, index: int) -> Example:
    if self._members:
      return {"class": np.int64(index % len(self._members))}
    return {"clip": np.int64(index)}

  def read(self, example: Example, rng: np.random.Generator) -> Example:
    """A random window of a clip of this source, or of the next readable one.

    Returns:
      What `Clips.read` returns, `label` float32 [P] with 1 at the clip's
      classes, and `unreadable` of `SkipUnreadable`.

    Raises:
      UserError: too many clips cannot be read.
    """
    place = float(rng.random())
    if "class" in example:
      clip = rng.choice(self._members[example["class"]])
    else:
      clip = example["clip"]
    clips = self._tolerant.source.clips
    return self._tolerant.first_readable(
      int(clip), lambda i: _read(clips, i, self._window, place)
    )


def even_windows(
  clips: Clips,
  window: Window,
  count: int,
  most_unreadable: float = _MOST_UNREADABLE,
) -> SkipUnreadable:
  """`EvenWindows` in which the next one stands for one that can't be read.

  A clip counts as unreadable if one of its windows is.
  """
  source = EvenWindows(clips, window, count)
  return SkipUnreadable(source, most_unreadable, "clip", len(clips))


def check_window(settings: Mapping[str, Any]) -> Window:
  """The window of a config's `data` section.

  Args:
    settings: `num_frames`, `fps`, `num_samples`, `sample_rate`, `image_size`.

  Raises:
    UserError: a number is out of range.
  """
  for leaf in ("num_frames", "fps", "num_samples", "sample_rate"):
    if not settings[leaf] > 0:
      raise UserError(
        f"config.data.{leaf} is {settings[leaf]}; give more than 0"
      )
  size = tuple(settings["image_size"])
  if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
    raise UserError(
      f"config.data.image_size is {size}; give height and width in pixels"
    )
  return Window(
    settings["num_frames"],
    settings["fps"],
    settings["num_samples"],
    settings["sample_rate"],
    size,
  )


def _by_class(labels: Sequence[Sequence[int]]) -> list[np.ndarray]:
  """The clips of each class that has any, in the order of the classes."""
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
  """Clips as what `SkipUnreadable` asks of a source."""

  def __init__(self, clips: Clips):
    self.clips = clips
    self.class_names = clips.class_names
    self.num_classes = len(clips.class_names)
    self.in_memory = clips.in_memory

  def __len__(self) -> int:
    return len(self.clips)


def _read(clips: Clips, index: int, window: Window, place: float) -> Example:
  label = np.zeros(len(clips.class_names), np.float32)
  label[list(clips.labels[index])] = 1
  return {**clips.read(index, window, place), "label": label}
