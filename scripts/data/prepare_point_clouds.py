r"""Prepares point clouds for training: samples meshes once.

  python -m scripts.data.prepare_point_clouds --source=mesh_folder \
    --directory=DIR --split=train --output=OUT

samples --num_points points of the surface of each mesh of DIR, which has the
layout of ModelNet40 (docs/modelnet40.md), and writes OUT/train.json,
OUT/train-00000-of-00064.array_record and so on. Training then draws its points
from these: --config.data.source=shards
--config.data.source_args.shards.directory=OUT. Clouds of
--source=resampled_text are stored too, since text takes long to read; of a
cloud with fewer points, all are stored.

Files are written by --num_workers processes, each completely or not at all.
The same command resumes a run that was stopped, and writes missing or damaged
files again. Objects that can't be read, or not within --max_seconds and
--max_memory_mb, are named, counted and left out; OUT/train.json lists them
under `bad`. Finally every record is read again;
--check does only that, and lists the files to remove. The exit status is 1 if
an object or a record is unreadable, else 0.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax import files
from perceiver_jax.data.core import record_writer, records, splits
from perceiver_jax.data.points import shards as point_shards
from perceiver_jax.data.points import sources
from perceiver_jax.errors import UserError

_SOURCE = flags.DEFINE_enum(
  "source",
  "mesh_folder",
  ["mesh_folder", "resampled_text"],
  "Layout of --directory.",
)
_DIRECTORY = flags.DEFINE_string("directory", "", "Folder of the objects.")
_SPLIT = flags.DEFINE_string("split", "train", "Name of the split.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write to.")
_CHECK = flags.DEFINE_bool("check", False, "Only check the files in --output.")
_POINTS = flags.DEFINE_integer(
  "num_points", 10_000, "Number of points of an object.", lower_bound=1
)
_FILES = flags.DEFINE_integer(
  "num_files", 64, "Number of files to write.", lower_bound=1
)
_WORKERS = flags.DEFINE_integer(
  "num_workers", os.cpu_count(), "Number of processes.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
  "max_seconds", 60.0, "Limit on the time to read an object.", lower_bound=1
)
_MEMORY_MB = flags.DEFINE_float(
  "max_memory_mb", 2048.0, "Limit on the memory to read an object.",
  lower_bound=1,
)  # fmt: skip

# Number of unreadable objects to print.
_MAX_PRINTED = 10


def main(argv: Sequence[str]) -> int:
  """Prepares or checks the split of the flags."""
  launch.no_arguments(argv)
  if not _OUTPUT.value:
    raise UserError("give --output=OUT, the folder to write to")
  if splits.parse(_SPLIT.value).name != _SPLIT.value:
    raise UserError(
      f"--split={_SPLIT.value} is a slice; prepare the whole split, of which"
      " training reads any slice"
    )
  output = files.on_disk(_OUTPUT.value, "--output")
  bad: list[str] = []
  if not _CHECK.value:
    bad = prepare(output / f"{_SPLIT.value}.json")
  bad += check(output, _SPLIT.value)
  return int(bool(bad))


def prepare(index: Path) -> list[str]:
  """Writes the files of --split that do not exist yet.

  Args:
    index: The path of SPLIT.json, which is written last.

  Returns:
    The errors of objects that were left out.

  Raises:
    UserError: No object can be read, existing files were made with other
      settings or from other objects, or a process was killed.
  """
  if not _DIRECTORY.value:
    raise UserError("give --directory=DIR, the folder of the objects")
  skipping = sources.make_source(
    _SOURCE.value, split=_SPLIT.value, directory=_DIRECTORY.value
  )
  source = skipping.source
  settings = point_shards.Settings(
    _POINTS.value, _SECONDS.value, _MEMORY_MB.value
  )
  examples = point_shards.examples_to_write(source, settings)
  written = record_writer.write_split(
    index, examples, _FILES.value, _WORKERS.value
  )
  for reason in written.bad[:_MAX_PRINTED]:
    print(reason)
  print(
    f"{index.stem}: {len(written.kept):,} objects in {len(written.files)}"
    f" files; {len(written.bad):,} cannot be read"
  )
  contents = {
    "files": written.files,
    "names": [source.names[i] for i in written.kept],
    "labels": source.labels[written.kept].tolist(),
    "class_names": source.class_names,
    "bad": written.bad,
    **examples.settings,
  }
  records.write_json(index, contents)
  return written.bad


def check(output: Path, split: str) -> list[str]:
  """Reads every record.

  Args:
    output: The folder of the files.
    split: Name of the split.

  Returns:
    The errors of damaged records.

  Raises:
    UserError: Files are missing or entirely unreadable.
  """
  if not (output / f"{split}.json").is_file():
    raise UserError(
      f"there is no '{split}.json' in --output={output}; give the folder to"
      f" which this script has written --split={split}"
    )
  source = point_shards.shards(str(output), split).source
  source.check_files()
  bad, damaged = [], set()
  for i in tqdm(range(len(source)), "check", leave=False, disable=None):
    try:
      source[i]
    except UserError as error:
      bad.append(str(error))
      damaged.add(source.file_of(i))
  for reason in bad[:_MAX_PRINTED]:
    print(reason)
  if damaged:
    print("remove and prepare the split again:", *sorted(damaged))
  print(f"{split}: {len(source):,} clouds, {len(bad):,} of them damaged")
  return bad


if __name__ == "__main__":
  launch.run(main)
