r"""Prepares clips to train on: small frames and sound in ArrayRecord files.

  python -m scripts.data.prepare_clips --directory=DIR --split=train \
    --output=OUT

reads the clips of DIR as --config.data.source=files does (docs/audioset.md
says how they may lie there) and writes OUT/train.json and
OUT/train-00000-of-00064.array_record and so on: frames as JPEGs of --size
pixels on the short side at --fps a second, sound as one channel of 16 bits at
--sample_rate. Training then takes any window without decoding the whole clip:
--config.data.source=shards --config.data.source_args.shards.directory=OUT.

Files are made by --num_workers processes, each complete or not at all: a run
that was stopped goes on with the same command, and a file that is lost or
damaged is made again. Clips that cannot be read are named and left out. In the
end every record is read again; --check does only that, and names the files to
remove. The exit status is 0 if all is well, else 1.
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
from perceiver_jax.errors import UserError

_DIRECTORY = flags.DEFINE_string("directory", "", "Where lists and clips are.")
_SPLIT = flags.DEFINE_string("split", "train", "Name of the list or folder.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write to.")
_CLASSES = flags.DEFINE_string("classes", "", "File of all classes.")
_TRIMMED = flags.DEFINE_bool(
  "trimmed", True, "Whether files hold just the segment of the list."
)
_CHECK = flags.DEFINE_bool("check", False, "Only read what is in --output.")
_FILES = flags.DEFINE_integer("num_files", 64, "Files to write.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
  "num_workers", os.cpu_count(), "Processes.", lower_bound=1
)
_FPS = flags.DEFINE_float("fps", 25.0, "Frames per second; 0: no pictures.",
                          lower_bound=0)  # fmt: skip
_RATE = flags.DEFINE_integer(
  "sample_rate", 48_000, "Samples per second; 0: no sound.", lower_bound=0
)
_SIZE = flags.DEFINE_integer(
  "size", 256, "Pixels of the short side.", lower_bound=1
)
_QUALITY = flags.DEFINE_integer(
  "quality", 90, "Of the JPEGs.", lower_bound=1, upper_bound=100
)

# Bad clips that are named.
_SHOWN = 10


def main(argv: Sequence[str]) -> int:
  """Prepares or checks what the flags name."""
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
  """Writes what is not there yet.

  Args:
    source: the clips.
    index: SPLIT.json, which is written last.
    settings: how clips are stored.
    num_files: how many ArrayRecord files.
    num_workers: processes.

  Returns:
    What is wrong with clips that were left out.

  Raises:
    UserError: no clip can be read, the files that are there were made with
      other settings or of other clips, or a process was killed.
  """
  index.parent.mkdir(parents=True, exist_ok=True)
  jobs = _jobs(source, index, min(num_files, len(source)))
  _check_same(index, settings, source)
  shard_writer.remove_stale(index)
  notes = _written(jobs, settings, num_workers)
  kept = [number for note in notes for number in note["kept"]]
  bad = [reason for note in notes for reason in note["bad"]]
  for reason in bad[:_SHOWN]:
    print(reason)
  print(
    f"{index.stem}: {len(kept):,} clips in {len(jobs)} files;"
    f" {len(bad):,} cannot be read, {len(source.missing):,} have no file"
  )
  if not kept:
    raise UserError(f"none of the {len(source):,} clips can be read")
  found = {
    "files": {
      f"{job.path.name}.array_record": len(note["kept"])
      for job, note in zip(jobs, notes, strict=True)
      if note["kept"]
    },
    "names": [_name(source, number) for number in kept],
    "labels": [source.labels[number] for number in kept],
    "class_names": source.class_names,
    "bad": bad,
    "missing": source.missing,
    **dataclasses.asdict(settings),
  }
  shard_writer.write_json(index, found)
  return bad


def _jobs(
  source: clip_files.ClipFiles, index: Path, num_files: int
) -> list[shard_writer.Job]:
  """What each file is to hold: every so-many-th clip."""
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
  """Writes the files that are not there; the note of each."""
  write = functools.partial(shard_writer.write_file, settings)
  # Not forked: threads of the libraries that decode would be lost.
  context = multiprocessing.get_context("spawn")
  try:
    with futures.ProcessPoolExecutor(num_workers, context) as pool:
      done = pool.map(write, jobs)
      return list(tqdm(done, "files", len(jobs), leave=False, disable=None))
  except process.BrokenProcessPool as error:
    raise UserError(
      "a process that prepares clips was killed (by the system, if memory ran"
      " out); give the same command to go on, with a smaller --num_workers than"
      f" {num_workers} if it happens again"
    ) from error


def check(index: Path) -> list[str]:
  """Reads every record and decodes its first, middle and last frames.

  Args:
    index: SPLIT.json.

  Returns:
    What is wrong with records.

  Raises:
    UserError: files are missing, or damaged as a whole.
  """
  source = clip_shards.shards(index.parent, index.stem)
  source.check_files()
  found = clip_shards.read_index(index)
  frames, samples = int(found["fps"] > 0), int(found["sample_rate"] > 0)
  window = Window(
    frames, found["fps"] or 1.0, samples, found["sample_rate"] or 1
  )
  bad, damaged = [], set()
  for number in tqdm(range(len(source)), "check", leave=False, disable=None):
    try:
      for place in (0.0, 0.5, 1.0):
        source.read(number, window, place)
    except UserError as error:
      bad.append(str(error))
      damaged.add(source.file_of(number))
  for reason in bad[:_SHOWN]:
    print(reason)
  if damaged:
    print("remove and prepare the split again:", *sorted(damaged))
  size = sum((index.parent / name).stat().st_size for name in found["files"])
  print(
    f"{index.stem}: {len(source):,} clips, {size / 1e6 / len(source):.3g} MB"
    f" each, {len(bad):,} of them damaged"
  )
  return bad


def _check_same(
  index: Path, settings: shard_writer.Settings, source: clip_files.ClipFiles
) -> None:
  """Refuses to go on with files of other clips or settings."""
  path = index.with_name(f"{index.stem}.settings.json")
  wanted = {
    **dataclasses.asdict(settings),
    "clips": len(source),
    # Files hold clips by their numbers in the list.
    "list": shard_writer.fingerprint(source.segments, source.root),
  }
  if not path.is_file():
    shard_writer.write_json(path, wanted)
  elif json.loads(path.read_text(encoding="utf-8")) != wanted:
    raise UserError(
      f"{str(index.parent)!r} has files made with other settings, or of other"
      f" clips or in another order, see {path.name}; give another --output, or"
      f" remove {index.stem}-*-of-* and {path.name} there"
    )


def _name(source: clip_files.ClipFiles, number: int) -> str:
  return Path(source.segments[number].path).stem


if __name__ == "__main__":
  launch.run(main)
