r"""Prepares and checks image and text data sets for training.

  python -m scripts.data.prepare --dataset=imagenet2012 --data_dir=DIR \
    --manual_dir=TARS

writes a data set of TensorFlow Datasets into DIR, in the ArrayRecord format
that training reads: any image classification data set, c4/en, a wikipedia, or a
task of GLUE such as glue/cola. It needs TensorFlow: pip install
'perceiver_jax[prepare]'. Training does not, so this may run on another machine.
ImageNet has to be downloaded by hand: register at https://image-net.org, and
put ILSVRC2012_img_train.tar (148 GB) and ILSVRC2012_img_val.tar (7 GB) into
TARS. DIR needs the same space again.

  python -m scripts.data.prepare --dataset=imagenet2012 --data_dir=DIR --check

only checks the data set, without TensorFlow: that every file of every split
exists and has the right number of examples, and that some can be decoded.

  python -m scripts.data.prepare --directory=FOLDER

checks a folder of images, FOLDER/train/CLASS/*.JPEG and so on: it counts the
images of each class and reads every one. Training replaces an unreadable image
by the next one, and stops if more than 1% are unreadable.

The exit status is 0 if no problem is found.
"""

import functools
import importlib.util
import os
import re
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax import files
from perceiver_jax.data.core import tfds as tfds_sources
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.images import codec, image_folder, tfds
from perceiver_jax.data.text import glue_examples
from perceiver_jax.errors import UserError
from perceiver_jax.viz.text import shorten

# Number of characters of a text to print.
_TEXT_LENGTH = 60

_DATASET = flags.DEFINE_string(
  "dataset", "", "Name in TensorFlow Datasets, imagenet2012 for example."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir", "", "Folder of data sets; default: that of TensorFlow Datasets."
)
_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir", "", "Folder of the tar files; default: DIR/downloads/manual."
)
_CHECK = flags.DEFINE_bool("check", False, "Only check a prepared data set.")
_DIRECTORY = flags.DEFINE_string("directory", "", "Folder of images to check.")

# Examples of ILSVRC 2012 (Russakovsky et al., 2015, Table 2).
_SIZES = {"imagenet2012": {"train": 1_281_167, "validation": 50_000}}
# Sizes in bytes, as in TensorFlow Datasets.
_TARS = {
  "imagenet2012": {
    "ILSVRC2012_img_train.tar": 147_897_477_120,
    "ILSVRC2012_img_val.tar": 6_744_924_160,
  }
}
# Number of problems that an error lists.
_MAX_LISTED = 3


def main(argv: Sequence[str]) -> int:
  """Prepares or checks the data set or folder of the flags."""
  launch.no_arguments(argv)
  if bool(_DATASET.value) == bool(_DIRECTORY.value):
    raise UserError(
      "give --dataset=NAME, imagenet2012 for example, or --directory=FOLDER"
    )
  if _DIRECTORY.value:
    return check_folder(_DIRECTORY.value)
  if _CHECK.value:
    check_dataset(_DATASET.value, os.path.expanduser(_DATA_DIR.value))
    return 0
  data_dir, manual_dir = (
    str(files.on_disk(flag.value, f"--{flag.name}")) if flag.value else ""
    for flag in (_DATA_DIR, _MANUAL_DIR)
  )
  prepare(_DATASET.value, data_dir, manual_dir)
  check_dataset(_DATASET.value, data_dir)
  return 0


def prepare(name: str, data_dir: str, manual_dir: str = "") -> None:
  """Writes a data set in the ArrayRecord format.

  Args:
    name: Name in TensorFlow Datasets.
    data_dir: The folder to write to; empty for the default.
    manual_dir: The folder of manual downloads; empty for the default.

  Raises:
    UserError: The data set is unknown, or TensorFlow or a tar file is missing.
  """
  import tensorflow_datasets
  import tensorflow_datasets.text  # Registers text data sets.

  try:
    builder = tensorflow_datasets.builder(
      name, data_dir=data_dir or None, file_format="array_record"
    )
  except tensorflow_datasets.core.DatasetNotFoundError as error:
    raise UserError(
      f"TensorFlow Datasets has no {name!r}; check --dataset"
    ) from error
  if builder.is_prepared():
    print(f"{name} is already prepared")
    return
  root = data_dir or tensorflow_datasets.core.constants.DATA_DIR
  _check_tars(name, Path(manual_dir or f"{root}/downloads/manual"))
  if importlib.util.find_spec("tensorflow") is None:
    raise UserError(
      "preparing a data set needs TensorFlow: pip install"
      " 'perceiver_jax[prepare]'; --check does not need it"
    )
  config = tensorflow_datasets.download.DownloadConfig(
    manual_dir=manual_dir or None
  )
  try:
    builder.download_and_prepare(download_config=config)
  # Such as a missing manual download, a full disk, an unavailable version.
  except (AssertionError, OSError, ValueError) as error:
    raise UserError(f"{name} cannot be prepared: {error}") from error


def check_dataset(name: str, data_dir: str) -> None:
  """Checks and prints the splits of a prepared data set.

  Args:
    name: Name in TensorFlow Datasets.
    data_dir: The folder that contains it; empty for the default.

  Raises:
    UserError: The data set is not prepared, or is incomplete.
  """
  splits = _prepared_splits(name, data_dir)
  expected = _SIZES.get(_plain(name), {})
  problems = [f"split {s} is missing" for s in expected if s not in splits]
  for split, info in splits.items():
    print(
      f"{split}: {info.num_examples:,} examples in {info.num_shards:,} files"
    )
    split_problems = _split_problems(info, expected.get(split, 0))
    split_problems = split_problems or _example_problems(name, split, data_dir)
    for line in split_problems or ["complete"]:
      print(f"  {line}")
    problems += split_problems
  if problems:
    where = data_dir or "the default TFDS directory"
    raise UserError(
      f"{name} is not complete in {where}: {'; '.join(problems[:_MAX_LISTED])}."
      f" Remove it and prepare it again{_download_hint(name)}"
    )


def check_folder(directory: str) -> int:
  """Prints the classes of an image folder and its unreadable images.

  Args:
    directory: see `image_folder.image_folder`.

  Returns:
    0 if every image can be read, else 1.

  Raises:
    UserError: There is no such directory, or it has another layout.
  """
  reasons: list[str] = []
  total = 0
  for split in image_folder.folder_splits(directory):
    try:
      source = image_folder.image_folder(directory, split).source
    except UserError as error:  # The folder is not a split.
      print(f"{split}: {error}")
      continue
    print(f"{split}: {_counts(source)}")
    reasons += _unreadable(source)
    total += len(source)
  if not total:
    raise UserError(
      f"no image in {directory}; expected FOLDER/SPLIT/CLASS/*.JPEG, or files"
      f" that end in {', '.join(codec.SUFFIXES)}"
    )
  for reason in reasons:
    print(reason)
  print(f"{len(reasons):,} of {total:,} images cannot be read")
  return int(bool(reasons))


def _check_tars(name: str, folder: Path) -> None:
  """Checks that the manual downloads are complete.

  Raises:
    UserError: A file is missing or has another size.
  """
  for tar, size in _TARS.get(_plain(name), {}).items():
    path = folder / tar
    if not path.is_file():
      raise UserError(f"there is no {path}{_download_hint(name)}")
    if path.stat().st_size != size:
      raise UserError(
        f"{path} has {path.stat().st_size:,} bytes and should have {size:,};"
        " download it again"
      )


def _download_hint(name: str) -> str:
  """Returns advice on where to get manual downloads, or ""."""
  tars = " and ".join(_TARS.get(_plain(name), {}))
  if not tars:
    return ""
  return f"; register at https://image-net.org and put {tars} into --manual_dir"


def _plain(name: str) -> str:
  """Returns the name of a data set without config and version."""
  return re.split("[/:]", name)[0]


def _prepared_splits(name: str, data_dir: str) -> dict[str, Any]:
  """Returns TFDS's description of each prepared split."""
  try:
    source = tfds_sources.open_prepared(name, "all", data_dir)
  except UserError as error:
    raise UserError(f"{error}{_download_hint(name)}") from error
  return dict(source.dataset_info.splits.items())


def _split_problems(split: Any, expected: int) -> list[str]:
  """Compares a split's files and size with the expected ones."""
  problems = []
  for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
    count = _num_records(path)
    if count != length:
      problems.append(f"{path.name} has {count:,} of {length:,} examples")
  if expected and split.num_examples != expected:
    problems.append(
      f"split {split.name} was made with {split.num_examples:,} of"
      f" {expected:,} examples"
    )
  return problems


def _num_records(path: Path) -> int:
  """Counts the examples of a file; 0 if it is missing or damaged."""
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    count = reader.num_records()
    reader.close()
  except (OSError, RuntimeError, ValueError):
    return 0
  return count


def _example_problems(name: str, split: str, data_dir: str) -> list[str]:
  """Prints the first, middle and last example; returns their problems."""
  from tensorflow_datasets import features as kinds

  info = tfds_sources.open_prepared(name, split, data_dir).dataset_info
  features = dict(info.features.items())
  # Training reads others too, if a leaf of the config names them.
  texts = [
    x for x in features if x == "text" or isinstance(features[x], kinds.Text)
  ]
  labels = [
    x for x in ("label", *features) if tfds.class_names(features.get(x))
  ]
  benchmark, _, task = name.partition("/")
  if benchmark == "glue":
    source = glue_examples.tfds(task, split, data_dir)
    describe = functools.partial(_texts, source.class_names)
  elif "text" in texts or (texts and "image" not in features):
    feature = "text" if "text" in texts else texts[0]
    source = tfds_sources.texts(name, split, data_dir, feature)
    describe = lambda text: (
      f"{len(text):,} characters, {shorten(text, _TEXT_LENGTH)}"
    )
  else:
    label = labels[0] if labels else ""
    source = tfds.tfds_images(name, split, data_dir, label).source
    describe = functools.partial(_image, source.class_names)
  for index in sorted({0, len(source) // 2, len(source) - 1}):
    try:
      print(f"  example {index}: {describe(source[index])}")
    except UserError as error:
      return [str(error)]
  return []


def _image(class_names: Sequence[str], example: Example) -> str:
  height, width = example["image"].shape[:2]
  label = example["label"]
  # Test splits have the label -1.
  labels = np.flatnonzero(label) if label.ndim else [label]
  names = [class_names[i] for i in labels if 0 <= i < len(class_names)]
  return f"{width} x {height} pixels, {', '.join(names) or 'no label'}"


def _texts(class_names: Sequence[str], example: Example) -> str:
  label = example["label"]
  if label == glue_examples.UNKNOWN:
    label_text = "unpublished label"
  else:
    label_text = class_names[int(label)] if class_names else f"score {label:g}"
  texts = " | ".join(shorten(text, _TEXT_LENGTH) for text in example["texts"])
  return f"{label_text}, {texts}"


def _counts(source: image_folder.ImageFolder) -> str:
  """Formats the number of images, and the fewest and most per class."""
  counts = np.bincount(source.labels, minlength=source.num_classes)
  return (
    f"{len(source):,} images in {source.num_classes:,} classes,"
    f" {counts.min():,} to {counts.max():,} per class"
  )


def _unreadable(source: image_folder.ImageFolder) -> list[str]:
  """Reads every image; returns the errors of the unreadable ones."""
  read = functools.partial(_problem, source)
  with ThreadPool(os.cpu_count()) as pool:
    problems = pool.imap(read, range(len(source)), chunksize=16)
    bar = tqdm(problems, "read", len(source), leave=False, disable=None)
    return [reason for reason in bar if reason]


def _problem(source: image_folder.ImageFolder, index: int) -> str:
  try:
    source[index]
  except UserError as error:
    return str(error)
  return ""


if __name__ == "__main__":
  launch.run(main)
