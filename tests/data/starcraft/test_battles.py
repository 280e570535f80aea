"""Tests of generated battles."""

import numpy as np
import pytest

from perceiver_jax.data.starcraft import battles, features, sources
from perceiver_jax.errors import UserError


def _distance(battle, a, b):
  return np.hypot(
    battle["x"][a] - battle["x"][b], battle["y"][a] - battle["y"][b]
  )


def _answer(battle):
  """Returns the targets by the rules of the module, unit by unit."""
  units = range(len(battle["unit_type"]))
  kind = [battles.UNIT_TYPES[t] for t in battle["unit_type"]]
  (commander,) = (u for u in units if kind[u] == "commander")
  (ally,) = (u for u in units if battle["was_targeted"][u])
  enemies = [u for u in units if battle["alliance"][u] == 4]
  near = [u for u in enemies if _distance(battle, u, commander) < battles.RANGE]
  rule = battles.RULES[battle["order_1"][commander] - battles.FIRST_ORDER]
  target = {
    "nearest": lambda: min(near, key=lambda u: _distance(battle, u, commander)),
    "weakest": lambda: min(near, key=lambda u: battle["health"][u]),
    "protect": lambda: min(enemies, key=lambda u: _distance(battle, u, ally)),
  }[rule]()
  ready = [
    u
    for u in units
    if kind[u] == "marine" and battle["weapon_cooldown"][u] == 0
  ]
  kinds = [kind[u] for u in near]
  majority = max(set(kinds), key=kinds.count)
  return {
    "action": ("zergling", "hydralisk", "mutalisk").index(majority),
    "selected": min(ready, key=lambda u: _distance(battle, u, commander)),
    "target": target,
    "group": battles.RULES.index(rule),
  }


@pytest.mark.parametrize("split", ["train", "test"])
def test_targets_follow_the_rules(split):
  source = battles.battles(split)
  for index in range(300):
    battle = source[index]
    expected = _answer(battle)
    assert {name: battle[name] for name in expected} == expected


def _values(battle):
  """Returns the units to choose from and their values, for each choice."""
  units = np.arange(len(battle["x"]))
  (commander,) = np.flatnonzero(battle["unit_type"] == battles.COMMANDER)
  (ally,) = np.flatnonzero(battle["was_targeted"])
  distances = lambda center: np.array(
    [_distance(battle, u, center) for u in units]
  )
  enemies = battle["alliance"] == 4
  near = enemies & (distances(commander) < battles.RANGE)
  ready = (battle["unit_type"] == battles.MARINE) & (
    battle["weapon_cooldown"] == 0
  )
  return {
    "nearest": (enemies, distances(commander)),
    "weakest": (near, battle["health"]),
    "protect": (enemies, distances(ally)),
    "selected": (ready, distances(commander)),
  }


def test_answers_are_clear():
  source = battles.battles("test")
  for index in range(200):
    battle = source[index]
    values = _values(battle)
    for name in (battles.RULES[battle["group"]], "selected"):
      candidates, value = values[name]
      first, *others = np.sort(value[candidates])
      margin = battles.MARGIN_DISTANCE
      if name == "weakest":
        margin = battles.MARGIN_HEALTH
      assert all(other - first >= margin - 1e-3 for other in others), name
    near, _ = values["weakest"]
    assert near.sum() >= battles.MIN_IN_RANGE
    counts = [
      np.sum(battle["unit_type"][near] == each) for each in battles.ENEMY_TYPES
    ]
    assert sorted(counts)[-1] > sorted(counts)[-2]
    enemies, distances = values["nearest"]
    border = np.abs(distances[enemies] - battles.RANGE)
    assert border.min() >= battles.MARGIN_DISTANCE / 2 - 1e-3


@pytest.mark.parametrize("sizes", [(12, 24), (16, 48)])
def test_the_nearest_enemy_does_not_answer_the_other_rules(sizes):
  source = battles.battles("test", *sizes)
  weakest, actions = [], []
  for index in range(600):
    battle = source[index]
    enemies, distances = _values(battle)["nearest"]
    nearest = np.where(enemies, distances, np.inf).argmin()
    kind = battles.ENEMY_TYPES.index(battle["unit_type"][nearest])
    actions.append(kind == battle["action"])
    if battles.RULES[battle["group"]] == "weakest":
      weakest.append(nearest == battle["target"])
  assert np.mean(weakest) < 0.5
  assert np.mean(actions) < 0.75


def test_a_battle_depends_on_its_seed_and_index_alone():
  source, again = battles.battles("train"), battles.battles("train")
  last = again[len(again) - 1]
  np.testing.assert_equal(source[-1], last)
  np.testing.assert_equal(source[5], again[5])
  other = battles.battles("train", seed=1)[5]
  assert not np.array_equal(other["x"], source[5]["x"])
  longer = battles.battles("train", num_train=100_000)[5]
  np.testing.assert_equal(longer, source[5])


def test_splits_have_no_battle_in_common():
  train, test = battles.battles("train"), battles.battles("test")
  positions = {train[i]["x"].tobytes() for i in range(2000)}
  assert not any(test[i]["x"].tobytes() in positions for i in range(2000))


def test_all_answers_and_sizes_occur():
  source = battles.battles("train", min_entities=12, max_entities=20)
  examples = [source[i] for i in range(1000)]
  sizes = {len(e["x"]) for e in examples}
  assert sizes == set(range(12, 21))
  for name, size in (("action", 3), ("group", 3)):
    shares = np.bincount([e[name] for e in examples]) / len(examples)
    assert shares.shape == (size,)
    assert shares.min() > 0.2
  # Shuffled: the place of an entity in the list says nothing.
  places = [e["target"] / len(e["x"]) for e in examples]
  assert 0.4 < np.mean(places) < 0.6


def test_a_battle_has_an_encoding():
  battle = battles.battles("test")[0]
  encoded = features.encode(battle)
  assert np.abs(encoded["positions"]).max() <= 1
  names = {f.name for f in features.FEATURES}
  targets = {*features.TARGETS, "group"}
  assert set(battle) - names == targets
  features.check_targets(battle, len(battles.ACTIONS))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"split": "validation"}, "unknown split 'validation'.*train, test"),
    ({"min_entities": 5}, "5 to 48 entities.*min_entities at least 11"),
    ({"max_entities": 15}, "16 to 15 entities"),
    ({"size": 3}, "takes: split, min_entities"),
  ],
)
def test_impossible_battles_are_named(arguments, message):
  with pytest.raises(UserError, match=message):
    sources.make_source("battles", **{"split": "train", **arguments})


def test_an_unknown_source_is_named():
  with pytest.raises(UserError, match=r"'battle'.*choose one of: battles"):
    sources.make_source("battle", split="train")
