r"""Prepares StarCraft II replays for training: observations and commands.

  python -m scripts.data.prepare_replays --replays=DIR --output=OUT

reads every *.SC2Replay file in DIR and its folders, or those of a pattern such
as --replays='games/2023-*/*.SC2Replay', and writes OUT/manifest.json and
OUT/observations-00000.array_record and so on. Training then reads these:
--config.data.source=shards --config.data.source_args.shards.directory=OUT.

An observation has the units of the game every --every_seconds, as far as a
replay records them, and what one of its human players did next: the command,
the first selected unit and the targeted unit. docs/starcraft.md says what a
replay doesn't hold. The manifest numbers the types of units and the commands by
how frequent they are; to number those of other replays in the same way, give
--names=OUT/manifest.json.

Replays are read by --num_workers processes, 16 to a file that is written
completely or not at all. The same command resumes a run that was stopped. Files
that are damaged, too old, or beyond --max_seconds, --max_file_mb or
--max_memory_mb are named, counted and left out, as are further recordings of
the same game; the manifest lists both. Finally every observation is read again;
--check does only that. The exit status is 1 if a replay or an observation can't
be read, else 0. OUT/replays* is only needed to resume.
"""

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax import files
from perceiver_jax.data.core import record_writer, records
from perceiver_jax.data.starcraft import observations, replay_records
from perceiver_jax.errors import UserError

_REPLAYS = flags.DEFINE_string("replays", "", "Folder or pattern of replays.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write to.")
_NAMES = flags.DEFINE_string(
  "names", "", "Manifest whose numbers of unit types and commands to use."
)
_CHECK = flags.DEFINE_bool("check", False, "Only check the files in --output.")
_EVERY = flags.DEFINE_float(
  "every_seconds",
  5.0,
  "Seconds between observations, at the game speed Faster.",
  lower_bound=0.05,
)
_ENTITIES = flags.DEFINE_integer(
  "max_entities",
  512,
  "Number of units kept in an observation, the player's own first.",
  lower_bound=1,
)
_WORKERS = flags.DEFINE_integer(
  "num_workers", os.cpu_count(), "Number of processes.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
  "max_seconds", 120.0, "Limit on the time to read a replay.", lower_bound=1
)
_FILE_MB = flags.DEFINE_float(
  "max_file_mb", 32.0, "Limit on the size of a file.", lower_bound=0
)
_MEMORY_MB = flags.DEFINE_float(
  "max_memory_mb", 2048.0, "Limit on the memory to read a replay.",
  lower_bound=1,
)  # fmt: skip

_SUFFIX = ".sc2replay"
# Replays that are read again if a run is stopped, at most, for each process.
_REPLAYS_PER_FILE = 16
_OBSERVATIONS_PER_FILE = 8192
# Number of unreadable replays or observations to print.
_MAX_PRINTED = 10


def main(argv: Sequence[str]) -> int:
  """Prepares or checks the replays of the flags."""
  launch.no_arguments(argv)
  if not _OUTPUT.value:
    raise UserError("give --output=OUT, the folder to write to")
  output = files.on_disk(_OUTPUT.value, "--output")
  bad: list[str] = []
  if not _CHECK.value:
    bad = prepare(find_replays(_REPLAYS.value), output)
  bad += check(output)
  return int(bool(bad))


def find_replays(pattern: str) -> list[replay_records.Replay]:
  """Returns the replays of a folder or pattern, sorted by name.

  Raises:
    UserError: There are none.
  """
  if not pattern:
    raise UserError("give --replays=DIR, the folder of the replays")
  paths = [
    path
    for path in files.local_matches(pattern)
    if path.lower().endswith(_SUFFIX)
  ]
  if not paths:
    raise UserError(
      f"--replays={pattern} has no *.SC2Replay file; give a folder or a pattern"
      " of files"
    )
  folder = os.path.commonpath([os.path.dirname(path) or "." for path in paths])
  return [
    replay_records.Replay(path, os.path.relpath(path, folder)) for path in paths
  ]


def prepare(items: list[replay_records.Replay], output: Path) -> list[str]:
  """Writes the observations of replays.

  Args:
    items: The replays.
    output: Folder to write to; its manifest is written last.

  Returns:
    The errors of replays that were left out.

  Raises:
    UserError: No replay can be read, existing files were made with other
      settings or from other replays, or a process was killed.
  """
  settings = replay_records.Settings(
    _EVERY.value,
    _ENTITIES.value,
    _SECONDS.value,
    _FILE_MB.value,
    _MEMORY_MB.value,
  )
  given = observations.read_names(files.as_path(_NAMES.value).expanduser()) \
    if _NAMES.value else None  # fmt: skip
  written = record_writer.write_split(
    output / "replays.json",
    replay_records.examples(items, settings),
    math.ceil(len(items) / _REPLAYS_PER_FILE),
    _WORKERS.value,
  )
  source = records.Records(
    {str(output / name): count for name, count in written.files.items()}
  )
  survey = replay_records.survey(source)
  names = given or survey.names
  written_files = _write_observations(source, survey.kept, names, output)
  records.write_json(
    output / observations.MANIFEST,
    {
      "unit_types": names.unit_types,
      "actions": names.actions,
      "files": written_files,
      "replays": survey.replays,
      "bad": written.bad,
      "duplicates": survey.duplicates,
      **settings._asdict(),
    },
  )
  for reason in written.bad[:_MAX_PRINTED]:
    print(reason)
  print(
    f"{len(survey.kept):,} replays; {len(written.bad):,} can't be read,"
    f" {len(survey.duplicates):,} are of the same game as another"
  )
  return written.bad


def _write_observations(
  source: records.Records,
  kept: Sequence[int],
  names: replay_records.Names,
  output: Path,
) -> dict[str, int]:
  """Writes a record for each observation; returns the numbers by file."""
  bar = tqdm(kept, "observations", leave=False, disable=None)
  made = itertools.chain.from_iterable(
    replay_records.observation_records(source[number], names) for number in bar
  )
  files: dict[str, int] = {}
  for number in itertools.count():
    name = f"observations-{number:05d}.array_record"
    part = itertools.islice(made, _OBSERVATIONS_PER_FILE)
    files[name] = records.write_records(output / name, part)
    if files[name] < _OBSERVATIONS_PER_FILE:
      return {name: count for name, count in files.items() if count}


def check(output: Path) -> list[str]:
  """Reads every observation.

  Args:
    output: The folder of the files.

  Returns:
    The errors of damaged observations.

  Raises:
    UserError: Files are missing or entirely unreadable.
  """
  if not (output / observations.MANIFEST).is_file():
    raise UserError(
      f"--output={output} has no {observations.MANIFEST}; give a folder that"
      " this script has finished"
    )
  source = observations.observation_shards(output, "train", 0.0).source
  source.contents.check_files()
  entities, bad = 0, []
  for i in tqdm(range(len(source)), "check", leave=False, disable=None):
    try:
      entities += len(source[i]["unit_type"])
    except UserError as error:
      bad.append(str(error))
  for reason in bad[:_MAX_PRINTED]:
    print(reason)
  print(
    f"{len(source):,} observations of {entities / len(source):.0f} units on"
    f" average, {len(bad):,} of them damaged; {len(source.unit_type_names):,}"
    f" unit types, {len(source.class_names):,} actions"
  )
  return bad


if __name__ == "__main__":
  launch.run(main)
