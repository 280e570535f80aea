"""Times the image input pipeline: python -m scripts.benchmark.data.

Prints a row for each stage of ImageNet's training preprocessing: decode, random
crop (Inception's), RandAugment, bicubic resize, normalization. The columns are
the milliseconds per image and the images per second of the stage alone on one
core, then the images per second of this stage and all before it, with and
without RandAugment.

Then it times the whole input pipeline with its threads or --num_workers
processes: the images per second without training, and the share of the time
that training waits for data if a step takes --step_seconds on the device (the
script sleeps instead). If the share is far above 0%, use more workers. With
--mixing an image counts with its partner, as one mixed image.

Finally it times the rendering of optical flow pairs
(perceiver_jax/data/flow/render.py): pairs per second of one core at 368 x 496
with the default scenes.

The images are JPEGs of ImageNet's usual size (500 x 375, about 100 kB), made
from a photo that ships with scikit-learn; --directory=FOLDER reads the first
--num_images of your own, including subfolders.
"""

import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from experiments import launch
from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.images import (
  codec,
  preprocessing,
  rand_augment,
  resizing,
  transforms,
)
from perceiver_jax.errors import UserError
from perceiver_jax.files import local_folder, on_disk, write_text
from scripts.benchmark import timing

_DIRECTORY = flags.DEFINE_string("directory", "", "Folder of your own images.")
_NUM_IMAGES = flags.DEFINE_integer(
  "num_images", 64, "Number of images.", lower_bound=1
)
_SIZE = flags.DEFINE_integer(
  "image_size", 224, "Rows and columns of the model's input.", lower_bound=1
)
_LAYERS = flags.DEFINE_integer(
  "layers", 4, "Layers of RandAugment, of magnitude 5; 0: none.", lower_bound=0
)
_REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Passes over the images; the median is shown.",
  lower_bound=1,
)  # fmt: skip
_WORKERS = flags.DEFINE_integer(
  "num_workers", 0, "Processes of the pipeline; 0: threads.", lower_bound=0
)
_BATCH = flags.DEFINE_integer(
  "batch_size", 64, "Images in a batch.", lower_bound=1
)
_MIXING = flags.DEFINE_bool(
  "mixing", False, "Read a partner for each image, as MixUp and CutMix need."
)
_STEPS = flags.DEFINE_integer(
  "num_steps", 16, "Batches to time, after as many warm-up batches; 0: none.",
  lower_bound=0,
)  # fmt: skip
_STEP_SECONDS = flags.DEFINE_float(
  "step_seconds",
  0.25,
  "Seconds that a train step takes on the device.",
  lower_bound=0.0,
)
_FLOW_PAIRS = flags.DEFINE_integer(
  "flow_pairs", 16, "Flow pairs to render; 0: none.", lower_bound=0
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_MAGNITUDE = 5
_HEIGHT, _WIDTH = 375, 500
_FLOW_SIZE = (368, 496)
_QUALITY = 96  # Gives the photograph about 100 kB at this size.


class _EncodedImages:
  """A source that decodes images on access."""

  class_names = ("image",)
  num_classes = 1
  in_memory = False

  def __init__(self, files: Sequence[bytes]):
    self._files = files

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Example:
    image = codec.decode_image(self._files[index])
    return {"image": image, "label": np.int32(0)}


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  launch.no_arguments(argv)
  path = on_disk(_JSON.value, "--json")
  if not path.parent.is_dir():
    raise UserError(f"--json={path}: there is no folder {path.parent}")
  files = (
    _files(local_folder(_DIRECTORY.value))
    if _DIRECTORY.value
    else _photographs()
  )
  kilobytes = np.mean([len(data) for data in files.values()]) / 1000
  print(
    f"{len(files)} images of {kilobytes:.0f} kB, to {_SIZE.value} x"
    f" {_SIZE.value}, median of {_REPEATS.value}; OpenCV {cv2.__version__},"
    f" {os.cpu_count()} cores"
  )
  rows = stage_rows(files)
  print(timing.table(rows))
  figures = {"kilobytes": kilobytes, "rows": rows}
  if _STEPS.value:
    figures["pipeline"] = pipeline_figures(list(files.values()))
  if _FLOW_PAIRS.value:
    figures["flow_pairs/s"] = flow_pairs_per_second()
  if _JSON.value:
    write_text(path, json.dumps(figures, indent=2))


def stage_rows(files: dict[str, bytes]) -> list[dict[str, Any]]:
  """Measures each stage."""
  size = _SIZE.value
  stages = {
    "decode": lambda file, _: codec.decode_image(file[1], name=file[0]),
    "crop": _crop,
    "RandAugment": functools.partial(
      rand_augment.rand_augment, num_layers=_LAYERS.value, magnitude=_MAGNITUDE
    ),
    "resize": lambda image, _: resizing.cubic_resize(image, size, size),
    "normalize": lambda image, _: transforms.normalize(image, "imagenet"),
  }
  print("the stages on one core ...", flush=True)
  passes = [_stage_seconds(files, stages) for _ in range(_REPEATS.value + 1)]
  rows, spent, plain = [], 0.0, 0.0
  for name in stages:
    # The first pass is for warm-up.
    seconds = statistics.median(
      seconds_by_stage[name] for seconds_by_stage in passes[1:]
    )
    spent += seconds
    plain += seconds if name != "RandAugment" else 0.0
    rows.append(
      {
        "stage": name,
        "ms": seconds * 1e3,
        "images/s": 1 / seconds,
        "so far": 1 / spent,
        "so far without RandAugment": 1 / plain,
      }
    )
  return rows


def pipeline_figures(files: Sequence[bytes]) -> dict[str, float]:
  """Measures the pipeline's speed and the share of time that steps wait."""
  steps, batch_size = _STEPS.value, _BATCH.value
  print(f"pipeline with --num_workers={_WORKERS.value} ...", flush=True)
  batches = iter(_dataset(files))
  # Batches are prefetched, so the first ones are not counted.
  _drain(batches, steps)
  seconds = _drain(batches, steps)
  waited = _drain(batches, steps, _STEP_SECONDS.value)
  batches.close()
  slept = steps * _STEP_SECONDS.value
  figures = {
    "batch_size": batch_size,
    "mixing": _MIXING.value,
    "num_workers": _WORKERS.value,
    "images/s": steps * batch_size / seconds,
    "step_seconds": _STEP_SECONDS.value,
    "waiting": waited / (waited + slept),
  }
  unit = "mixed images/s" if _MIXING.value else "images/s"
  print(
    f"pipeline: {figures['images/s']:,.4g} {unit} in batches of {batch_size};"
    f" steps of {_STEP_SECONDS.value:g} s wait for data"
    f" {figures['waiting']:.1%} of the time"
  )
  return figures


def flow_pairs_per_second() -> float:
  """Measures the flow pairs that one core renders per second."""
  source = flow_sources.rendered("train", size=_FLOW_SIZE)
  source[0]  # Loads the textures.
  # Processor time excludes other load on the machine.
  start = time.process_time()
  for index in range(1, _FLOW_PAIRS.value + 1):
    source[index]
  pairs_per_second = _FLOW_PAIRS.value / (time.process_time() - start)
  print(
    f"flow: {pairs_per_second:,.4g} rendered pairs/s on one core, at"
    f" {_FLOW_SIZE[0]} x {_FLOW_SIZE[1]}"
  )
  return pairs_per_second


def _dataset(files: Sequence[bytes]) -> Iterable[dict[str, np.ndarray]]:
  settings = {
    "crop": "inception",
    "flip": True,
    "rand_augment": {"num_layers": _LAYERS.value, "magnitude": _MAGNITUDE},
    "affine": {},
    "crop_fraction": 1.0,
    "resize": "cubic",
    "normalization": "imagenet",
  }
  shape = (_SIZE.value, _SIZE.value, 3)
  prepare = preprocessing.Preprocessing(shape, settings)
  return pipeline.train_dataset(
    _EncodedImages(files),
    global_batch=_BATCH.value,
    seed=0,
    transform=functools.partial(_train_view, prepare),
    num_workers=_WORKERS.value,
    with_partners=_MIXING.value,
  )


def _train_view(
  prepare: preprocessing.Preprocessing,
  example: Example,
  rng: np.random.Generator,
) -> Example:
  return {**example, "image": prepare.train(example["image"], rng)}


def _drain(batches: Iterable, steps: int, sleep: float = 0.0) -> float:
  """Reads batches, sleeping after each; returns the seconds of waiting."""
  waited = 0.0
  for _ in range(steps):
    start = time.perf_counter()
    next(batches)
    waited += time.perf_counter() - start
    time.sleep(sleep)
  return waited


def _stage_seconds(
  files: dict[str, bytes], stages: dict[str, Callable]
) -> dict[str, float]:
  """Returns the mean seconds of each stage, image by image as in a pipeline."""
  spent, rng = dict.fromkeys(stages, 0.0), np.random.default_rng(0)
  for value in files.items():
    for name, stage in stages.items():
      start = time.perf_counter()
      value = stage(value, rng)
      spent[name] += time.perf_counter() - start
  return {name: seconds / len(files) for name, seconds in spent.items()}


def _crop(
  image: np.ndarray, rng: np.random.Generator, **bounds: tuple[float, float]
) -> np.ndarray:
  top, left, height, width = transforms.inception_crop(
    *image.shape[:2], rng, **bounds
  )
  return image[top : top + height, left : left + width]


def _files(folder: Path) -> dict[str, bytes]:
  """Reads the first images of a folder; returns contents by path."""
  if not folder.is_dir():
    raise UserError(
      f"--directory={folder} is not a folder; give a folder of images"
    )
  paths = sorted(
    path for path in folder.rglob("*") if path.suffix.lower() in codec.SUFFIXES
  )
  if not paths:
    raise UserError(
      f"--directory={folder} has no images; supported are"
      f" {', '.join(codec.SUFFIXES)}"
    )
  return {str(path): path.read_bytes() for path in paths[: _NUM_IMAGES.value]}


def _photographs() -> dict[str, bytes]:
  """Encodes crops of a photo as JPEGs; returns contents by name."""
  # Imported here because --directory doesn't need it.
  from sklearn import datasets

  photograph = datasets.load_sample_image("china.jpg")
  rng, files = np.random.default_rng(0), {}
  for number in range(_NUM_IMAGES.value):
    part = _crop(photograph, rng, area=(0.4, 1.0))
    pixels = resizing.resize(part, _HEIGHT, _WIDTH)[..., ::-1]
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    data = cv2.imencode(".jpg", pixels, quality)[1].tobytes()
    files[f"photograph {number}"] = data
  return files


if __name__ == "__main__":
  launch.run(main)
