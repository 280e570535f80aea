"""Generated battles in which the right command depends on relations.

A commander and its marines, some allies, enemies of three types and minerals
stand on a map. The commander's order names the rule by which to choose the
enemy to attack:

- "nearest": the enemy that is nearest to the commander;
- "weakest": the enemy with the least health of those in the commander's range;
- "protect": the enemy that is nearest to the ally that was targeted.

The unit to select is the marine nearest to the commander of those whose weapon
is ready. The action is given by the type of the majority of the enemies in
range. The answers are unique: a battle in which one is close is drawn again, as
is one with fewer than three enemies in range. Units that no answer depends on
are distractors: the other marines and allies, the enemies out of range, and the
minerals.

Battle i depends on the seed and i alone. Splits have different seeds.

Shapes: n battles, M entities of the largest.
"""

from collections.abc import Mapping

import numpy as np

from perceiver_jax.checks import check_choice
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.starcraft import features
from perceiver_jax.errors import UserError

UNIT_TYPES = (
  "unknown",
  "commander",
  "marine",
  "medivac",
  "zergling",
  "hydralisk",
  "mutalisk",
  "minerals",
)
COMMANDER, MARINE, MEDIVAC, ZERGLING, HYDRALISK, MUTALISK, MINERALS = range(
  1, len(UNIT_TYPES)
)
ENEMY_TYPES = (ZERGLING, HYDRALISK, MUTALISK)
# The action against each type of enemy.
ACTIONS = ("spread out", "flank", "retreat")
RULES = ("nearest", "weakest", "protect")
# The commander's order is the index of the rule plus one.
FIRST_ORDER = 1
RANGE = 110.0
# With a single enemy in range, the nearest enemy would answer every rule.
MIN_IN_RANGE = 3
# The least difference of two distances, and of two healths, that decides.
MARGIN_DISTANCE, MARGIN_HEALTH = 8.0, 8
_MAX_HEALTH = 100
_BLOCK = 64  # Battles that are generated at once, when one is asked for.
_SPLITS = ("train", "test")
# The units after the commander: some of each kind first, then any.
_REQUIRED_UNITS = (*[MARINE] * 4, MEDIVAC, MEDIVAC, *ENEMY_TYPES, MINERALS)
MIN_ENTITIES = 1 + len(_REQUIRED_UNITS)
# The entities of larger battles are distractors, or no answer would be clear.
_MAX_FIGHTERS = 32
_OTHER_UNITS = (MARINE, MEDIVAC, *ENEMY_TYPES, MINERALS)
_UNIT_PROBABILITIES = (0.2, 0.1, 0.18, 0.18, 0.18, 0.16)
_SELF, _ALLY, _NEUTRAL, _ENEMY = range(1, 5)
_ALLIANCE_OF_TYPE = np.array(
  [0, _SELF, _SELF, _ALLY, _ENEMY, _ENEMY, _ENEMY, _NEUTRAL], np.int32
)

Arrays = dict[str, np.ndarray]


def battles(
  split: str,
  min_entities: int = 16,
  max_entities: int = 48,
  num_train: int = 65536,
  num_test: int = 2048,
  seed: int = 0,
) -> "Battles":
  """Returns the generated battles of a split.

  Args:
    split: "train" or "test".
    min_entities: Fewest entities of a battle.
    max_entities: Most entities of a battle.
    num_train: Battles of the split "train".
    num_test: Battles of the split "test".
    seed: Seed of both splits, which have no battle in common.

  Raises:
    UserError: The split is unknown or the numbers of entities are impossible.
  """
  check_choice(split, _SPLITS, "split", "battles")
  if not MIN_ENTITIES <= min_entities <= max_entities:
    raise UserError(
      f"battles of {min_entities} to {max_entities} entities can't be made;"
      " give config.data.source_args.battles.min_entities at least"
      f" {MIN_ENTITIES} and max_entities no less"
    )
  length = num_train if split == "train" else num_test
  seeds = (seed, _SPLITS.index(split))
  return Battles(length, seeds, min_entities, max_entities)


class Battles:
  """Generated battles.

  They are generated in small blocks when one is first asked for, and kept.

  Args:
    length: Number of battles.
    seeds: Random seeds.
    min_entities: Fewest entities of a battle.
    max_entities: Most entities of a battle.
  """

  in_memory = True
  class_names = ACTIONS
  num_classes = len(ACTIONS)
  unit_type_names = UNIT_TYPES
  group_names = RULES

  def __init__(
    self,
    length: int,
    seeds: tuple[int, ...],
    min_entities: int,
    max_entities: int,
  ):
    self._length, self._seeds = length, seeds
    self._sizes = min_entities, max_entities
    self._blocks: dict[int, Arrays] = {}

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Example:
    """Returns an observation with its targets and `group`, the rule."""
    number, row = divmod(range(self._length)[index], _BLOCK)
    if number not in self._blocks:
      rng = np.random.default_rng((*self._seeds, number))
      self._blocks[number] = _generate(rng, _BLOCK, *self._sizes)
    block = self._blocks[number]
    count = block["count"][row]
    return {
      name: array[row, :count] if array.ndim == 2 else array[row]
      for name, array in block.items()
      if name != "count"
    }


def _generate(
  rng: np.random.Generator, length: int, min_entities: int, max_entities: int
) -> Arrays:
  """Returns the arrays of `length` battles, drawn until each is clear."""
  parts, missing = [], length
  while missing > 0:
    drawn = _draw(rng, length, min_entities, max_entities)
    answers, is_clear = answer(drawn)
    part = {k: v[is_clear][:missing] for k, v in (drawn | answers).items()}
    parts.append(part)
    missing -= len(part["count"])
  return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _draw(
  rng: np.random.Generator, length: int, min_entities: int, max_entities: int
) -> Arrays:
  """Draws battles without answers; units of type 0 are padding."""
  shape = (length, max_entities)
  count = rng.integers(min_entities, max_entities + 1, length)
  kinds = rng.choice(_OTHER_UNITS, shape, p=_UNIT_PROBABILITIES)
  rest = np.arange(max_entities) >= _MAX_FIGHTERS
  kinds = np.where(rest, rng.choice((MEDIVAC, MINERALS), shape), kinds)
  kinds = kinds.astype(np.int32)
  kinds[:, 0] = COMMANDER
  kinds[:, 1:MIN_ENTITIES] = _REQUIRED_UNITS
  x, y = rng.uniform(0, features.MAP_SIZE, (2, *shape)).astype(np.float32)
  group = rng.integers(0, len(RULES), length).astype(np.int32)
  # The orders of the marines mean nothing here.
  order = rng.integers(0, FIRST_ORDER + len(RULES), shape).astype(np.int32)
  order = np.where(kinds == MARINE, order, 0)
  order[:, 0] = FIRST_ORDER + group
  targeted = np.zeros(shape, np.int32)
  targeted[:, 1 + _REQUIRED_UNITS.index(MEDIVAC)] = 1
  cooldown = rng.integers(1, 32, shape) * (rng.random(shape) < 0.3)
  shoots = np.isin(kinds, (MARINE, *ENEMY_TYPES))
  exists = np.arange(max_entities) < count[:, None]
  health = rng.integers(1, _MAX_HEALTH + 1, shape)
  arrays = {
    "unit_type": kinds,
    "alliance": _ALLIANCE_OF_TYPE[kinds],
    "x": x,
    "y": y,
    "health": health.astype(np.int32),
    "health_ratio": np.float32(health / _MAX_HEALTH),
    "weapon_cooldown": np.where(shoots, cooldown, 0).astype(np.int32),
    "order_1": order,
    "was_targeted": targeted,
    "is_flying": np.isin(kinds, (MEDIVAC, MUTALISK)).astype(np.int32),
  }
  arrays = {k: np.where(exists, v, v.dtype.type(0)) for k, v in arrays.items()}
  # A random order of the entities, padding last.
  rank = np.where(exists, rng.random(shape), 2).argsort(1)
  arrays = {k: np.take_along_axis(v, rank, 1) for k, v in arrays.items()}
  return {**arrays, "count": count, "group": group}


def answer(arrays: Mapping[str, np.ndarray]) -> tuple[Arrays, np.ndarray]:
  """Applies the rules to battles.

  Args:
    arrays: Features [n, M] and the rules, `group` [n].

  Returns:
    The targets of each battle, and whether all of them are clear [n].
  """
  kinds, group = arrays["unit_type"], arrays["group"]
  enemies = np.isin(kinds, ENEMY_TYPES)
  from_commander = _distances(arrays, kinds == COMMANDER)
  from_ally = _distances(arrays, arrays["was_targeted"] == 1)
  in_range = enemies & (from_commander < RANGE)
  ready = (kinds == MARINE) & (arrays["weapon_cooldown"] == 0)
  by_rule = (
    _least(from_commander, enemies, MARGIN_DISTANCE),
    _least(arrays["health"], in_range, MARGIN_HEALTH),
    _least(from_ally, enemies, MARGIN_DISTANCE),
  )
  target = np.choose(group, [index for index, _ in by_rule])
  selected, selected_is_clear = _least(from_commander, ready, MARGIN_DISTANCE)
  counts = [np.sum(in_range & (kinds == each), 1) for each in ENEMY_TYPES]
  counts = np.stack(counts, 1)
  highest = np.sort(counts, 1)
  border = np.abs(from_commander - RANGE) < MARGIN_DISTANCE / 2
  is_clear = (
    np.choose(group, [is_clear for _, is_clear in by_rule])
    & selected_is_clear
    & (in_range.sum(1) >= MIN_IN_RANGE)
    & (highest[:, -1] > highest[:, -2])
    & ~np.any(enemies & border, 1)
  )
  targets = {
    "action": counts.argmax(1),
    "selected": selected,
    "target": target,
  }
  return {k: v.astype(np.int32) for k, v in targets.items()}, is_clear


def _distances(
  arrays: Mapping[str, np.ndarray], center: np.ndarray
) -> np.ndarray:
  """Returns the distance of each entity from the one at `center` [n, M]."""
  index = center.argmax(1)[:, None]
  x, y = (
    a - np.take_along_axis(a, index, 1) for a in (arrays["x"], arrays["y"])
  )
  return np.hypot(x, y)


def _least(
  values: np.ndarray, candidates: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the index of the least value and whether no other is close."""
  values = np.where(candidates, values.astype(np.float32), np.inf)
  first, second = np.partition(values, 1, axis=1)[:, :2].T
  # With a single candidate the second is infinite, and with none the first.
  is_clear = np.isfinite(first) & (second >= first + margin)
  return values.argmin(1), is_clear
