"""predict flow FIRST SECOND, or VIDEO: flow of two images or of a video."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from experiments.predictions import flow_model, outputs
from perceiver_jax import files
from perceiver_jax.data.clips import video, video_writer
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation.tiling import Estimate
from perceiver_jax.viz import flow_colors, image_layout


def run(arguments: Sequence[str]) -> None:
  """Writes the flow of two images, or of each pair of frames of a video.

  Two images give NAME.flo, NAME-kitti.png and NAME-flow.png (in color). A video
  gives NAME-flow.mp4 with frame and flow side by side, with one color scale.

  Args:
    arguments: Paths of two images, or of one video.

  Raises:
    UserError: The files are not two images of one size or one video.
  """
  if len(arguments) not in (1, 2):
    raise UserError(
      f"flow takes two images or one video, and got {len(arguments)} files"
    )
  paths = [files.as_path(p).expanduser() for p in arguments]
  # Images are read first, so that an unreadable one stops the command early.
  pair = read_pair(*paths) if len(paths) == 2 else None
  estimate = flow_model.estimator()
  folder = outputs.output_folder()
  if pair is not None:
    _save_flow(folder, paths[0], estimate(*pair))
  else:
    print(_save_video(folder, paths[0], estimate))


def read_pair(first: Path, second: Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads two frames, uint8 [H, W, 3].

  Raises:
    UserError: One can't be read, or their sizes differ.
  """
  pair = codec.read_image(first), codec.read_image(second)
  if pair[0].shape != pair[1].shape:
    raise UserError(
      f"{first} is {pair[0].shape[1]} x {pair[0].shape[0]} pixels and {second}"
      f" {pair[1].shape[1]} x {pair[1].shape[0]}; give two frames of one size"
    )
  return pair


def _save_flow(folder: Path, image_path: Path, flow: np.ndarray) -> None:
  """Saves the flow of two images in three formats and prints the paths."""
  longest = float(np.hypot(flow[..., 0], flow[..., 1]).max())
  print(f"longest displacement: {longest:.1f} pixels")
  path = outputs.unused_path(folder, f"{image_path.stem}-flow.png")
  with outputs.writing(path):
    files.write_bytes(path, codec.encode_png(flow_colors.flow_to_rgb(flow)))
  print(path)
  # KITTI's format comes last, because it fails on large displacements.
  for suffix in (".flo", "-kitti.png"):
    path = outputs.unused_path(folder, f"{image_path.stem}{suffix}")
    flow_files.write_flow(path, flow)
    print(path)


def _save_video(folder: Path, path: Path, estimate: Estimate) -> Path:
  fps = video.frame_rate(path)
  target = outputs.unused_path(folder, f"{path.stem}-flow.mp4")
  video_writer.write_video(target, _frames_with_flow(path, estimate), fps)
  return target


def _frames_with_flow(path: Path, estimate: Estimate) -> Iterator[np.ndarray]:
  """Yields each frame next to its flow, with one color scale for the video."""
  # The scale is the longest displacement, known only after the last frame, and
  # the flow of a whole video may not fit in memory.
  with tempfile.TemporaryFile() as flow_file:
    num_pairs, longest = _store_flow(flow_file, path, estimate)
    flow_file.seek(0)
    frames = (frame for _, frame in video.frames(path))
    for frame in itertools.islice(frames, num_pairs):
      flow = np.load(flow_file).astype(np.float32)
      colors = flow_colors.flow_to_rgb(flow, longest or None)
      yield image_layout.side_by_side({"frame": frame, "flow": colors})


def _store_flow(
  file: IO[bytes], path: Path, estimate: Estimate
) -> tuple[int, float]:
  """Writes the flow of a video to a file, as float16.

  Returns:
    The number of pairs of frames, and the longest displacement in pixels.
  """
  num_pairs, longest = 0, 0.0
  # With disable=None, tqdm shows the bar only on a terminal.
  bar = {"unit": "frame", "leave": False, "disable": None}
  frames = (frame for _, frame in tqdm(video.frames(path), "flow", **bar))
  for first, second in itertools.pairwise(frames):
    flow = estimate(first, second).astype(np.float16)
    lengths = np.hypot(*np.moveaxis(flow.astype(np.float32), -1, 0))
    longest = max(longest, float(lengths.max()))
    np.save(file, flow)
    num_pairs += 1
  if not num_pairs:
    raise UserError(f"{path} has a single frame; flow needs two")
  return num_pairs, longest
