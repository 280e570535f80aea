"""predict flow FIRST SECOND, or VIDEO: where each pixel moves to."""

import itertools
import tempfile
from collections.abc import (
  Iterator,
  Sequence,
)
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from experiments.predictions import (
  flow_model,
  source,
)
from experiments.predictions.flow_model import Estimate
from perceiver_jax.errors import UserError


def run(arguments: Sequence[str]) -> None:
  """Writes flow of two images, or of each pair of frames of a video.

  For images: NAME.flo, NAME-kitti.png and NAME-flow.png (in colour); for a
  video: NAME-flow.mp4, frame and flow side by side, in colours of one scale.

  Raises:
    UserError: the files are not two images of one size or one video.
  """
  if len(arguments) not in (1, 2):
    raise UserError(
      f"flow takes two images or one video, and got {len(arguments)} files"
    )
  paths = [Path(p).expanduser() for p in arguments]
  images = _read_pair(*paths) if len(paths) == 2 else None
  estimate = flow_model.estimator()
  folder = source.output_folder()
  if images is not None:
    _save_images(folder, paths[0], estimate(*images))
  else:
    print(_save_video(folder, paths[0], estimate))


def _read_pair(first: Path, second: Path) -> tuple[np.ndarray, np.ndarray]:
  from perceiver_jax.data.images import codec

  pair = codec.read_image(first), codec.read_image(second)
  if pair[0].shape != pair[1].shape:
    raise UserError(
      f"{first} is {pair[0].shape[1]} x {pair[0].shape[0]} pixels and {second}"
      f" {pair[1].shape[1]} x {pair[1].shape[0]}; give two frames of one size"
    )
  return pair


def _save_images(folder: Path, name: Path, flow: np.ndarray) -> None:
  from perceiver_jax.data.flow import files as flow_files
  from perceiver_jax.data.images import codec
  from perceiver_jax.viz import flow_colors

  longest = float(np.hypot(flow[..., 0], flow[..., 1]).max())
  print(f"longest displacement: {longest:.1f} pixels")
  picture = source.free_path(folder, f"{name.stem}-flow.png")
  colours = flow_colors.flow_to_rgb(flow)
  with source.writing(picture):
    picture.write_bytes(codec.encode_png(colours))
  print(picture)
  # KITTI's format comes last: it can't hold every flow.
  for ending in (".flo", "-kitti.png"):
    path = source.free_path(folder, f"{name.stem}{ending}")
    flow_files.write_flow(path, flow)
    print(path)


def _save_video(folder: Path, path: Path, estimate: Estimate) -> Path:
  from perceiver_jax.data.clips import video, video_writer

  rate = video.frame_rate(path)
  target = source.free_path(folder, f"{path.stem}-flow.mp4")
  video_writer.write_video(target, _coloured(path, estimate), rate)
  return target


def _coloured(path: Path, estimate: Estimate) -> Iterator[np.ndarray]:
  """Each frame beside the flow to the next one, drawn to one scale."""
  from perceiver_jax.data.clips import video
  from perceiver_jax.viz import flow_colors, side_by_side

  # The scale is known at the end, and a film's flow may not fit in memory.
  with tempfile.TemporaryFile() as stored:
    pairs, longest = _store_flow(stored, path, estimate)
    stored.seek(0)
    for _, (_, frame) in zip(range(pairs), video.frames(path), strict=False):
      flow = np.load(stored).astype(np.float32)
      colours = flow_colors.flow_to_rgb(flow, longest or None)
      yield side_by_side.side_by_side({"frame": frame, "flow": colours})


def _store_flow(
  file: IO[bytes], path: Path, estimate: Estimate
) -> tuple[int, float]:
  """Writes a film's flow as float16; returns pairs and longest motion."""
  from perceiver_jax.data.clips import video

  pairs, longest = 0, 0.0
  # disable=None: no bar where nobody watches it.
  bar = {"unit": "frame", "leave": False, "disable": None}
  frames = (frame for _, frame in tqdm(video.frames(path), "flow", **bar))
  for before, after in itertools.pairwise(frames):
    flow = estimate(before, after).astype(np.float16)
    lengths = np.hypot(*np.moveaxis(flow.astype(np.float32), -1, 0))
    longest = max(longest, float(lengths.max()))
    np.save(file, flow)
    pairs += 1
  if not pairs:
    raise UserError(f"{path} has a single frame; flow is between two")
  return pairs, longest
