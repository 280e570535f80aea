"""Data and base class shared by the tasks on clips."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.clips import files, mel, windows
from perceiver_jax.data.clips import preprocessing as clip_preprocessing
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips import sources as clip_sources
from perceiver_jax.data.core.source import Example, Source, check_class_names
from perceiver_jax.data.images import transforms
from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.tasks import base
from perceiver_jax.tasks.own_data import clip_config
from perceiver_jax.viz import attention_figures


class ClipData:
  """Clips and windows configured by the `data` section of a config.

  Args:
    data: the section; see `configs/audioset.py`.
    modalities: modalities of the windows: "audio", "image" or both.
    one_class: whether a clip must have exactly one class.
    metadata: metadata of a run; the clips must have the same `class_names`.

  Attributes:
    window: size of the window that the model takes.
    preprocessing: preprocessing of windows.

  Raises:
    UserError: a leaf is out of range.
  """

  def __init__(
    self,
    data: ml_collections.ConfigDict,
    modalities: tuple[str, ...],
    one_class: bool = False,
    metadata: Mapping[str, Any] | None = None,
  ):
    self._known = tuple((metadata or {}).get("class_names", ()))
    self._data, self._one_class = data, one_class
    settings = data.to_dict()
    self.preprocessing = clip_preprocessing.ClipPreprocessing(settings)
    self.window = windows.check_window(settings)
    share = data.max_unreadable_share
    check_leaf(
      "data.max_unreadable_share",
      share,
      0 <= share <= 1,
      "a share from 0 to 1",
    )
    if "image" not in modalities:
      self.window = self.window._replace(num_frames=0)
    if "audio" not in modalities:
      self.window = self.window._replace(num_samples=0)

  @functools.cached_property
  def train(self) -> windows.Clips:
    """Returns the clips of the training split.

    Raises:
      UserError: there are no clips, the classes differ from those of the run
        or of the other split, a track is missing, or a clip does not have
        exactly one class although it must.
    """
    return self._clips(self._data.train_split)

  @functools.cached_property
  def held_out(self) -> windows.Clips:
    """Returns the clips of the evaluation split; raises errors as `train`."""
    return self._clips(self._data.eval_split)

  @functools.cached_property
  def train_windows(self) -> windows.RandomWindows:
    """Returns random windows, for `ClipPreprocessing.train`."""
    window = self.window
    if self.preprocessing.crops_at_random:
      window = window._replace(size=())  # Crops frames of original size.
    return windows.RandomWindows(
      self.train,
      window,
      self._data.get("balanced", False),
      self._data.max_unreadable_share,
    )

  @functools.cached_property
  def held_out_windows(self) -> Source:
    """Returns evenly spaced windows, for `ClipPreprocessing.evaluate`."""
    return windows.even_windows(
      self.held_out,
      self.window,
      self._data.num_windows,
      self._data.max_unreadable_share,
    )

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    """Returns the names of the run's or the evaluation split's classes."""
    if self._known:
      return self._known
    return self.held_out.class_names

  def _clips(self, split: str) -> windows.Clips:
    arguments = self._data.source_args.to_dict().get(self._data.source, {})
    if self._data.source == "files":
      arguments["prefer_video"] = self.window.num_frames > 0
    clips = clip_sources.make_clips(self._data.source, split=split, **arguments)
    if isinstance(clips, clip_shards.ClipShards):
      clips.check_window(self.window)
    # The first split that is opened determines the classes of a run.
    self._known = self._known or clips.class_names
    check_class_names(self._known, clips.class_names, f"split {split!r}")
    if self._one_class and any(len(labels) != 1 for labels in clips.labels):
      raise UserError(
        f"clips of source {self._data.source!r}, split {split!r}, have no class"
        " or several; this task needs exactly one"
      )
    return clips


class ClipTask(base.Task):
  """The base class of tasks on clips.

  Args:
    config: Config with the sections `model` and `data`.
    metadata: See `base.Task`.
    modalities: "audio", "image" or both.
    one_class: Whether a clip must have exactly one class.
  """

  eval_unit = "windows of clips"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
    *,
    modalities: tuple[str, ...],
    one_class: bool = False,
  ):
    super().__init__(config, metadata)
    self._data = config.data
    self._clips = ClipData(config.data, modalities, one_class, metadata)
    self._preprocessing = self._clips.preprocessing
    self._window = self._clips.window
    self._class_names = self._clips.class_names

  @property
  def window(self) -> windows.Window:
    """Returns the size of the windows that the model takes."""
    return self._window

  @classmethod
  def complete_config(
    cls, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Returns the config with splits, classes and window of its clips."""
    return clip_config.complete(config)

  def metadata(self) -> dict[str, Any]:
    """Returns the names of the classes."""
    return {"class_names": self._class_names}

  def num_train_examples(self) -> int:
    """Returns the number of clips of the training split."""
    return len(self._clips.train)

  def num_eval_examples(self) -> int:
    """Returns the number of clips of the evaluation split."""
    return len(self._clips.held_out)

  def source(self, split: str) -> Source:
    """Returns random windows to train on, evenly spaced ones to evaluate."""
    if split == "train":
      return self._clips.train_windows
    return self._clips.held_out_windows

  def read(self, path: Path, start: float = 0.0) -> Example:
    """Reads a window of a media file and preprocesses it as in evaluation.

    Args:
      path: A video, or audio if the model takes no frames.
      start: Start of the window in seconds.

    Raises:
      UserError: The file can't be read, is too short or lacks a track.
    """
    segment = files.Segment(str(path), start)
    return self._preprocessing.evaluate(
      files.read_window(segment, self._window, 0.0)
    )

  def read_windows(self, path: Path) -> list[Example]:
    """Reads a file's windows as in evaluation, evenly spaced.

    Args:
      path: A video, or audio if the model takes no frames.

    Raises:
      UserError: The file can't be read, is too short or lacks a track.
    """
    clip = files.ClipFiles([files.Segment(str(path))], [()], ())
    source = windows.EvenWindows(clip, self._window, self._data.num_windows)
    examples = [source[i] for i in range(len(source))]
    return [self._preprocessing.evaluate(example) for example in examples]

  def describe_inputs(self) -> dict[str, str]:
    """Describes the frames and the audio that the model takes."""
    window, data, inputs = self._window, self._data, {}
    if window.num_frames:
      height, width = window.size
      normalized = transforms.describe_normalization(data.normalization)
      inputs["image"] = (
        f"RGB frames [frame, height, width, channel], {window.fps:g} per"
        f" second: the largest central crop with the aspect ratio of"
        f" {width} x {height} pixels, resized to them (area); values are"
        f" {normalized}"
      )
    if window.num_samples:
      inputs["audio"] = (
        f"{window.num_samples} samples from -1 to 1 at"
        f" {window.sample_rate} per second, the mean of all channels"
      )
      if data.audio == "mel":
        inputs["audio"] = mel.describe(data.mel) + " of " + inputs["audio"]
    return inputs

  def attention_figure(
    self,
    example: Example,
    attention: Sequence[np.ndarray],
    latents: Sequence[int] = (),
    head: int | None = None,
  ) -> np.ndarray:
    """Draws the attention of some latents over a preprocessed window.

    Args:
      example: Result of `read`, or an example of an evaluation batch.
      attention: Of each cross-attend, weights or logits [heads, N, M].
      latents: See `attention_figures.clip_figure`.
      head: See `attention_figures.clip_figure`.

    Returns:
      uint8 [h, w, 3].
    """
    spec = self._config.model.to_dict()
    modalities = spec["adapter"]["modalities"]
    # A label is one element, whatever it is.
    given = {name: example.get(name, np.zeros(1)) for name in modalities}
    sizes = zoo.num_inputs(spec, {name: x[None] for name, x in given.items()})
    ends = np.cumsum(list(sizes.values()))[:-1]
    frames = audio = None
    if "image" in given:
      frames = self._preprocessing.pixels(given["image"])
    if "audio" in given:
      audio = given["audio"][:, 0]
      if self._data.audio == "mel":
        audio = audio.reshape(-1, self._data.mel.bands)
    return attention_figures.clip_figure(
      frames,
      audio,
      [
        dict(zip(sizes, np.split(x, ends, axis=-1), strict=True))
        for x in attention
      ],
      latents,
      head,
      temporal_downsample=modalities.get("image", {}).get(
        "temporal_downsample", 1
      ),
      seconds=self._window.seconds,
    )

  def _preprocess_window(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Reads a random window in training, and preprocesses the window."""
    if rng is None:
      return self._preprocessing.evaluate(example)
    window = self._clips.train_windows.read(example, rng)
    return self._preprocessing.train(window, rng)
