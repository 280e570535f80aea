"""Tests of recorded observations in files and records."""

import json
import os
import pickle

import hypothesis
import numpy as np
import pytest
import task_helpers
from hypothesis import strategies as st

from configs import starcraft
from perceiver_jax.data.core import records
from perceiver_jax.data.starcraft import features, observations
from perceiver_jax.errors import UserError

UNIT_TYPES = ["unknown", "Marine", "SCV"]
ACTIONS = ["Attack", "Move"]


def observation(number=0, count=4):
  rng = np.random.default_rng(number)
  return {
    "unit_type": rng.integers(0, 3, count).astype(np.int32),
    "alliance": rng.integers(1, 5, count).astype(np.int8),
    "x": rng.uniform(0, 200, count).astype(np.float32),
    "y": np.full(count, number, np.float32),
    "health": np.full(count, -1, np.int16),
    "action": np.int32(number % 2),
    "selected": np.int32(count - 1),
    "target": np.int32(-1),
  }


@pytest.fixture
def files(tmp_path):
  """Writes five replays of three observations as .npz files."""
  root = tmp_path / "observations"
  for replay in range(5):
    folder = root / f"game{replay}"
    folder.mkdir(parents=True)
    for number in range(3):
      np.savez(folder / f"{number}.npz", **observation(10 * replay + number))
  manifest = {"unit_types": UNIT_TYPES, "actions": ACTIONS}
  (root / "manifest.json").write_text(json.dumps(manifest))
  return root


@pytest.fixture
def shards(tmp_path):
  """Writes the same observations as records of two files."""
  root = tmp_path / "shards"
  root.mkdir()
  numbers = [10 * replay + i for replay in range(5) for i in range(3)]
  sizes = {}
  for name, part in (("a", numbers[:8]), ("b", numbers[8:])):
    name = f"{name}.array_record"
    made = (records.encode(observation(i)) for i in part)
    sizes[name] = records.write_records(root / name, made)
  records.write_json(
    root / "manifest.json",
    {
      "unit_types": UNIT_TYPES,
      "actions": ACTIONS,
      "files": sizes,
      "replays": [{"name": f"game{i}", "observations": 3} for i in range(5)],
    },
  )
  return root


def _sources(root, **arguments):
  make = observations.observation_files
  if root.name == "shards":
    make = observations.observation_shards
  return [make(root, split, **arguments) for split in observations.SPLITS]


def _replays(source):
  """Returns the replays that a source has observations of."""
  return {int(source[i]["y"][0]) // 10 for i in range(len(source))}


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_whole_replays_are_held_out(kind, request):
  root = request.getfixturevalue(kind)
  train, test = _sources(root, test_share=0.4)
  assert (len(train), len(test)) == (9, 6)
  assert _replays(train) | _replays(test) == set(range(5))
  assert not _replays(train) & _replays(test)
  for source in (train, pickle.loads(pickle.dumps(train))):
    assert source.class_names == tuple(ACTIONS)
    assert source.unit_type_names == tuple(UNIT_TYPES)
    assert source.group_names == ()
    found = source[4]
    expected = observation(int(found["y"][0]))
    assert found.pop("unreadable") == 0
    assert found.keys() == expected.keys()
    for name, array in expected.items():
      np.testing.assert_array_equal(found[name], array)
      assert found[name].dtype == array.dtype
    features.encode(found)


def test_files_and_records_hold_out_the_same_replays(files, shards):
  for a, b in zip(_sources(files), _sources(shards), strict=True):
    assert _replays(a) == _replays(b)
    assert len(a) == len(b)


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_the_task_trains_on_recorded_observations(kind, request):
  root = request.getfixturevalue(kind)
  leaves = {
    "data__source": kind,
    f"data__source_args__{kind}__directory": str(root),
    "model__decoder__num_actions": 2,
  }
  task = task_helpers.make_task(starcraft, **leaves)
  assert task.class_names == tuple(ACTIONS)
  assert task.metadata()["unit_type_names"] == tuple(UNIT_TYPES)
  assert task.num_train_examples() == 12
  (batch,) = task_helpers.train_batches(task, 1, 4)
  dummy = task.dummy_batch()
  for name in dummy.keys() - {"mask"}:
    assert batch[name].shape[1:] == dummy[name].shape[1:]
  assert batch["input_mask"].sum() == 4 * 4
  np.testing.assert_array_equal(batch["selected"], [3] * 4)


@hypothesis.given(
  st.sets(st.text(max_size=5), min_size=2, max_size=30),
  st.floats(0.01, 0.7),
)
def test_held_out_replays_depend_on_names_alone(names, share):
  tested = observations.held_out(sorted(names), share)
  assert tested == observations.held_out(sorted(names, reverse=True) * 2, share)
  assert 0 < len(tested) < len(names)
  assert tested <= names


@pytest.mark.parametrize(
  ("count", "share"), [(1, 0.1), (0, 0.1), (3, 1.0), (3, 0.99), (3, -0.5)]
)
def test_a_share_that_leaves_nothing_is_an_error(count, share):
  with pytest.raises(UserError, match="test_share"):
    observations.held_out([str(i) for i in range(count)], share)


def test_without_a_share_everything_is_for_training(files):
  train = observations.observation_files(files, "train", test_share=0.0)
  assert len(train) == 15


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"helth": np.zeros(4)}, r"unknown array 'helth'; .*health"),
    ({"x": None}, "lacks 'x'"),
    ({"target": None}, "lacks 'target'"),
    ({"x": np.zeros(3)}, r"'x' has shape \(3,\)"),
    ({"health": np.zeros((4, 1))}, r"'health' has shape \(4, 1\)"),
    ({"x": np.full(4, np.inf)}, "'x' has an infinite"),
    ({"x": np.full(4, np.nan)}, "'x' has a NaN"),
    ({"health": np.full(4, -np.inf)}, "'health' has an infinite"),
    ({"x": np.full(4, 1e300)}, "'x' has an infinite or too large value"),
    ({"x": np.full(4, 257)}, "'x' has 257; give values from 0 to 256"),
    ({"y": np.full(4, -1.0)}, "'y' has -1; give values from 0 to 256"),
    ({"unit_type": np.array(1)}, r"'unit_type' has shape \(\)"),
    ({"unit_type": np.full(4, 0.5)}, "'unit_type' has fractions"),
    ({"unit_type": np.full(4, -5)}, "'unit_type' has -5; .* from 0 on"),
    ({"health_ratio": np.full(4, 1.5)}, "'health_ratio' has 1.5; .* to 1"),
    ({"unit_type": np.full(4, 3)}, "'unit_type' has 3; .* 0 to 2"),
    ({"alliance": np.full(4, 5)}, "'alliance' is 5"),
    ({"action": np.int32(2)}, "action 2 and 2 classes"),
    ({"selected": np.int32(4)}, "selected 4 and 4 entities"),
    ({"target": np.int32(-2)}, "target -2"),
    ({"action": np.zeros(1, int)}, r"'action' is int64 \(1,\)"),
    ({"target": np.float32(1.5)}, r"'target' is float32 .*an integer"),
    ({"x": np.array(["a"] * 4)}, "'x' is <U1; give numbers"),
    ({"x": np.zeros(4, complex)}, "'x' is complex128"),
  ],
)
def test_an_impossible_observation_is_an_error_that_names_it(
  files, change, message
):
  changed = {**observation(), **change}
  changed = {k: v for k, v in changed.items() if v is not None}
  for path in files.glob("*/*.npz"):
    np.savez(path, **changed)
  with pytest.raises(UserError, match=message) as error:
    _sources(files)[0][0]
  assert "game" in str(error.value)
  assert ".npz" in str(error.value)


def test_an_observation_without_entities_is_legal(files):
  for path in files.glob("*/*.npz"):
    np.savez(path, **{**observation(count=0), "selected": -1})
  found = _sources(files)[0][0]
  assert features.pad(features.encode(found), 8)["input_mask"].sum() == 0


def test_damaged_files_are_named_and_replaced(files, caplog):
  train, _ = _sources(files)
  names = train.source.names
  (files / names[1]).write_bytes(b"no zip file")
  whole = (files / names[2]).read_bytes()
  (files / names[2]).write_bytes(whole[: len(whole) // 2])
  with caplog.at_level("WARNING"):
    found = train[1]
  np.testing.assert_array_equal(found["y"], train[3]["y"])
  assert found["unreadable"] == 1
  assert names[1] in caplog.text
  assert names[2] in caplog.text
  (files / names[0]).unlink()
  assert train[0]["unreadable"] == 1


def test_a_pipe_is_not_waited_for(files, caplog):
  train, _ = _sources(files)
  path = files / train.source.names[0]
  path.unlink()
  os.mkfifo(path)
  with caplog.at_level("WARNING"):
    assert train[0]["unreadable"] == 1
  assert "pipe" in caplog.text


def test_python_objects_in_a_file_are_not_unpickled(files, caplog):
  train, _ = _sources(files)
  path = files / train.source.names[0]
  np.savez(path, **{**observation(), "x": np.array([{}] * 4, object)})
  with caplog.at_level("WARNING"):
    assert train[0]["unreadable"] == 1
  assert "allow_pickle" in caplog.text


def test_damaged_records_are_named_and_replaced(shards, caplog):
  train, _ = _sources(shards)
  with pytest.raises(UserError, match="train"):
    observations.observation_shards(shards, "validation")
  path = shards / "a.array_record"
  data = bytearray(path.read_bytes())
  data[600] ^= 255
  path.write_bytes(data)
  with caplog.at_level("WARNING"):
    flags = [train[i]["unreadable"] for i in range(len(train))]
  assert 0 < sum(flags) < len(train)
  assert "game" in caplog.text


def test_folders_that_can_not_be_read_are_refused(files, shards, tmp_path):
  for directory in ("", tmp_path / "none"):
    with pytest.raises(UserError, match=r"source_args\.files\.directory"):
      observations.observation_files(directory, "train")
    with pytest.raises(UserError, match=r"source_args\.shards\.directory"):
      observations.observation_shards(directory, "train")
  with pytest.raises(UserError, match=r"config\.data\.source=files"):
    observations.observation_shards(files, "train")
  with pytest.raises(UserError, match=r"no file REPLAY/\*\.npz"):
    observations.observation_files(shards, "train")
  (shards / "b.array_record").unlink()
  with pytest.raises(UserError, match=r"lacks .*b\.array_record"):
    observations.observation_shards(shards, "train")
  np.savez(files / "loose.npz", **observation())
  with pytest.raises(UserError, match=r"loose\.npz.*folder of its own"):
    observations.observation_files(files, "train")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"unit_types": [1]}'])
def test_a_damaged_manifest_is_named(files, text):
  (files / "manifest.json").write_text(text)
  with pytest.raises(UserError, match=r"manifest\.json"):
    observations.observation_files(files, "train")
