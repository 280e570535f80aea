"""The features of an entity, and their encoding as categories and numbers.

An observation is a dict of arrays. A feature has one row per entity, [n] or
[n, k]; `FEATURES` names all of them. `unit_type`, `alliance`, `x` and `y` are
required. An observation that lacks another feature, or an entity whose value is
-1 or NaN, gets no category and zeros, which differ from every known value of a
categorical feature.

The targets are scalars, int32: `action`, the class of the command; `selected`
and `target`, the entity that gets the command and the entity that it is aimed
at, as indices of rows. -1 means none; such a target is not trained on.

The entity list is AlphaStar's (Vinyals et al., 2019, supplementary material,
"Detailed architecture", entity encoder), which one-hot encodes almost every
feature and then applies a linear layer to the concatenation. A one-hot vector
is stored as the index of its 1, a category, and the model expands it to the
vector. Categories of all features are numbered consecutively.

Shapes: n entities, M slots, J category columns, S numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from perceiver_jax.data.core.source import Example
from perceiver_jax.errors import UserError

# Positions are in game units; no map is larger.
MAP_SIZE = 256
NONE = -1
REQUIRED = ("unit_type", "alliance", "x", "y")
TARGETS = ("action", "selected", "target")
ALLIANCES = ("unknown", "self", "ally", "neutral", "enemy")


class Feature(NamedTuple):
  """One feature and one encoding of it.

  Attributes:
    name: Name of its array in an observation.
    values: The stored values, in words.
    encoding: "one_hot", "sqrt_one_hot" (of the square root, rounded down),
      "digits" (binary, of the integer part) or "number".
    size: Number of categories, or of digits or numbers.
    divisor: The value is divided by it first.
    columns: k of an array [n, k], whose columns share their categories; 1 for
      an array [n].
    source: "AlphaStar", "AlphaStar, size chosen" or "chosen".
  """

  name: str
  values: str
  encoding: str
  size: int
  divisor: float = 1
  columns: int = 1
  source: str = "AlphaStar"

  @property
  def is_categorical(self) -> bool:
    """Returns whether the encoding is a one-hot vector."""
    return self.encoding in ("one_hot", "sqrt_one_hot")


def _flag(name: str, source: str = "AlphaStar") -> Feature:
  return Feature(name, "0 or 1", "one_hot", 2, source=source)


def _ratio(name: str) -> Feature:
  return Feature(name, "0 to 1", "number", 1)


_CHOSEN_SIZE = "AlphaStar, size chosen"
_QUEUED = "index of an order in a building's queue, 0 for another"

FEATURES = (
  Feature(
    "unit_type", "index in the source's types, 0 unknown", "one_hot", 256
  ),
  Feature("unit_attributes", "13 flags", "number", 13, columns=13),
  Feature("alliance", "0 to 4: " + ", ".join(ALLIANCES), "one_hot", 5),
  Feature("health", "points", "sqrt_one_hot", 39),
  Feature("shield", "points", "sqrt_one_hot", 32),
  Feature("energy", "points", "sqrt_one_hot", 15),
  Feature("cargo_space_used", "slots", "one_hot", 9),
  Feature("cargo_space_maximum", "slots", "one_hot", 9),
  _ratio("build_progress"),
  _ratio("health_ratio"),
  _ratio("shield_ratio"),
  _ratio("energy_ratio"),
  Feature("display_type", "0 to 4, as in s2client-proto", "one_hot", 5),
  Feature("x", "game units, 0 to 256", "digits", 8),
  Feature("y", "game units, 0 to 256", "digits", 8),
  Feature("cloak", "0 to 4, as in s2client-proto", "one_hot", 5),
  _flag("is_powered"),
  _flag("is_hallucination"),
  _flag("is_active"),
  _flag("is_on_screen"),
  _flag("is_in_cargo"),
  _flag("is_flying", source="chosen"),
  Feature("minerals", "amount left", "one_hot", 19, divisor=100),
  Feature("vespene", "amount left", "one_hot", 26, divisor=100),
  Feature("mined_minerals", "amount", "sqrt_one_hot", 43),
  Feature("mined_vespene", "amount", "sqrt_one_hot", 51),
  Feature("assigned_harvesters", "number", "one_hot", 24),
  Feature("ideal_harvesters", "number", "one_hot", 17),
  Feature("weapon_cooldown", "game steps", "one_hot", 32),
  Feature("order_queue_length", "number", "one_hot", 9),
  Feature(
    "order_1",
    "index in the source's orders, 0 for another",
    "one_hot",
    256,
    source=_CHOSEN_SIZE,
  ),
  Feature("order_2", _QUEUED, "one_hot", 64, source=_CHOSEN_SIZE),
  Feature("order_3", _QUEUED, "one_hot", 64, source=_CHOSEN_SIZE),
  Feature("order_4", _QUEUED, "one_hot", 64, source=_CHOSEN_SIZE),
  Feature(
    "buffs",
    "indices of the first two buffs",
    "one_hot",
    46,
    columns=2,
    source=_CHOSEN_SIZE,
  ),
  Feature("addon_type", "index, 0 other", "one_hot", 8, source=_CHOSEN_SIZE),
  _ratio("order_progress_1"),
  Feature("order_progress_1", "0 to 1", "one_hot", 10, divisor=0.1),
  _ratio("order_progress_2"),
  Feature("order_progress_2", "0 to 1", "one_hot", 10, divisor=0.1),
  Feature("weapon_upgrades", "level", "one_hot", 4),
  Feature("armor_upgrades", "level", "one_hot", 4),
  Feature("shield_upgrades", "level", "one_hot", 4),
  _flag("was_selected"),
  _flag("was_targeted"),
)
# Values beyond the last category of the other features count as the last.
_UNCAPPED = ("unit_type", "alliance", "order_1")
NUM_CATEGORIES = sum(f.size for f in FEATURES if f.is_categorical)
NUM_CATEGORY_COLUMNS = sum(f.columns for f in FEATURES if f.is_categorical)
NUM_NUMBERS = sum(f.size for f in FEATURES if not f.is_categorical)


def encode(observation: Mapping[str, np.ndarray]) -> Example:
  """Encodes the features of all entities of an observation.

  Args:
    observation: Arrays by name; those that are not in `FEATURES` are ignored.

  Returns:
    `categories` int32 [n, J], with -1 where a value is missing; `numbers`
    float32 [n, S]; `positions` float32 [n, 2], x and y with the map's borders
    at -1 and 1.

  Raises:
    UserError: An array is missing, has a wrong shape or an impossible value.
  """
  count = num_entities(observation)
  categories = np.full((count, NUM_CATEGORY_COLUMNS), NONE, np.int32)
  numbers = np.zeros((count, NUM_NUMBERS), np.float32)
  first_category = column = number = 0
  for feature in FEATURES:
    is_stored = feature.name in observation
    if feature.is_categorical:
      if is_stored:
        index = _indices(feature, _values(observation, feature, count))
        index[index >= 0] += first_category
        categories[:, column : column + feature.columns] = index
      column += feature.columns
      first_category += feature.size
    else:
      if is_stored:
        values = _numbers(feature, _values(observation, feature, count))
        numbers[:, number : number + feature.size] = values
      number += feature.size
  xy = np.stack([observation["x"], observation["y"]], 1).astype(np.float32)
  return {
    "categories": categories,
    "numbers": numbers,
    "positions": np.nan_to_num(2 * xy / MAP_SIZE - 1),
  }


def category(categories: np.ndarray, name: str) -> np.ndarray:
  """Returns the index of each category within those of a feature, or -1.

  Args:
    categories: As `encode` returns them [..., J].
    name: Name of a feature of one column.
  """
  column = first = 0
  for feature in FEATURES:
    if feature.is_categorical:
      if feature.name == name:
        break
      column += feature.columns
      first += feature.size
  index = categories[..., column]
  return np.where(index >= 0, index - first, NONE)


def number(numbers: np.ndarray, name: str) -> np.ndarray:
  """Returns the numbers of a feature, 0 where they are missing.

  Args:
    numbers: As `encode` returns them [..., S].
    name: Name of a feature of one number.
  """
  names = [f.name for f in FEATURES if not f.is_categorical
           for _ in range(f.size)]  # fmt: skip
  return numbers[..., names.index(name)]


def num_entities(observation: Mapping[str, np.ndarray]) -> int:
  """Returns n.

  Raises:
    UserError: A required feature is missing.
  """
  for name in REQUIRED:
    if name not in observation:
      raise UserError(
        f"an observation lacks {name!r}; it needs {', '.join(REQUIRED)}"
      )
  return len(observation["unit_type"])


def pad(encoded: Example, num_slots: int) -> Example:
  """Pads encoded entities to M slots.

  Returns:
    The arrays [M, ...] and `input_mask` bool [M], True at entities.

  Raises:
    UserError: There are more entities than slots.
  """
  count = len(encoded["categories"])
  if count > num_slots:
    raise UserError(
      f"an observation has {count} entities and the model {num_slots} slots;"
      " raise config.data.num_entities or leave entities out of the data"
    )
  padded = {}
  for name, array in encoded.items():
    empty = NONE if name == "categories" else 0
    padded[name] = np.full((num_slots, array.shape[1]), empty, array.dtype)
    padded[name][:count] = array
  return {**padded, "input_mask": np.arange(num_slots) < count}


def check_targets(
  observation: Mapping[str, np.ndarray], num_actions: int
) -> None:
  """Checks the targets of an observation.

  Raises:
    UserError: A target is missing or out of range.
  """
  count = num_entities(observation)
  for name in TARGETS:
    if name not in observation:
      raise UserError(
        f"an observation lacks {name!r}; store {', '.join(TARGETS)}, with -1"
        " for none"
      )
    size = num_actions if name == "action" else count
    value = int(observation[name])
    if not NONE <= value < size:
      what = "classes" if name == "action" else "entities"
      raise UserError(
        f"an observation has {name} {value} and {size} {what}; give an index"
        " below that, or -1 for none"
      )


def _values(
  observation: Mapping[str, np.ndarray], feature: Feature, count: int
) -> np.ndarray:
  """Returns the values [n, k] of a feature, -1 where they are missing."""
  values = np.asarray(observation[feature.name], np.float32)
  shape = (count, feature.columns)
  given = shape[:1] if feature.columns == 1 else shape
  if values.shape != given:
    raise UserError(
      f"feature {feature.name!r} has shape {values.shape}; with {count}"
      f" entities it is {given}"
    )
  values = values.reshape(shape)
  return np.where(values >= 0, values, NONE)  # NaN is not at least 0.


def _indices(feature: Feature, values: np.ndarray) -> np.ndarray:
  """Returns the category of each value within the feature's, or -1."""
  largest = values.max(initial=NONE)
  if feature.name in _UNCAPPED and largest >= feature.size:
    raise UserError(
      f"feature {feature.name!r} is {largest:g}; give values from 0 to"
      f" {feature.size - 1}, or -1 for none"
    )
  if feature.divisor != 1:
    # A quotient of float32 values can be just below the whole number meant.
    scaled = values / feature.divisor + 1e-4
  elif feature.encoding == "sqrt_one_hot":
    scaled = np.sqrt(np.maximum(values, 0))
  else:
    scaled = values
  index = np.minimum(scaled, feature.size - 1).astype(np.int32)
  return np.where(values >= 0, index, NONE)


def _numbers(feature: Feature, values: np.ndarray) -> np.ndarray:
  """Returns the digits or the numbers [n, size] of a feature, or 0."""
  values = np.maximum(values, 0)
  if feature.encoding == "digits":
    whole = np.minimum(values, 2**feature.size - 1).astype(np.int32)
    return whole >> np.arange(feature.size) & 1
  return values
