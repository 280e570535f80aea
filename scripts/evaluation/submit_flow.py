"""Predicts the optical flow of a test split for submission to its benchmark.

  python -m scripts.evaluation.submit_flow OUTPUT --workdir=RUN --sintel=DIR

writes the files of one data set:

  --sintel=DIR      OUTPUT/clean/SCENE/frame0001.flo, and OUTPUT/final, for
                    Sintel's own program: bundler OUTPUT/clean OUTPUT/final FILE
  --kitti_2015=DIR  OUTPUT/flow/000000_10.png, to be zipped
  --kitti_2012=DIR  OUTPUT/000000_10.png, to be zipped

The model is the file --weights, or a checkpoint of the run in --workdir.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import launch
from experiments.predictions import flow_model, models, outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError

flow_model.define_flags()
_FOLDERS = {
  name: flags.DEFINE_string(name, "", "Folder of the data set.")
  for name in ("sintel", "kitti_2012", "kitti_2015")
}
# The largest flow that KITTI's files hold, in pixels.
_KITTI_MAX = 511.0


def main(argv: Sequence[str]) -> None:
  """Predicts and writes the files."""
  if len(argv) != 2:
    raise UserError("give one folder to write to, and flags that start with --")
  models.check_flags()
  data_sets = {
    name: flag.value for name, flag in _FOLDERS.items() if flag.value
  }
  if len(data_sets) != 1:
    raise UserError(
      "give one data set: " + ", ".join(f"--{name}=DIR" for name in _FOLDERS)
    )
  ((name, directory),) = data_sets.items()
  output = files.as_path(argv[1]).expanduser()
  parts = _sintel(directory) if name == "sintel" else _kitti(name, directory)
  with outputs.writing(output, "another folder"):
    output.mkdir(parents=True, exist_ok=True)
  estimate = flow_model.estimator()
  count = 0
  for folder, pairs, suffix in parts:
    for i in tqdm(range(len(pairs)), folder, leave=False, disable=None):
      flow = estimate(*pairs[i]["frames"])
      _write(output / folder / _file_name(pairs.files[i].name, suffix), flow)
      count += 1
  print(f"{count} files in {output}")


def _sintel(directory: str) -> list[tuple]:
  """Returns (folder, pairs, file suffix) of each rendering."""
  from perceiver_jax.data.flow import folders as flow_folders

  return [
    (render, flow_folders.sintel(directory, "test", render), ".flo")
    for render in ("clean", "final")
  ]


def _kitti(name: str, directory: str) -> list[tuple]:
  from perceiver_jax.data.flow import folders as flow_folders

  year = name.removeprefix("kitti_")
  folder = "flow" if year == "2015" else ""
  return [(folder, flow_folders.kitti(directory, "test", year), ".png")]


def _file_name(pair: str, suffix: str) -> str:
  # Sintel's frames are frame_0001.png and its submissions frame0001.flo.
  return pair.replace("/frame_", "/frame") + suffix


def _write(path: Path, flow: np.ndarray) -> None:
  from perceiver_jax.data.flow import files as flow_files

  if path.suffix == ".png":
    flow = flow.clip(-_KITTI_MAX, _KITTI_MAX)
  with outputs.writing(path, "another folder"):
    path.parent.mkdir(parents=True, exist_ok=True)
    flow_files.write_flow(path, flow)


if __name__ == "__main__":
  launch.run(main)
