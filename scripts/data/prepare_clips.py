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
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import process
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax.data.clips import files as clip_files
from perceiver_jax.data.clips import shard_writer
from perceiver_jax.data.clips import shards as clip_shards
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.data.core import records
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
  output = Path(_OUTPUT.value).expanduser()
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
  index.parent.mkdir(parents=True, exist_ok=True)
  jobs = _jobs(source, index, min(num_files, len(source)))
  _check_same(index, settings, source)
  shard_writer.remove_stale(index)
  notes = _written(jobs, settings, num_workers)
  readable = [number for note in notes for number in note["kept"]]
  bad = [reason for note in notes for reason in note["bad"]]
  for reason in bad[:_MAX_PRINTED]:
    print(reason)
  print(
    f"{index.stem}: {len(readable):,} clips in {len(jobs)} files;"
    f" {len(bad):,} cannot be read, {len(source.missing):,} have no file"
  )
  if not readable:
    raise UserError(f"none of the {len(source):,} clips can be read")
  contents = {
    "files": {
      f"{job.path.name}.array_record": len(note["kept"])
      for job, note in zip(jobs, notes, strict=True)
      if note["kept"]
    },
    "names": [_name(source, number) for number in readable],
    "labels": [source.labels[number] for number in readable],
    "class_names": source.class_names,
    "bad": bad,
    "missing": source.missing,
    **dataclasses.asdict(settings),
  }
  records.write_json(index, contents)
  return bad


def _jobs(
  source: clip_files.ClipFiles, index: Path, num_files: int
) -> list[shard_writer.Job]:
  """Divides the clips among files, each taking every `num_files`-th."""
  numbered, jobs = list(enumerate(source.segments)), []
  for number in range(num_files):
    clips = numbered[number::num_files]
    mark = shard_writer.fingerprint((clip for _, clip in clips), source.root)
    name = f"{index.stem}-{number:05d}-of-{num_files:05d}"
    jobs.append(shard_writer.Job(index.with_name(name), clips, mark))
  return jobs


def _written(
  jobs: Sequence[shard_writer.Job],
  settings: shard_writer.Settings,
  num_workers: int,
) -> list[Any]:
  """Writes the missing files; returns a summary of each."""
  write = functools.partial(shard_writer.write_file, settings)
  # A fork would lose the threads of the decoding libraries.
  context = multiprocessing.get_context("spawn")
  try:
    with futures.ProcessPoolExecutor(num_workers, context) as pool:
      done = pool.map(write, jobs)
      return list(tqdm(done, "files", len(jobs), leave=False, disable=None))
  except process.BrokenProcessPool as error:
    raise UserError(
      "a process that prepares clips was killed (by the system, if memory ran"
      " out); run the same command to resume, with a smaller --num_workers than"
      f" {num_workers} if it happens again"
    ) from error


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


def _check_same(
  index: Path, settings: shard_writer.Settings, source: clip_files.ClipFiles
) -> None:
  """Checks that existing files have the same clips and settings.

  Raises:
    UserError: They differ.
  """
  path = index.with_name(f"{index.stem}.settings.json")
  expected = {
    **dataclasses.asdict(settings),
    "clips": len(source),
    # Records are identified by the clips' numbers in the list.
    "list": shard_writer.fingerprint(source.segments, source.root),
  }
  if not path.is_file():
    records.write_json(path, expected)
  elif json.loads(path.read_text(encoding="utf-8")) != expected:
    raise UserError(
      f"{str(index.parent)!r} has files made with other settings, or from other"
      f" clips or in another order (see {path.name}); give another --output, or"
      f" remove {index.stem}-*-of-* and {path.name} there"
    )


def _name(source: clip_files.ClipFiles, number: int) -> str:
  return Path(source.segments[number].path).stem


if __name__ == "__main__":
  launch.run(main)
