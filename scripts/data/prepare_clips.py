r"""Prepares clips for training: small frames and audio in ArrayRecord files.

  python -m scripts.data.prepare_clips --directory=DIR --split=train \
    --output=OUT

reads the clips of DIR as --config.data.source=files does (docs/audioset.md
describes its layout) and writes OUT/train.json,
OUT/train-00000-of-00064.array_record and so on. Frames are stored as JPEGs of
--size pixels on the short side at --fps, audio as one channel of 16 bits at
--sample_rate. Training then reads any window without decoding the whole clip:
--config.data.source=shards --config.data.source_args.shards.directory=OUT.

Files are written by --num_workers processes, each completely or not at all.
The same command resumes a run that was stopped, and writes missing or damaged
files again. Unreadable clips are listed and left out. Finally every record is
read again; --check does only that, and lists the files to remove. The exit
status is 1 if a clip or a record is unreadable, else 0.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax import files
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import shard_writer
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core import record_writer, records
from perceiver_jax.errors import UserError

_DIRECTORY = flags.DEFINE_string("directory", "", "Folder of lists and clips.")
_SPLIT = flags.DEFINE_string("split", "train", "Name of the list or folder.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write to.")
_CLASSES = flags.DEFINE_string("classes", "", "File that lists all classes.")
_TRIMMED = flags.DEFINE_bool(
  "trimmed", True, "Whether files hold only the segments of the list."
)
_CHECK = flags.DEFINE_bool("check", False, "Only check the files in --output.")
_FILES = flags.DEFINE_integer(
  "num_files", 64, "Number of files to write.", lower_bound=1
)
_WORKERS = flags.DEFINE_integer(
  "num_workers", os.cpu_count(), "Number of processes.", lower_bound=1
)
_FPS = flags.DEFINE_float("fps", 25.0, "Frames per second; 0: no video.",
                          lower_bound=0)  # fmt: skip
_RATE = flags.DEFINE_integer(
  "sample_rate", 48_000, "Samples per second; 0: no audio.", lower_bound=0
)
_SIZE = flags.DEFINE_integer(
  "size", 256, "Pixels of the short side.", lower_bound=1
)
_QUALITY = flags.DEFINE_integer(
  "quality", 90, "Quality of the JPEGs.", lower_bound=1, upper_bound=100
)

# Number of unreadable clips to print.
_MAX_PRINTED = 10


def main(argv: Sequence[str]) -> int:
  """Prepares or checks the split of the flags."""
  launch.no_arguments(argv)
  if not _OUTPUT.value:
    raise UserError("give --output=OUT, the folder to write to")
  output = files.on_disk(_OUTPUT.value, "--output")
  index = output / f"{_SPLIT.value}.json"
  bad: list[str] = []
  if not _CHECK.value:
    if not _FPS.value and not _RATE.value:
      raise UserError("--fps and --sample_rate are 0; keep one of them")
    bad = prepare(
      clip_files.files(
        _DIRECTORY.value,
        _SPLIT.value,
        _CLASSES.value,
        _TRIMMED.value,
        prefer_video=_FPS.value > 0,
      ),
      index,
      shard_writer.Settings(
        _FPS.value, _RATE.value, _SIZE.value, _QUALITY.value
      ),
      _FILES.value,
      _WORKERS.value,
    )
  bad += check(index)
  return int(bool(bad))


def prepare(
  source: clip_files.ClipFiles,
  index: Path,
  settings: shard_writer.Settings,
  num_files: int,
  num_workers: int,
) -> list[str]:
  """Writes the files that do not exist yet.

  Args:
    source: The clips.
    index: The path of SPLIT.json, which is written last.
    settings: Sizes and rates of the stored clips.
    num_files: The number of ArrayRecord files.
    num_workers: The number of processes.

  Returns:
    The errors of clips that were left out.

  Raises:
    UserError: No clip can be read, existing files were made with other
      settings or from other clips, or a process was killed.
  """
  written = record_writer.write_split(
    index,
    record_writer.Examples(
      source.segments,
      functools.partial(shard_writer.read_whole, settings=settings),
      functools.partial(shard_writer.fingerprint, root=source.root),
      "clips",
      dataclasses.asdict(settings),
    ),
    num_files,
    num_workers,
  )
  for reason in written.bad[:_MAX_PRINTED]:
    print(reason)
  print(
    f"{index.stem}: {len(written.kept):,} clips in"
    f" {min(num_files, len(source))} files; {len(written.bad):,} cannot be"
    f" read, {len(source.missing):,} have no file"
  )
  contents = {
    "files": written.files,
    "names": [_name(source, number) for number in written.kept],
    "labels": [source.labels[number] for number in written.kept],
    "class_names": source.class_names,
    "bad": written.bad,
    "missing": source.missing,
    **dataclasses.asdict(settings),
  }
  records.write_json(index, contents)
  return written.bad


def check(index: Path) -> list[str]:
  """Reads every record and decodes its first, middle and last frames.

  Args:
    index: The path of SPLIT.json.

  Returns:
    The errors of damaged records.

  Raises:
    UserError: Files are missing or entirely unreadable.
  """
  source = clip_shards.shards(index.parent, index.stem)
  source.check_files()
  contents = records.read_json(index)
  frames, samples = int(contents["fps"] > 0), int(contents["sample_rate"] > 0)
  window = Window(
    frames, contents["fps"] or 1.0, samples, contents["sample_rate"] or 1
  )
  bad, damaged = [], set()
  for number in tqdm(range(len(source)), "check", leave=False, disable=None):
    try:
      for position in (0.0, 0.5, 1.0):
        source.read(number, window, position)
    except UserError as error:
      bad.append(str(error))
      damaged.add(source.file_of(number))
  for reason in bad[:_MAX_PRINTED]:
    print(reason)
  if damaged:
    print("remove and prepare the split again:", *sorted(damaged))
  size = sum((index.parent / name).stat().st_size for name in contents["files"])
  print(
    f"{index.stem}: {len(source):,} clips, {size / 1e6 / len(source):.3g} MB"
    f" each, {len(bad):,} of them damaged"
  )
  return bad


def _name(source: clip_files.ClipFiles, number: int) -> str:
  return Path(source.segments[number].path).stem


if __name__ == "__main__":
  launch.run(main)
