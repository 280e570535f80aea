"""Tests of preparing StarCraft II replays."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest
import tiny_replays as tiny

from perceiver_jax.data.core import records
from perceiver_jax.data.starcraft import (
  features,
  observations,
  replay_records,
  replays,
)
from perceiver_jax.errors import UserError

TRACKED = [
  tiny.setup(1, 0, 0),
  tiny.setup(2, 1, 1),
  tiny.born(0, 1, "Marine", 1, 30, 40),
  tiny.born(0, 2, "Marine", 1, 31, 41),
  tiny.born(0, 3, "Zergling", 2, 100, 90),
  tiny.begun(0, 4, "Barracks", 1, 20, 21),
]


def _replay(game, extra=(), **options):
  inputs = [tiny.select(20, 0, [2])]
  for step in range(150, 950, 100):
    inputs.append(tiny.command(step, 0, target=3))
    inputs.append(tiny.command(step + 7, 1, tiny.MOVE, point=(4, 5)))
  return tiny.replay([*TRACKED, *extra], inputs, game=game, **options)


@pytest.fixture
def folder(tmp_path):
  """Writes three games, one recorded twice, and three files that are bad."""
  root = tmp_path / "games"
  (root / "old").mkdir(parents=True)
  (root / "one.SC2Replay").write_bytes(_replay(1))
  (root / "again.SC2Replay").write_bytes(_replay(1, build=tiny.BUILD + 1))
  (root / "two.sc2replay").write_bytes(_replay(2))
  more = [tiny.born(5, 5, "Medivac", 0, 1, 1)]
  (root / "old" / "three.SC2Replay").write_bytes(_replay(3, more))
  (root / "cut.SC2Replay").write_bytes(_replay(4)[:-300])
  (root / "none.SC2Replay").write_bytes(b"")
  (root / "old" / "beta.SC2Replay").write_bytes(_replay(5, build=20000))
  (root / "notes.txt").write_text("no replay")
  return root


def _flags(folder, output, *more):
  return (
    "data.prepare_replays", f"--replays={folder}", f"--output={output}",
    "--every_seconds=4.4642857", *more,
  )  # fmt: skip


def _manifest(output):
  return json.loads((output / "manifest.json").read_text())


@pytest.mark.usefixtures("in_process")
def test_replays_become_observations_with_numbered_names(
  script, folder, tmp_path
):
  out = tmp_path / "out"
  done = script(*_flags(folder, out))
  assert done.status == 1, done  # Some replays are unreadable.
  assert "3 replays; 3 can't be read, 1 are of the same game" in done.out
  assert "48 observations of 4 units on average, 0 of them damaged" in done.out
  manifest = _manifest(out)
  # The most frequent comes first, then the order is that of the alphabet.
  assert manifest["unit_types"] == [
    "unknown", "Marine", "Barracks", "Zergling", "Medivac",
  ]  # fmt: skip
  assert manifest["actions"] == ["Attack", "Move"]
  assert sum(manifest["files"].values()) == 48
  assert manifest["duplicates"] == {"one.SC2Replay": "again.SC2Replay"}
  bad = " ".join(sorted(manifest["bad"]))
  for name, reason in (
    ("cut.SC2Replay", "can't be parsed"),
    ("none.SC2Replay", "can't be parsed"),
    ("old/beta.SC2Replay", r"versions before 2.1"),
  ):
    assert f"{name!r} " in bad
    assert f"{name!r}" in done.out
    assert reason in bad
  counts = {each["name"]: each["observations"] for each in manifest["replays"]}
  assert counts == dict.fromkeys(
    ("again.SC2Replay", "old/three.SC2Replay", "two.sc2replay"), 16
  )
  parts = [
    observations.observation_shards(out, split) for split in ("train", "test")
  ]
  assert [len(part) for part in parts] == [32, 16]
  train = parts[0]
  assert train.class_names == ("Attack", "Move")
  for i in range(len(train)):
    found = train[i]
    assert found["unreadable"] == 0
    names = [train.unit_type_names[k] for k in found["unit_type"]]
    own = features.ALLIANCES.index("self")
    if found["action"] == 0:
      assert names[found["selected"]] == "Marine"
      assert names[found["target"]] == "Zergling"
      assert found["alliance"][found["selected"]] == own
    else:
      assert (found["selected"], found["target"]) == (-1, -1)
    encoded = features.pad(features.encode(found), 16)
    assert encoded["input_mask"].sum() == len(names)


@pytest.mark.usefixtures("in_process")
def test_the_same_command_writes_the_same_files(script, folder, tmp_path):
  out, other = tmp_path / "out", tmp_path / "other"
  script(*_flags(folder, out))
  whole = {p.name: p.read_bytes() for p in out.iterdir()}
  read = {p: p.stat().st_mtime_ns for p in out.glob("replays*")}
  script(*_flags(folder, out))
  assert {p.name: p.read_bytes() for p in out.iterdir()} == whole
  # Replays are not read again.
  assert {p: p.stat().st_mtime_ns for p in out.glob("replays*")} == read
  # The folder may have moved.
  script(*_flags(folder.rename(tmp_path / "moved"), other))
  assert _manifest(other) == _manifest(out)


@pytest.mark.usefixtures("in_process")
def test_an_interrupted_run_resumes_with_the_same_numbers(
  script, folder, tmp_path, monkeypatch
):
  out, whole = tmp_path / "out", tmp_path / "whole"
  for number in range(20):
    (folder / f"{number}.SC2Replay").write_bytes(_replay(10 + number))
  script(*_flags(folder, whole))
  read, calls = replays.read, []

  def stops(*args):
    calls.append(1)
    if len(calls) == 20:
      raise KeyboardInterrupt
    return read(*args)

  monkeypatch.setattr(replays, "read", stops)
  assert script(*_flags(folder, out)).status == 130
  assert not (out / "manifest.json").exists()
  first = len(calls)
  assert script(*_flags(folder, out)).status == 1
  assert len(calls) < first + 26  # Some of the 26 were read before.
  assert _manifest(out) == _manifest(whole)
  for name in _manifest(whole)["files"]:
    assert (out / name).read_bytes() == (whole / name).read_bytes()
  assert not list(out.glob(".*"))


@pytest.mark.usefixtures("in_process")
def test_a_second_data_set_can_have_the_numbers_of_the_first(
  script, folder, tmp_path
):
  out, other = tmp_path / "out", tmp_path / "other"
  script(*_flags(folder, out))
  games = tmp_path / "more"
  games.mkdir()
  for game in (8, 9):
    more = [tiny.born(5, 5, "Larva", 2, 1, 1)] * 5
    (games / f"{game}.SC2Replay").write_bytes(_replay(game, more))
  flags = _flags(f"{games}/*", other, f"--names={out / 'manifest.json'}")
  assert script(*flags).status == 0
  source = observations.observation_shards(other, "train")
  assert source.unit_type_names == tuple(_manifest(out)["unit_types"])
  # Its rows are in the order own, enemy, neutral; a Larva has no name.
  types = sorted(source[0]["unit_type"].tolist())
  assert types.count(0) == 1
  assert 1 in types


@pytest.mark.usefixtures("in_process")
def test_damaged_outputs_are_found_and_written_again(
  script, refused, folder, tmp_path
):
  out = tmp_path / "out"
  script(*_flags(folder, out))
  path = out / "observations-00000.array_record"
  whole = path.read_bytes()
  changed = bytearray(whole)
  changed[3000] ^= 255
  path.write_bytes(bytes(changed))
  checked = script(*_flags(folder, out, "--check"))
  assert checked.status == 1
  assert ", 0 of them damaged" not in checked.out
  path.write_bytes(whole[:100])
  refused(*_flags(folder, out, "--check"), parts=["damaged", path.name])
  path.unlink()
  refused(*_flags(folder, out, "--check"), parts=["lacks", path.name])
  script(*_flags(folder, out))
  assert path.read_bytes() == whole
  refused(*_flags(folder, out, "--max_entities=9"), parts=["other settings"])


@pytest.mark.parametrize(
  ("part", "tail", "limit", "reason"),
  [
    # Many events, and many bytes, in few.
    (
      "tracker_events",
      60_000 * tiny.tracker_events([tiny.moved(0, [(1, 2, 3)])]),
      {"max_seconds": 0.1},
      "takes more than 0.1 s",
    ),
    ("game_events", bytes(10**8), {"max_memory_mb": 50.0}, "MemoryError"),
    ("game_events", b"", {"max_file_mb": 0.001}, "more than 0.001 MB"),
  ],
)
def test_a_replay_that_would_take_too_much_is_left_out(
  tmp_path, monkeypatch, part, tail, limit, reason
):
  encode = getattr(tiny, part)
  monkeypatch.setattr(tiny, part, lambda events: encode(events) + tail)
  path = tmp_path / "bomb.SC2Replay"
  path.write_bytes(_replay(20))
  assert path.stat().st_size < 200_000
  item = replay_records.Replay(str(path), "bomb")
  settings = replay_records.Settings(4.5, 512, 60.0, 2.0, 2000.0)
  with pytest.raises(UserError, match=f"'bomb' .*{reason}"):
    replay_records.encode(settings._replace(**limit), item)


@pytest.mark.usefixtures("in_process")
def test_with_more_types_than_a_model_knows_the_rarest_are_unknown(
  script, tmp_path
):
  games = tmp_path / "games"
  games.mkdir()
  many = [
    tiny.born(0, 10 + i, f"Type{i:03}", 0, i % 200, 5) for i in range(300)
  ]
  for game in (1, 2):
    (games / f"{game}.SC2Replay").write_bytes(_replay(game, many))
  out = tmp_path / "out"
  assert script(*_flags(games, out)).status == 0
  source = observations.observation_shards(out, "train")
  assert len(source.unit_type_names) == 256
  found = source[0]
  features.encode(found)
  assert np.count_nonzero(found["unit_type"] == 0) == 303 - 255


@pytest.mark.usefixtures("in_process")
def test_wrong_flags_are_refused(script, refused, folder, tmp_path):
  out = tmp_path / "out"
  refused("data.prepare_replays", "--replays=x", parts=["--output=OUT"])
  refused("data.prepare_replays", f"--output={out}", parts=["--replays=DIR"])
  empty = tmp_path / "empty"
  empty.mkdir()
  for pattern in (empty, tmp_path / "none", folder / "*.txt"):
    refused(*_flags(pattern, out), parts=["no *.SC2Replay file"])
  for path in folder.glob("*.[sS]*"):
    path.write_bytes(b"")
  shutil.rmtree(folder / "old")
  refused(*_flags(folder, out), parts=["none of the 5 replays", "can't be"])
  refused(*_flags(folder, empty, "--check"), parts=["--output", "manifest"])
  names = tmp_path / "names.json"
  names.write_text("{}")
  refused(
    *_flags(folder, tmp_path / "b", f"--names={names}"),
    parts=["names.json", "unit_types"],
  )


def test_replays_are_read_in_processes(script, folder, tmp_path):
  done = script(*_flags(folder, tmp_path / "out", "--num_workers=1"))
  assert done.status == 1, done
  assert "3 replays; 3 can't be read" in done.out
  assert not multiprocessing.active_children()


def test_a_record_of_a_replay_is_decoded_to_its_observations(folder):
  settings = replay_records.Settings(4.4642857, 2, 9.0, 9.0, 999.0)
  item = replay_records.Replay(str(folder / "one.SC2Replay"), "one")
  info, found = replay_records.decode(replay_records.encode(settings, item))
  assert info["name"] == "one"
  assert info["release"] == "5.0.2.80949"
  assert len(found) == len(info["actions"]) == 16
  game = replays.read((folder / "one.SC2Replay").read_bytes(), 4.4642857, 2)
  for each, expected in zip(found, game.observations, strict=True):
    names = [info["unit_types"][k] for k in each["unit_type"]]
    assert names == expected.unit_types
    for key, array in expected.arrays.items():
      np.testing.assert_array_equal(each[key], array)
  with pytest.raises(UserError, match="damaged"):
    records.decode(replay_records.encode(settings, item)[:-9])
