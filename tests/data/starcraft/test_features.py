"""Tests of the features of entities."""

from pathlib import Path

import numpy as np
import pytest

from perceiver_jax.data.starcraft import features
from perceiver_jax.errors import UserError

_ROOT = Path(__file__).parents[3]


def _observation(count=3, **arrays):
  row = np.arange(count)
  return {
    "unit_type": row + 1,
    "alliance": row % 5,
    "x": row * 10.5,
    "y": row * 1.0,
    **arrays,
  }


def _names(encoded):
  """Returns the categories of each entity as (feature, index)."""
  starts, total = {}, 0
  for feature in features.FEATURES:
    if feature.is_categorical:
      starts[total] = feature.name
      total += feature.size
  named = []
  for row in encoded["categories"]:
    pairs = []
    for category in row[row >= 0]:
      start = max(s for s in starts if s <= category)
      pairs.append((starts[start], int(category - start)))
    named.append(pairs)
  return named


def test_only_known_values_have_a_category():
  health = np.array([np.nan, 17.0, 9000.0])
  shield = np.array([-1, 0, 1])
  encoded = features.encode(_observation(health=health, shield=shield))
  assert _names(encoded) == [
    [("unit_type", 1), ("alliance", 0)],
    [("unit_type", 2), ("alliance", 1), ("health", 4), ("shield", 0)],
    [("unit_type", 3), ("alliance", 2), ("health", 38), ("shield", 1)],
  ]


def test_one_array_has_two_encodings_and_a_divisor():
  progress = np.array([0.0, 0.3, 1.0], np.float32)
  encoded = features.encode(_observation(order_progress_1=progress))
  found = [dict(row)["order_progress_1"] for row in _names(encoded)]
  assert found == [0, 3, 9]
  assert sorted(encoded["numbers"].max(0))[-1] == 1
  assert np.float32(0.3) in encoded["numbers"][1]


def test_several_columns_share_their_categories():
  buffs = np.array([[3, -1], [7, 3], [-1, -1]])
  rows = _names(features.encode(_observation(buffs=buffs)))
  assert rows[0][2:] == [("buffs", 3)]
  assert rows[1][2:] == [("buffs", 7), ("buffs", 3)]
  assert rows[2][2:] == []


def test_positions_are_binary_digits_and_lie_between_the_borders():
  x = np.array([0.0, 5.9, 256.0])
  encoded = features.encode(_observation(x=x))
  before = sum(
    f.size
    for f in features.FEATURES[: [f.name for f in features.FEATURES].index("x")]
    if not f.is_categorical
  )
  digits = encoded["numbers"][:, before : before + 8]
  np.testing.assert_array_equal(digits @ 2 ** np.arange(8), [0, 5, 255])
  np.testing.assert_allclose(
    encoded["positions"][:, 0], [-1, 5.9 / 128 - 1, 1], rtol=1e-6
  )


def test_sizes_are_those_of_the_table():
  encoded = features.encode(_observation())
  assert encoded["numbers"].shape == (3, features.NUM_NUMBERS)
  last = max(f.size for f in features.FEATURES if f.name == "was_targeted")
  targeted = features.encode(_observation(was_targeted=np.full(3, last - 1)))
  assert targeted["categories"].max() == features.NUM_CATEGORIES - 1


@pytest.mark.parametrize("count", [0, 3, 4])
def test_padding_has_no_category(count):
  padded = features.pad(features.encode(_observation(count)), 4)
  np.testing.assert_array_equal(padded["input_mask"], np.arange(4) < count)
  assert (padded["categories"][count:] == features.NONE).all()
  assert padded["positions"].shape == (4, 2)


def test_too_many_entities_are_an_error():
  with pytest.raises(UserError, match=r"5 entities .* 4 slots.*num_entities"):
    features.pad(features.encode(_observation(5)), 4)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"unit_type": np.array([1, 2, 256])}, "'unit_type' is 256.*0 to 255"),
    ({"alliance": np.array([1, 2, 5])}, "'alliance' is 5; .*0 to 4"),
    ({"health": np.zeros(2)}, r"'health' has shape \(2,\).*\(3,\)"),
    ({"buffs": np.zeros(3)}, r"'buffs' has shape \(3,\).*\(3, 2\)"),
  ],
)
def test_impossible_values_are_named(arrays, message):
  with pytest.raises(UserError, match=message):
    features.encode(_observation(**arrays))


def test_a_missing_required_feature_is_named():
  observation = _observation()
  del observation["alliance"]
  with pytest.raises(UserError, match="lacks 'alliance'"):
    features.encode(observation)


def test_targets_are_checked():
  targets = {"action": 1, "selected": -1, "target": 2}
  features.check_targets(_observation(**targets), 2)
  with pytest.raises(UserError, match="lacks 'target'"):
    features.check_targets(_observation(action=0, selected=0), 2)
  with pytest.raises(UserError, match="action 2 and 2 classes"):
    features.check_targets(_observation(**targets | {"action": 2}), 2)
  with pytest.raises(UserError, match="target 3 and 3 entities"):
    features.check_targets(_observation(**targets | {"target": 3}), 2)


def _documented():
  """Returns the rows of the table in docs/starcraft.md."""
  kinds = {
    "one_hot": "one-hot, {}",
    "sqrt_one_hot": "one-hot of the square root, {}",
    "digits": "{} binary digits",
    "number": "{} numbers",
  }
  for feature in features.FEATURES:
    encoding = kinds[feature.encoding].format(feature.size)
    if encoding == "1 numbers":
      encoding = "the number"
    if feature.divisor != 1:
      encoding += f", after division by {feature.divisor:g}"
    cells = f"`{feature.name}`", feature.values, encoding, feature.source
    yield f"| {' | '.join(cells)} |"


def test_the_documentation_has_every_feature():
  lines = (_ROOT / "docs" / "starcraft.md").read_text("utf-8").splitlines()
  head = lines.index("| feature | stored values | encoding | source |")
  rows = list(_documented())
  assert lines[head + 2 : head + 2 + len(rows)] == rows, "\n".join(rows)
