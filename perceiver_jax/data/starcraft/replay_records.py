"""Records of replays, and records of observations made of them.

Reading a replay takes seconds, so what is read of each is stored first, with
names of unit types and actions. When all are read, the names are numbered and
every observation becomes a record of its own.
"""

import collections
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from perceiver_jax import files
from perceiver_jax.data.core import record_writer, records
from perceiver_jax.data.core.limits import limits
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.starcraft import features, replays
from perceiver_jax.data.starcraft.observations import Names
from perceiver_jax.errors import UserError

UNKNOWN = "unknown"
_MAX_UNIT_TYPES = next(f.size for f in features.FEATURES
                       if f.name == "unit_type")  # fmt: skip
_INFO = "info"


class Settings(NamedTuple):
  """Settings of reading replays.

  Attributes:
    every_seconds: see `replays.observations`.
    max_entities: see `replays.observations`.
    max_seconds: limit on the time that a replay takes to read.
    max_file_mb: limit on the size of a file.
    max_memory_mb: limit on the memory that reading a replay takes.
  """

  every_seconds: float
  max_entities: int
  max_seconds: float
  max_file_mb: float
  max_memory_mb: float


class Replay(NamedTuple):
  """A replay to be read.

  Attributes:
    path: path of the file.
    name: its name in the data set.
  """

  path: str
  name: str


class Survey(NamedTuple):
  """The names, replays and duplicates of a set of replays.

  Attributes:
    names: the names that occur.
    kept: numbers of the replays of different games.
    replays: name, release and number of observations of each of these.
    duplicates: names of the other replays, with the one of the same game.
  """

  names: Names
  kept: list[int]
  replays: list[dict[str, Any]]
  duplicates: dict[str, str]


def examples(
  items: Sequence[Replay], settings: Settings
) -> record_writer.Examples:
  """Returns replays for `record_writer.write_split`, a record of each."""
  return record_writer.Examples(
    items,
    functools.partial(encode, settings),
    _fingerprint,
    "replays",
    {**settings._asdict(), "sc2reader": replays.reader_version()},
  )


def _fingerprint(items: Iterable[Replay]) -> str:
  digest = hashlib.sha256()
  for path, name in items:
    size = os.path.getsize(path) if os.path.isfile(path) else -1
    digest.update(json.dumps([name, size]).encode() + b"\n")
  return digest.hexdigest()


def encode(settings: Settings, item: Replay) -> bytes:
  """Reads a replay within limits on time and memory; returns its record.

  Raises:
    UserError: it can't be read, or has no observation.
  """
  try:
    contents = _read_file(item.path, settings.max_file_mb)
    with limits(settings.max_seconds, settings.max_memory_mb):
      game = replays.read(
        contents, settings.every_seconds, settings.max_entities
      )
      if not game.observations:
        raise UserError("has no command of a human player")
      return _encode_game(item.name, game)
  except UserError as error:
    raise UserError(f"{item.name!r} {error}") from error


def _read_file(path: str, max_mb: float) -> bytes:
  max_bytes = int(max_mb * 1e6)
  try:
    with files.open_regular(path) as file:
      contents = file.read(max_bytes + 1)
  except OSError as error:
    raise UserError(f"can't be opened: {error.strerror or error}") from error
  if len(contents) > max_bytes:
    raise UserError(f"has more than {max_mb:g} MB")
  return contents


def _encode_game(name: str, game: replays.Game) -> bytes:
  """Encodes all observations of a replay, concatenated."""
  observations = game.observations
  types = sorted({name for each in observations for name in each.unit_types})
  index = {name: number for number, name in enumerate(types)}
  info = {
    "name": name,
    "key": game.key,
    "release": game.release,
    "unit_types": types,
    "actions": [each.action for each in observations],
  }
  kinds = [index[name] for each in observations for name in each.unit_types]
  arrays = {
    _INFO: np.array(json.dumps(info)),
    "count": np.array([len(each.unit_types) for each in observations]),
    "selected": np.array([each.selected for each in observations], np.int32),
    "target": np.array([each.target for each in observations], np.int32),
    "unit_type": np.array(kinds, np.int32),
  }
  for key in observations[0].arrays:
    arrays[key] = np.concatenate([each.arrays[key] for each in observations])
  return records.encode(arrays)


def decode(record: bytes) -> tuple[dict[str, Any], list[Example]]:
  """Decodes a record of `encode`.

  Returns:
    The name, key, release, names of the unit types and of each action; and the
    observations, without actions.
  """
  arrays = records.decode(record)
  info = json.loads(str(arrays.pop(_INFO)))
  ends = np.cumsum(arrays.pop("count"))
  scalars = {key: arrays.pop(key) for key in ("selected", "target")}
  parts = {key: np.split(a, ends[:-1]) for key, a in arrays.items()}
  rows = range(len(ends))
  return info, [
    {key: values[i] for key, values in (parts | scalars).items()} for i in rows
  ]


def survey(source: records.Records) -> Survey:
  """Counts the types and actions of replays, and finds repeated games.

  Names are ordered by how frequent they are. With more types than a model can
  tell apart, the rarest have no name.
  """
  types: collections.Counter[str] = collections.Counter()
  actions: collections.Counter[str] = collections.Counter()
  first: dict[str, str] = {}
  kept, infos, duplicates = [], [], {}
  for number in tqdm(range(len(source)), "count", leave=False, disable=None):
    info, observations = decode(source[number])
    name = first.setdefault(info["key"], info["name"])
    if name != info["name"]:
      duplicates[info["name"]] = name
      continue
    kept.append(number)
    infos.append({"name": name, "release": info["release"],
                  "observations": len(observations)})  # fmt: skip
    actions.update(action for action in info["actions"] if action)
    for each in observations:
      counts = np.bincount(each["unit_type"], minlength=len(info["unit_types"]))
      types.update(dict(zip(info["unit_types"], counts.tolist(), strict=True)))
  order = lambda counts: sorted(counts, key=lambda name: (-counts[name], name))
  names = Names([UNKNOWN, *order(types)][:_MAX_UNIT_TYPES], order(actions))
  return Survey(names, kept, infos, duplicates)


def observation_records(record: bytes, names: Names) -> Iterator[bytes]:
  """Yields a record for each observation of a replay."""
  info, observations = decode(record)
  types = {name: number for number, name in enumerate(names.unit_types)}
  actions = {name: number for number, name in enumerate(names.actions)}
  numbers = np.array([types.get(name, 0) for name in info["unit_types"]])
  for each, action in zip(observations, info["actions"], strict=True):
    each["unit_type"] = numbers[each["unit_type"]].astype(np.int16)
    each["action"] = np.int32(actions.get(action, features.NONE))
    yield records.encode(each)
