"""Completes the config of clips of one's own from the data.

The variants `own` of `configs/audioset.py` and `configs/kinetics.py` leave open
what the data decides: the splits are "", the number of classes is 0, and so are
the sizes of a window. A config that leaves nothing open stays as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.core import splits
from perceiver_jax.data.core.source import warn_of_rare_classes
from perceiver_jax.errors import UserError

# Clips whose duration is looked up, spread over the training split.
_INSPECTED = 256


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config with the leaves that follow from the data.

  Open leaves are "" for `data.train_split` and `data.eval_split`, and 0 for the
  number of classes and for `data.num_frames` and `data.num_samples`. A window
  is as long as the shortest clip of those that are long enough for one, and at
  most `data.max_seconds`.

  Warns of clips that are too short, and of classes with fewer than two training
  clips.

  Args:
    config: config of a task on clips; it is not changed.

  Raises:
    UserError: the data can't be opened, or all clips are too short.
  """
  if _is_complete(config):
    return config
  config = config.copy_and_resolve_references()
  data = config.data
  arguments = data.source_args.to_dict()["files"]
  if not (data.train_split and data.eval_split):
    train, held_out = splits.choose(clip_files.clip_splits(**arguments))
    data.train_split = data.train_split or train
    data.eval_split = data.eval_split or held_out
  modalities = _modalities(config)
  arguments["prefer_video"] = "image" in modalities
  clips = clip_files.files(split=data.train_split, **arguments)
  if not _num_classes(config):
    _set_num_classes(config, len(clips.class_names))
  if not (data.num_frames and data.num_samples):
    set_window(config, _shortest(clips, config))
  labels = [label for each in clips.labels for label in each]
  warn_of_rare_classes(labels, clips.class_names, "clips")
  return config


def _is_complete(config: ml_collections.ConfigDict) -> bool:
  data = config.data
  return data.source != "files" or bool(
    data.train_split
    and data.eval_split
    and data.num_frames
    and data.num_samples
    and _num_classes(config)
  )


def _modalities(config: ml_collections.ConfigDict) -> set[str]:
  return {"audio", "image"} & set(config.model.adapter.modalities)


def _num_classes(config: ml_collections.ConfigDict) -> int:
  """Returns the number of classes, of a classifier or of an autoencoder."""
  model = config.model
  if "num_classes" in model:
    return model.num_classes
  return model.decoder.outputs.label.num_outputs


def _set_num_classes(config: ml_collections.ConfigDict, count: int) -> None:
  if "num_classes" in config.model:
    config.model.num_classes = count
  else:
    config.model.decoder.outputs.label.num_outputs = count


def _shortest(
  clips: clip_files.ClipFiles, config: ml_collections.ConfigDict
) -> float:
  """Returns the duration of the shortest clip that is long enough, in seconds.

  Looks at some of the clips only. Those too short for a window don't count,
  since training leaves them out; a warning names the first.

  Raises:
    UserError: none of them can be read, and the message is that of the last; or
      all are too short.
  """
  names = {"audio": "audio", "image": "video"}
  kinds = [names[name] for name in _modalities(config)]
  positions = np.linspace(0, len(clips) - 1, min(_INSPECTED, len(clips)))
  durations, error = [], None
  for i in np.unique(positions.astype(int)):
    segment = clips.segments[i]
    try:
      durations.append((clip_files.seconds(segment, *kinds), segment.path))
    except UserError as unreadable:
      error = unreadable  # Training reports and skips such clips.
  if not durations:
    raise error
  too_short = [clip for clip in durations if _is_too_short(config, clip[0])]
  if too_short:
    seconds, path = too_short[0]
    problem = (
      f"{len(too_short)} of {len(durations)} clips are too short, the first of"
      f" them {path!r} with {seconds:.2f} seconds; a window has at least"
      f" {_smallest_window(config)}"
    )
    if len(too_short) == len(durations):
      raise UserError(f"{problem}: give longer clips, or raise the rates")
    logging.warning("%s, and these clips are left out", problem)
  durations = [clip for clip in durations if clip not in too_short]
  shortest, path = min(durations)
  typical = float(np.median([seconds for seconds, _ in durations]))
  if shortest < typical / 2:
    logging.warning(
      "the shortest of %d clips has %.2f seconds, and half of them %.2f or"
      " more; windows are as short as it: remove the shortest clips, such as"
      " %r, for longer ones",
      len(durations),
      shortest,
      typical,
      path,
    )
  return shortest


def set_window(config: ml_collections.ConfigDict, shortest: float) -> None:
  """Sets the numbers of frames and samples of a window.

  Args:
    config: Config of a task on clips, which is changed.
    shortest: Seconds of the shortest clip.

  Raises:
    UserError: the clips, or `data.max_seconds`, are too short for a window.
  """
  data = config.data
  seconds = min(shortest, data.max_seconds)
  if _is_too_short(config, seconds):
    raise UserError(
      f"a window has at least {_smallest_window(config)}, which is more than"
      f" {seconds:.2f} seconds; raise config.data.max_seconds, or the rates"
    )
  num_frames, num_samples = _sizes(config, seconds)
  # The size of a modality that the model does not take is not used.
  data.num_frames = max(num_frames, 1)
  data.num_samples = max(num_samples, 1)


def _is_too_short(config: ml_collections.ConfigDict, seconds: float) -> bool:
  sizes = dict(zip(("image", "audio"), _sizes(config, seconds), strict=True))
  return not all(sizes[name] for name in _modalities(config))


def _sizes(
  config: ml_collections.ConfigDict, seconds: float
) -> tuple[int, int]:
  """Returns the frames and the samples of a window; 0 if it is too short.

  Numbers that the config gives are kept.
  """
  data, (frames, samples) = config.data, _units(config)
  num_frames = int(seconds * data.fps) // frames * frames
  num_samples = int(seconds * data.sample_rate) // samples * samples
  if num_samples < _least_samples(config):
    num_samples = 0
  return data.num_frames or num_frames, data.num_samples or num_samples


def _smallest_window(config: ml_collections.ConfigDict) -> str:
  """Describes the smallest window, for messages."""
  data, (frames, samples) = config.data, _units(config)
  sizes = {
    "audio": f"{_least_samples(config)} samples, in multiples of {samples}, at"
    f" {data.sample_rate} per second (config.data.sample_rate)",
    "image": f"{frames} frames at {data.fps:g} per second (config.data.fps)",
  }
  return " and ".join(sizes[name] for name in sorted(_modalities(config)))


def _least_samples(config: ml_collections.ConfigDict) -> int:
  if config.data.audio == "mel":
    # A spectrogram is made from more samples than one of its windows has.
    return config.data.mel.window + 1
  return _units(config)[1]


def _units(config: ml_collections.ConfigDict) -> Sequence[int]:
  """Returns the frames and the samples of which a window has a multiple."""
  parts: Mapping[str, Any] = config.model.adapter.modalities
  frames = parts.get("image", {}).get("temporal_downsample", 1)
  if config.data.audio == "mel":
    return frames, config.data.mel.hop
  return frames, parts.get("audio", {}).get("samples_per_patch", 1)
