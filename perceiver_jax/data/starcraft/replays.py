"""Observations of `*.SC2Replay` files.

A replay holds what the players did and a log of the units (its tracker
events), not what the players saw: there is no screen and no fog of war, and of
a unit only its type, owner, birth, completion and death and, at times, its
position are known, not its health. The game itself can replay the rest; this
module reads only the file.

Replays need version 2.1 or newer, the first whose log says which user is which
player. sc2reader reads the files; nothing in them is unpickled or downloaded.
"""

import hashlib
import io
import json
import logging
import operator
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax.data.starcraft import features, replay_state
from perceiver_jax.errors import UserError

# Game steps of a second at the speed "Faster", that of almost all games.
STEPS_PER_SECOND = 22.4
_FIRST_BUILD = 27950
_HUMAN = 1
_UNKNOWN, _SELF, _ALLY, _NEUTRAL, _ENEMY = range(len(features.ALLIANCES))
_ORDER = (_SELF, _ALLY, _ENEMY, _NEUTRAL)
_MAX_REASON = 200  # Characters of the reason why a file can't be parsed.


class Observation(NamedTuple):
  """An observation whose types and action are names.

  Attributes:
    arrays: features by name, as in `features.FEATURES`, without `unit_type`.
    unit_types: name of the type of each entity.
    action: name of the command; None if sc2reader has none for it.
    selected: index of the first selected entity, or -1.
    target: index of the entity that the command is aimed at, or -1.
  """

  arrays: dict[str, np.ndarray]
  unit_types: list[str]
  action: str | None
  selected: int
  target: int


class Game(NamedTuple):
  """The observations of a replay, and the game that it records.

  Attributes:
    key: hash that all recordings of one game share.
    release: version of the game that recorded it.
    observations: observations of all human players.
  """

  key: str
  release: str
  observations: list[Observation]


class _Player(NamedTuple):
  number: int
  team: int


class _Snapshot(NamedTuple):
  """The state at the start of an interval, for one user."""

  units: Mapping[int, replay_state.Unit]
  selected: frozenset[int]
  target: int | None


def reader_version() -> str:
  """Returns the version of sc2reader.

  Raises:
    UserError: it is not installed.
  """
  try:
    import sc2reader
  except ImportError as error:
    raise UserError(
      f"reading replays needs sc2reader ({error}): pip install"
      " 'perceiver_jax[starcraft]'"
    ) from error
  return sc2reader.__version__


def read(contents: bytes, every_seconds: float, max_entities: int) -> Game:
  """Reads a replay.

  Args:
    contents: contents of the file.
    every_seconds: see `observations`.
    max_entities: see `observations`.

  Raises:
    UserError: the file is damaged, or of a version that isn't supported.
  """
  try:
    replay = load(contents)
    return Game(
      _game_key(replay),
      replay.release_string,
      list(observations(replay, every_seconds, max_entities)),
    )
  except (UserError, MemoryError):
    raise
  # Damaged files raise errors of every kind.
  except Exception as error:
    reason = f"{type(error).__name__} {' '.join(str(error).split())}"
    raise UserError(f"can't be parsed: {reason[:_MAX_REASON]}") from error


def load(contents: bytes) -> Any:
  """Parses a replay; returns sc2reader's object.

  Raises:
    UserError: the version of the game isn't supported.
    Exception: of any kind, if the file is damaged.
  """
  from sc2reader import resources

  # It warns of every unknown attribute.
  logging.getLogger("sc2reader").setLevel(logging.CRITICAL)
  # Its engine fails on events of units and users that it doesn't know.
  options = {"engine": None, "debug": False}
  header = resources.Replay(io.BytesIO(contents), load_level=0, **options)
  if header.build < _FIRST_BUILD:
    raise UserError(
      f"is of version {header.release_string}; versions before 2.1 don't log"
      " which user is which player"
    )
  replay = resources.Replay(io.BytesIO(contents), **options)
  for kind in ("tracker_events", "game_events"):
    if not getattr(replay, kind):
      raise UserError(f"has no {kind.replace('_', ' ')}")
  return replay


def _game_key(replay: Any) -> str:
  init = replay.raw_data["replay.initData"]
  users = [str(slot["toon_handle"]) for slot in init["lobby_state"]["slots"]]
  value = init["game_description"]["random_value"]
  key = json.dumps([value, replay.map_hash, sorted(users)])
  return hashlib.sha256(key.encode()).hexdigest()[:32]


def observations(
  replay: Any, every_seconds: float, max_entities: int
) -> Iterator[Observation]:
  """Yields one observation per user and interval.

  It is of the state at the start of the interval. Its targets are those of the
  user's first command in the interval; if there is none, nothing is yielded.

  Args:
    replay: a result of `load`.
    every_seconds: length of the intervals, at the speed "Faster".
    max_entities: number of entities that are kept: the player's own first, then
      those of allies, enemies and nobody, the oldest of each first.
  """
  step = max(1, round(every_seconds * STEPS_PER_SECOND))
  players = _players(replay)
  units = replay_state.Units()
  users = {number: replay_state.User() for number in players if number >= 0}
  snapshots: dict[int, _Snapshot] = {}
  end = step
  # Sorting keeps the order within a step, the changes of units first.
  events = [*replay.tracker_events, *replay.game_events]
  for event in sorted(events, key=operator.attrgetter("frame")):
    if event.frame > end:
      end = -(-event.frame // step) * step
      now = dict(units.by_id)
      snapshots = {
        number: _Snapshot(now, frozenset(user.selected), user.target)
        for number, user in users.items()
      }
    units.update(event)
    # Of other events, such as statistics, `pid` is the number of a player.
    if event.name not in replay_state.INPUTS or event.pid not in users:
      continue
    number = event.pid
    if event.name in replay_state.COMMANDS and number in snapshots:
      yield _observation(
        snapshots.pop(number),
        event,
        users[number].selected,
        _alliances(players, number),
        max_entities,
        _action(replay, event),
      )
    users[number].update(event)


def _players(replay: Any) -> dict[int, _Player]:
  """Returns the players by user number; computers have negative ones."""
  slots = replay.raw_data["replay.initData"]["lobby_state"]["slots"]
  players = {}
  for event in replay.tracker_events:
    if event.name == "PlayerSetupEvent" and event.sid is not None:
      is_human = event.type == _HUMAN and event.uid is not None
      number = event.uid if is_human else -1 - event.pid
      players[number] = _Player(event.pid, slots[event.sid]["team_id"])
  return players


def _alliances(players: Mapping[int, _Player], number: int) -> dict[int, int]:
  """Returns the alliance of each player, as seen by a user."""
  own = players[number]
  alliances = {
    player.number: _ALLY if player.team == own.team else _ENEMY
    for player in players.values()
  }
  return {**alliances, own.number: _SELF}


def _observation(
  snapshot: _Snapshot,
  command: Any,
  selected: list[int],
  alliances: Mapping[int, int],
  max_entities: int,
  action: str | None,
) -> Observation:
  """Returns an observation; `alliances` lacks the owners of neutral units."""
  by_alliance: dict[int, list[int]] = {each: [] for each in _ORDER}
  for unit_id, unit in snapshot.units.items():
    by_alliance[alliances.get(unit.owner, _NEUTRAL)].append(unit_id)
  kept = [i for each in _ORDER for i in by_alliance[each]][:max_entities]
  units = [snapshot.units[i] for i in kept]
  alliance = [alliances.get(unit.owner, _NEUTRAL) for unit in units]
  rows = {unit_id: row for row, unit_id in enumerate(kept)}
  # The share that is built of the others isn't known.
  progress = [1 if unit.is_complete else np.nan for unit in units]
  arrays = {
    "alliance": np.array(alliance, np.int8),
    "x": np.array([unit.x for unit in units], np.float32),
    "y": np.array([unit.y for unit in units], np.float32),
    "build_progress": np.array(progress, np.float32),
    "was_selected": np.array([i in snapshot.selected for i in kept], np.int8),
    "was_targeted": np.array([i == snapshot.target for i in kept], np.int8),
  }
  target = getattr(command, "target_unit_id", None)
  return Observation(
    arrays,
    [unit.type_name for unit in units],
    action,
    next((rows[i] for i in selected if i in rows), features.NONE),
    rows.get(target, features.NONE),
  )


def _action(replay: Any, command: Any) -> str | None:
  """Returns the name of a command."""
  if not command.has_ability:
    return "RightClick"
  abilities = replay.datapack.abilities if replay.datapack else {}
  ability = abilities.get(command.ability_id)
  return ability.name if ability else None
