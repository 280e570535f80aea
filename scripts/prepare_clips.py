r"""Prepares clips to train on: small frames and sound in ArrayRecord files.

  python -m scripts.prepare_clips --directory=DIR --split=train --output=OUT

reads the clips of DIR as --config.data.source=files does (docs/audioset.md
says how they may lie there) and writes OUT/train.json and
OUT/train-00000-of-00064.array_record and so on: frames as JPEGs of --size
pixels on the short side at --fps a second, sound as one channel of 16 bits at
--sample_rate. Training then takes any window without decoding the whole clip:
--config.data.source=shards --config.data.source_args.shards.directory=OUT.

Files are made by --num_workers processes, each complete or not at all: a run
that was stopped goes on with the same command. Clips that cannot be read are
named and left out. In the end every record is read again; --check does only
that. The exit status is 0 if all is well, else 1.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax.data import (
  audio,
  clip_files,
  clip_shards,
  media,
  resizing,
  video,
)
from perceiver_jax.data.clips import Window
from perceiver_jax.errors import UserError

_DIRECTORY = flags.DEFINE_string("directory", "", "Where lists and clips are.")
_SPLIT = flags.DEFINE_string("split", "train", "Name of the list or folder.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write to.")
_CLASSES = flags.DEFINE_string("classes", "", "File of all classes.")
_CUT = flags.DEFINE_bool(
  "cut", True, "Whether files hold just the segment of the list."
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
# Most seconds of a clip.
_LONGEST = 60.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """How clips are stored; see the flags."""

  fps: float
  sample_rate: int
  size: int
  quality: int


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
        _DIRECTORY.value, _SPLIT.value, _CLASSES.value, _CUT.value
      ),
      index,
      Settings(_FPS.value, _RATE.value, _SIZE.value, _QUALITY.value),
      _FILES.value,
      _WORKERS.value,
    )
  bad += check(index)
  return int(bool(bad))


def prepare(
  source: clip_files.ClipFiles,
  index: Path,
  settings: Settings,
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
    UserError: no clip can be read, or the files that are there were made with
      other settings.
  """
  index.parent.mkdir(parents=True, exist_ok=True)
  num_files = min(num_files, len(source))
  stem = f"{index.stem}-{{:05d}}-of-{num_files:05d}"
  jobs = [
    (
      index.with_name(stem.format(number)),
      list(enumerate(source.segments))[number::num_files],
    )
    for number in range(num_files)
  ]
  _check_same(index, settings, source)
  write = functools.partial(_write_file, settings)
  # Not forked: threads of the libraries that decode would be lost.
  context = multiprocessing.get_context("spawn")
  with context.Pool(num_workers) as pool:
    done = pool.imap(write, jobs)
    bar = tqdm(done, "files", num_files, leave=False, disable=None)
    notes = list(bar)
  kept = [number for note in notes for number in note["kept"]]
  bad = [reason for note in notes for reason in note["bad"]]
  for reason in bad[:_SHOWN]:
    print(reason)
  print(
    f"{index.stem}: {len(kept):,} clips in {num_files} files;"
    f" {len(bad):,} cannot be read, {len(source.missing):,} have no file"
  )
  if not kept:
    raise UserError(f"none of the {len(source):,} clips can be read")
  found = {
    "files": [
      f"{path.name}.array_record"
      for (path, _), note in zip(jobs, notes, strict=True)
      if note["kept"]
    ],
    "names": [_name(source, number) for number in kept],
    "labels": [source.labels[number] for number in kept],
    "class_names": source.class_names,
    "bad": bad,
    "missing": source.missing,
    **dataclasses.asdict(settings),
  }
  _write_json(index, found)
  return bad


def check(index: Path) -> list[str]:
  """Reads every record and decodes its first, middle and last frames.

  Args:
    index: SPLIT.json.

  Returns:
    What is wrong with records.

  Raises:
    UserError: files are missing or have another number of records.
  """
  source = clip_shards.shards(index.parent, index.stem)
  found = clip_shards.read_index(index)
  records = source.num_records()
  if records != len(source):
    raise UserError(
      f"{str(index)!r} has {len(source):,} clips, its files {records:,}; remove"
      " both and prepare the split again"
    )
  frames, samples = int(found["fps"] > 0), int(found["sample_rate"] > 0)
  window = Window(
    frames, found["fps"] or 1.0, samples, found["sample_rate"] or 1
  )
  bad = []
  for number in tqdm(range(len(source)), "check", leave=False, disable=None):
    try:
      for place in (0.0, 0.5, 1.0):
        source.read(number, window, place)
    except UserError as error:
      bad.append(str(error))
  for reason in bad[:_SHOWN]:
    print(reason)
  size = sum((index.parent / name).stat().st_size for name in found["files"])
  print(
    f"{index.stem}: {len(source):,} clips, {size / 1e6 / len(source):.3g} MB"
    f" each, {len(bad):,} of them damaged"
  )
  return bad


def _write_file(
  settings: Settings, job: tuple[Path, Sequence[tuple[int, clip_files.Segment]]]
) -> dict[str, Any]:
  """Writes a file with its note, or finds both there.

  Args:
    settings: how clips are stored.
    job: path of the file without its ending, and its clips by number.

  Returns:
    The note: `kept`, the numbers of the clips in the file, and `bad`, what is
    wrong with others.
  """
  from array_record.python import array_record_module

  path, segments = job
  note_path = path.with_name(f"{path.name}.note.json")
  # Written last: where it is, the file is complete.
  if note_path.is_file():
    return json.loads(note_path.read_text(encoding="utf-8"))
  partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  note: dict[str, list] = {"kept": [], "bad": []}
  writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
  for number, segment in segments:
    try:
      record = read_whole(segment, settings)
    except UserError as error:
      note["bad"].append(str(error))
      continue
    writer.write(record)
    note["kept"].append(number)
  writer.close()
  if note["kept"]:
    os.replace(partial, path.with_name(f"{path.name}.array_record"))
  else:
    partial.unlink()
  _write_json(note_path, note)
  return note


def read_whole(segment: clip_files.Segment, settings: Settings) -> bytes:
  """Decodes a clip and stores it; see `clip_shards.encode`.

  Raises:
    UserError: it can't be read.
  """
  path, start, stop = segment
  kinds = ["video"] * bool(settings.fps) + ["audio"] * bool(
    settings.sample_rate
  )
  length = min(media.duration(path, kind) for kind in kinds) - start
  if stop > start:
    length = min(length, stop - start)
  length = min(length, _LONGEST)
  pictures: list[np.ndarray] = []
  if settings.fps:
    count = max(1, round(length * settings.fps))
    for _, picture in video.frames(path, settings.fps, start):
      pictures.append(_smaller(picture, settings.size))
      if len(pictures) == count:
        break
  sound = np.zeros((0, 1), np.float32)
  if settings.sample_rate:
    count = max(1, int(length * settings.sample_rate))
    sound = audio.read_audio(path, settings.sample_rate, start, count)
  return clip_shards.encode(
    pictures, sound.mean(axis=1, keepdims=True), settings.quality
  )


def _smaller(picture: np.ndarray, size: int) -> np.ndarray:
  """Shrinks a picture so that its short side has `size` pixels."""
  height, width = picture.shape[:2]
  scale = size / min(height, width)
  if scale >= 1:
    return picture
  return resizing.resize(picture, round(height * scale), round(width * scale))


def _check_same(
  index: Path, settings: Settings, source: clip_files.ClipFiles
) -> None:
  """Refuses to go on with files of other clips or settings."""
  path = index.with_name(f"{index.stem}.settings.json")
  wanted = {**dataclasses.asdict(settings), "clips": len(source)}
  if not path.is_file():
    _write_json(path, wanted)
  elif json.loads(path.read_text(encoding="utf-8")) != wanted:
    raise UserError(
      f"{str(index.parent)!r} has files made with other settings or clips, see"
      f" {path.name}; give another --output, or remove them"
    )


def _name(source: clip_files.ClipFiles, number: int) -> str:
  return Path(source.segments[number].path).stem


def _write_json(path: Path, value: Any) -> None:
  partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  partial.write_text(json.dumps(value), encoding="utf-8")
  os.replace(partial, path)


if __name__ == "__main__":
  launch.run(main)
