"""Tests of the observations of replays."""

import numpy as np
import pytest
import tiny_replays as tiny

from perceiver_jax.data.starcraft import replays
from perceiver_jax.errors import UserError

STEP = 100 / replays.STEPS_PER_SECOND
SETUPS = [tiny.setup(1, 0, 0), tiny.setup(2, 1, 1)]
UNITS = [
  tiny.born(0, 1, "CommandCenter", 1, 30, 40),
  tiny.born(0, 2, "Marine", 1, 31, 41),
  tiny.born(0, 3, "SCV", 1, 33, 41),
  tiny.born(0, 4, "BeaconArmy", 1, 0, 0),
  tiny.born(0, 5, "Zergling", 2, 100, 90),
  tiny.born(0, 6, "MineralField", 0, 10, 10),
]


def read(tracked=(), inputs=(), **options):
  """Returns the observations of a replay of these events."""
  max_entities = options.pop("max_entities", 512)
  data = tiny.replay([*SETUPS, *UNITS, *tracked], inputs, **options)
  return replays.read(data, STEP, max_entities).observations


def test_an_observation_has_the_units_at_the_start_of_its_interval():
  (found,) = read(
    [tiny.died(101, 5)],
    [tiny.select(60, 0, [2, 3]), tiny.command(130, 0, target=5)],
  )
  assert found.unit_types == [
    "CommandCenter", "Marine", "SCV", "Zergling", "MineralField",
  ]  # fmt: skip
  np.testing.assert_array_equal(found.arrays["alliance"], [1, 1, 1, 4, 3])
  np.testing.assert_array_equal(found.arrays["x"], [30, 31, 33, 100, 10])
  np.testing.assert_array_equal(found.arrays["y"], [40, 41, 41, 90, 10])
  np.testing.assert_array_equal(found.arrays["was_selected"], [0, 1, 1, 0, 0])
  assert found.action == "Attack"
  assert (found.selected, found.target) == (1, 3)


def test_only_the_first_command_of_an_interval_counts():
  found = read(
    inputs=[
      tiny.command(40, 0),  # There is no earlier state to observe.
      tiny.select(90, 0, [3]),
      tiny.command(110, 0, tiny.MOVE, point=(3.5, 4)),
      tiny.command(120, 0, target=5),
      tiny.command(200, 0),  # Still of the same interval.
      tiny.command(201, 0, None, target=6),
      tiny.command(950, 0, tiny.UNNAMED),
    ]
  )
  assert [each.action for each in found] == ["Move", "RightClick", None]
  assert [each.target for each in found] == [-1, 4, -1]
  # At step 200 the last target was that of step 120, and none since.
  was_targeted = [each.arrays["was_targeted"].tolist() for each in found]
  assert was_targeted == [[0] * 5, [0] * 5, [0, 0, 0, 0, 1]]


def test_units_change():
  found = read(
    [
      tiny.begun(90, 7, "Barracks", 1, 35, 45),
      tiny.moved(210, [(2, 60, 61), (5, 62, 63)]),
      tiny.done(220, 7),
      tiny.type_changed(310, 7, "BarracksFlying"),
      tiny.owner_changed(320, 2, 2),
      tiny.died(420, 7),
      # Another unit gets the index of one that died.
      tiny.born(430, 7, "Marine", 1, 1, 2),
      tiny.moved(440, [(7, 9, 8), (99, 1, 1)]),
      tiny.died(440, 98),
    ],
    [tiny.command(step, 0) for step in (150, 250, 350, 450, 550)],
  )

  def unit(number, name):
    each = found[number]
    row = each.unit_types.index(name)
    return {key: values[row] for key, values in each.arrays.items()}

  assert np.isnan(unit(0, "Barracks")["build_progress"])
  assert unit(0, "Marine")["x"] == 31
  assert np.isnan(unit(1, "Barracks")["build_progress"])
  assert unit(2, "Barracks")["build_progress"] == 1
  assert (unit(2, "Marine")["x"], unit(2, "Zergling")["y"]) == (60, 63)
  assert unit(3, "BarracksFlying")["alliance"] == 1
  assert unit(3, "Marine")["alliance"] == 4
  assert "BarracksFlying" not in found[4].unit_types
  marines = [i for i, name in enumerate(found[4].unit_types)
             if name == "Marine"]  # fmt: skip
  xs = {found[4].arrays["x"][i] for i in marines}
  assert xs == {60, 9}


@pytest.mark.parametrize(
  ("events", "selected"),
  [
    ([], [1, 2, 3]),
    ([tiny.select(20, 0, [5])], [1, 2, 3, 5]),
    ([tiny.select(20, 0, [5], ("Mask", [1, 1, 1]))], [5]),
    ([tiny.select(20, 0, [], ("Mask", [0, 1]))], [1, 3]),
    ([tiny.select(20, 0, [], ("OneIndices", [0, 2]))], [2]),
    ([tiny.select(20, 0, [5], ("ZeroIndices", [1]))], [2, 5]),
    ([tiny.select(20, 0, [5], group=4)], [1, 2, 3]),
    ([tiny.select(20, 0, [5], group=4), tiny.control_group(21, 0, 4, 2)], [5]),
    (
      [
        tiny.control_group(20, 0, 4, 0),
        tiny.select(21, 0, [5], ("ZeroIndices", [])),
        tiny.control_group(22, 0, 4, 1),
        tiny.control_group(23, 0, 4, 2, ("OneIndices", [0])),
      ],
      [2, 3, 5],
    ),
    (
      [
        tiny.control_group(20, 0, 4, 0),
        tiny.control_group(21, 0, 4, 3),
        tiny.control_group(22, 0, 4, 2),
      ],
      [],
    ),
    # Another user's selection is another.
    ([tiny.select(20, 1, [5])], [1, 2, 3]),
  ],
)
def test_selections_and_control_groups_are_followed(events, selected):
  inputs = [tiny.select(10, 0, [1, 2, 3]), *events, tiny.command(150, 0)]
  (found,) = read(inputs=inputs)
  rows = {1: 0, 2: 1, 3: 2, 5: 3}
  expected = np.zeros(5)
  expected[[rows[i] for i in selected]] = 1
  np.testing.assert_array_equal(found.arrays["was_selected"], expected)
  assert found.selected == (rows[selected[0]] if selected else -1)


def test_units_of_higher_priority_are_selected_first():
  (found,) = read(
    inputs=[
      tiny.select(10, 0, [1], unit_type=tiny.SCV),
      tiny.select(20, 0, [2], unit_type=tiny.MARINE),
      tiny.command(150, 0),
    ]
  )
  # The types have the same priority here, so the lower type comes first.
  assert found.unit_types[found.selected] == "CommandCenter"


def test_each_human_sees_the_units_as_its_own_or_others():
  inputs = [tiny.command(150, 0), tiny.command(151, 1), tiny.command(152, 2)]
  first, second, third = read(
    [tiny.setup(3, 2, 2), tiny.setup(4, None, 3, 2),
     tiny.born(0, 9, "Probe", 3, 1, 1), tiny.born(0, 8, "Drone", 4, 2, 2)],
    inputs,
    names=("Ann", "Bob", "Cid", "computer"),
    teams=(0, 1, 0, 1),
  )  # fmt: skip
  for found, own, allied in (
    (first, "Marine", "Probe"),
    (second, "Zergling", "Drone"),
    (third, "Probe", "Marine"),
  ):
    alliance = dict(
      zip(found.unit_types, found.arrays["alliance"], strict=True)
    )
    assert alliance[own] == 1
    assert alliance[allied] == 2
    assert alliance["MineralField"] == 3
    assert set(alliance.values()) == {1, 2, 3, 4}
    # Own units come first, neutral ones last.
    order = [{1: 0, 2: 1, 4: 2, 3: 3}[i] for i in found.arrays["alliance"]]
    assert order == sorted(order)


def test_units_beyond_the_limit_are_left_out():
  (found,) = read(
    inputs=[tiny.select(10, 0, [3]), tiny.command(150, 0, target=5)],
    max_entities=2,
  )
  assert found.unit_types == ["CommandCenter", "Marine"]
  assert (found.selected, found.target) == (-1, -1)


def test_the_recordings_of_a_game_share_its_key():
  def key(**options):
    data = tiny.replay([*SETUPS, *UNITS], [tiny.command(5, 0)], **options)
    return replays.read(data, STEP, 512).key

  assert key() == key(build=tiny.BUILD + 1) != key(game=2)
  assert key() != key(names=("Ann", "Bob", "Cid"), teams=(0, 1, 1))


def test_every_truncation_is_refused():
  data = tiny.replay([*SETUPS, *UNITS], [tiny.command(150, 0)])
  assert replays.read(data, STEP, 512).release == "5.0.2.80949"
  for length in [*range(0, len(data) - 1, 131), len(data) - 1]:
    with pytest.raises(UserError, match="can't be parsed: "):
      replays.read(data[:length], STEP, 512)


@pytest.mark.parametrize("part", ["archive", "tracker_events", "game_events"])
def test_random_damage_is_refused_or_harmless(part, monkeypatch):
  def damaged(data):
    changed = bytearray(data)
    for place in rng.integers(0, len(data), 2):
      changed[place] = rng.integers(256)
    return bytes(changed)

  rng = np.random.default_rng(0)
  if part != "archive":
    # Otherwise the checksums of the compression would detect all damage.
    encode = getattr(tiny, part)
    monkeypatch.setattr(tiny, part, lambda events: damaged(encode(events)))
  reasons = set()
  for _ in range(100):
    inputs = [tiny.select(20, 0, [2, 3]), tiny.command(150, 0, target=5)]
    data = tiny.replay([*SETUPS, *UNITS], inputs)
    try:
      replays.read(damaged(data) if part == "archive" else data, STEP, 512)
    except UserError as error:
      reasons.add(str(error))
  assert len(reasons) > 5


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"build": 23925}, r"^is of version 5\.0\.2\.23925; versions before 2\.1"),
    ({"inputs": []}, "^has no game events"),
    ({"tracked": []}, "^has no tracker events"),
  ],
)
def test_a_replay_without_what_is_needed_is_refused(changes, message):
  given = {
    "tracked": [*SETUPS, *UNITS],
    "inputs": [tiny.command(9, 0)],
    **changes,
  }
  with pytest.raises(UserError, match=message):
    replays.read(tiny.replay(**given), STEP, 512)


def test_no_file_is_opened_and_nothing_downloaded(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("opened")

  data = tiny.replay([*SETUPS, *UNITS], [tiny.command(150, 0)])
  replays.read(data, STEP, 512)  # Imports what is imported once.
  for name in ("builtins.open", "socket.socket", "pickle.loads", "pickle.load"):
    monkeypatch.setattr(name, refuse)
  assert len(replays.read(data, STEP, 512).observations) == 1
