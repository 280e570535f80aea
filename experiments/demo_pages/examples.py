"""Examples for the pages: held-out data of a run, or data that we ship.

Each function returns values of a page's fields. Files are written to a folder.
Data that can't be read gives no example.
"""

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from experiments import launch
from experiments.predictions import models
from perceiver_jax.data.clips import audio as audio_files
from perceiver_jax.data.clips import generated, video_writer
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core import records
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.images import codec, photos
from perceiver_jax.data.points import solids
from perceiver_jax.data.starcraft import features
from perceiver_jax.data.text import glue_tasks, python_docs, tiny_glue
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.base import Task

Examples = list[list[str]]

_COUNT, _PAIRS = 6, 4
# Held-out examples among which those of different classes are looked for.
_SEARCHED = 60
_SENTENCE = (40, 120)  # Range of characters.
_NAME_LENGTH = 40

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov")
AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".m4a", *VIDEO)


def _or_none(make: Callable[..., Examples]) -> Callable[..., Examples]:
  """Returns `make` with an empty list in place of unreadable data."""

  @functools.wraps(make)
  def made(*arguments):
    try:
      return make(*arguments)
    except (UserError, OSError) as error:
      logging.warning("the page has no examples: %s", error)
      return []

  return made


@_or_none
def images(folder: Path) -> Examples:
  """Returns held-out images of the run, or photos."""
  if not models.uses_run():
    parts = itertools.islice(photos.parts("test").items(), _COUNT)
    return [[_write_image(folder, *part)] for part in parts]
  task = _task()
  return [
    [_write_image(folder, name, _pixels(task, example["image"]))]
    for name, example in _held_out(task).items()
  ]


@_or_none
def masked_texts(length: int) -> Examples:
  """Returns sentences, each with its longest word to mask.

  Args:
    length: Maximum number of tokens.
  """
  documents = python_docs.python_docs("test")
  least, most = _SENTENCE
  most = max(least, min(most, length - 2))
  pattern = f"[A-Z][A-Za-z, ]{{{least},{most}}}\\."
  rows = []
  for i in range(len(documents)):
    sentence = re.search(pattern, documents[i])
    if sentence and len(rows) < _COUNT:
      words = re.findall(" [a-z]+", sentence[0])
      rows.append([sentence[0], max(words, key=len)])
  return rows


@_or_none
def texts(tasks: Sequence[str]) -> Examples:
  """Returns texts of the tasks that are made of Python's documentation."""
  rows = []
  for name in tasks:
    if name in glue_tasks.TINY:
      held_out = tiny_glue.examples(name, "validation")
      rows += [[name, *row, ""][:3] for row, _ in held_out[: _COUNT // 2]]
  return rows


@_or_none
def frames(folder: Path, size: tuple[int, int]) -> Examples:
  """Returns rendered pairs of frames, of the size that the model takes."""
  if models.uses_run():
    pairs = _task().source("eval")
  else:
    pairs = flow_sources.rendered("test", size)
  rows = []
  for i in range(min(_PAIRS, len(pairs))):
    names = (f"pair-{i}-first", f"pair-{i}-second")
    both = zip(names, pairs[i]["frames"], strict=True)
    rows.append([_write_image(folder, *named) for named in both])
  return rows


@_or_none
def clips(folder: Path, window: Window) -> Examples:
  """Returns held-out clips of the run, or generated ones."""
  if models.uses_run():
    held_out = _held_out(_task())
  else:
    source = generated.generated("test", seconds=2 * window.seconds)
    names = [source.class_names[labels[-1]] for labels in source.labels]
    held_out = {
      name: source.read(i, window, 0.0) for i, name in enumerate(names[:_COUNT])
    }
  return [
    [_write_clip(folder, name, clip, window)] for name, clip in held_out.items()
  ]


@_or_none
def clouds(folder: Path) -> Examples:
  """Returns held-out clouds of the run, or generated solids."""
  if models.uses_run():
    held_out = _held_out(_task())
  else:
    source = solids.solids("test")
    held_out = {source.class_names[i]: source[i] for i in range(_COUNT)}
  rows = []
  for name, example in held_out.items():
    if "points" in example and len(example["points"]):
      path = folder / f"{_file_name(name)}.npy"
      np.save(path, example["points"])
      rows.append([str(path)])
  return rows


@_or_none
def observations(folder: Path) -> Examples:
  """Returns held-out observations of the run."""
  source = _task().source("eval")
  rows = []
  for i in range(min(_COUNT, len(source))):
    path = folder / f"battle-{i}.npz"
    known = {f.name: source[i].get(f.name) for f in features.FEATURES}
    arrays = {name: x for name, x in known.items() if x is not None}
    path.write_bytes(records.encode(arrays))
    rows.append([str(path)])
  return rows


def _task() -> Task:
  return launch.saved_run()[1]


def _held_out(task: Task) -> Mapping[str, Any]:
  """Returns some held-out examples, of different classes if there are any."""
  source = task.source("eval")
  class_names = task.metadata()["class_names"]
  chosen: dict[str, Any] = {}
  for i in range(min(_SEARCHED, len(source))):
    example = source[i]
    labels = np.atleast_1d(example["label"])
    if labels.dtype.kind == "f":  # Multi-hot.
      labels = np.flatnonzero(labels)
    name = " and ".join(class_names[k] for k in labels[-2:]) or "none"
    chosen.setdefault(name, example)
    if len(chosen) == _COUNT:
      break
  return chosen


def _pixels(task: Any, image: np.ndarray) -> np.ndarray:
  """Returns the pixels of an image of a source, which may be normalized."""
  return image if image.dtype == np.uint8 else task.pixels(image)


def _write_image(folder: Path, name: str, image: np.ndarray) -> str:
  path = folder / f"{_file_name(name)}.png"
  path.write_bytes(codec.encode_png(image))
  return str(path)


def _write_clip(
  folder: Path, name: str, clip: Mapping[str, Any], window: Window
) -> str:
  """Writes a clip that is a little longer than the window.

  Its end repeats the last frame and silence, since encoding moves the end.
  """
  stem = folder / _file_name(name)
  audio = clip.get("audio")
  if audio is not None:
    audio = np.pad(audio, ((0, window.sample_rate // 2), (0, 0)))
  if "image" not in clip:
    path = stem.with_suffix(".wav")
    audio_files.write_wav(path, audio, window.sample_rate)
    return str(path)
  path = stem.with_suffix(".mp4")
  last = np.repeat(clip["image"][-1:], round(window.fps / 2) + 1, axis=0)
  video = np.concatenate([clip["image"], last])
  video_writer.write_video(path, video, window.fps, audio, window.sample_rate)
  return str(path)


def _file_name(name: str) -> str:
  """Returns a name without characters that file systems refuse."""
  kept = "".join(c if c.isalnum() or c in " ,-" else "_" for c in name)
  return kept.strip()[:_NAME_LENGTH] or "example"
