"""Tests of prepared examples in ArrayRecord files."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from perceiver_jax import limits
from perceiver_jax.data.core import records
from perceiver_jax.errors import UserError

ARRAYS = {
  "x": np.arange(300, dtype=np.float32),
  "name": np.array("Márquez"),
  "none": np.zeros((0, 3), np.int8),
}


@pytest.fixture
def files(tmp_path):
  """Writes two files of two records and one."""
  sizes = {}
  for name, numbers in (("a", (0, 1)), ("b", (2,))):
    path = tmp_path / f"{name}.array_record"
    made = [records.encode({"x": np.array(k)}) for k in numbers]
    sizes[str(path)] = records.write_records(path, made)
  return sizes


def test_arrays_keep_their_values_shapes_and_types():
  decoded = records.decode(records.encode(ARRAYS))
  assert decoded.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    assert decoded[name].dtype == array.dtype
    np.testing.assert_array_equal(decoded[name], array)


def test_every_truncation_and_every_flipped_byte_is_an_error_or_harmless():
  whole = records.encode(ARRAYS)
  for length in range(0, len(whole), 7):
    with pytest.raises(UserError, match="damaged"):
      records.decode(whole[:length])
  for place in range(0, len(whole), 3):
    changed = bytearray(whole)
    changed[place] ^= 0x55
    try:
      decoded = records.decode(bytes(changed))
    except UserError:
      continue
    # Some bytes, such as dates, have no meaning for the arrays.
    for name in decoded.keys() & ARRAYS.keys():
      np.testing.assert_array_equal(decoded[name], ARRAYS[name])


def test_python_objects_are_never_unpickled(tmp_path):
  class Harmful:
    def __reduce__(self):
      return open, (str(tmp_path / "made"), "w")

  file = io.BytesIO()
  np.savez(file, x=np.array([Harmful()], object))
  with pytest.raises(UserError, match=r"damaged .*allow_pickle"):
    records.decode(file.getvalue())
  with pytest.raises(UserError, match="damaged"):
    records.decode(pickle.dumps(Harmful()))
  assert not (tmp_path / "made").exists()


def test_arrays_beyond_the_limit_are_not_read():
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("x.npy", bytes(10**7))
  assert len(file.getvalue()) < 20_000
  with pytest.raises(UserError, match=r"10,000,000 bytes, and at most 1,000"):
    records.decode(file.getvalue(), max_bytes=1000)


def test_records_are_numbered_across_files(files):
  source = records.Records(files)
  for each in (source, pickle.loads(pickle.dumps(source))):
    assert len(each) == 3
    numbers = [int(records.decode(each[i])["x"]) for i in range(3)]
    assert numbers == [0, 1, 2]
  assert [source.file_of(i) for i in range(3)] == [
    name for name, count in files.items() for _ in range(count)
  ]


def test_a_file_with_another_number_of_records_is_named(files):
  first, second = files
  records.Records(files).check_files()
  with pytest.raises(UserError, match=r"1 of 2 files of records .*b\.array"):
    records.Records({first: 2, second: 2}).check_files()


def test_a_file_without_records_is_not_written(tmp_path):
  assert records.write_records(tmp_path / "a", iter(())) == 0
  assert not list(tmp_path.iterdir())


def test_an_unreadable_json_file_is_named(tmp_path):
  path = tmp_path / "index.json"
  records.write_json(path, {"a": [1]})
  assert records.read_json(path) == {"a": [1]}
  path.write_text("{")
  for missing in (path, tmp_path / "other.json"):
    with pytest.raises(UserError, match=missing.name):
      records.read_json(missing)


def _split(folder, **changes):
  """Writes a split of one record, with changes of its manifest."""
  records.write_records(folder / "a", [records.encode(ARRAYS)])
  contents = {
    "files": {"a": 1}, "names": ["x"], "labels": [0], "class_names": ["c"]
  }  # fmt: skip
  records.write_json(folder / "train.json", {**contents, **changes})
  return records.open_split(folder, "train", "config.leaf", "scripts.prepare")


def test_a_split_is_opened(tmp_path):
  contents, stored = _split(tmp_path)
  assert contents["names"] == ["x"]
  assert len(stored) == 1
  _split(tmp_path, labels=[[0, 0]])  # A clip may have several labels.


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"files": {}}, "lists no 'files'"),
    ({"files": ["a"]}, "lists no 'files'"),
    ({"files": {"../a": 1}}, r"'\.\./a'; files lie in its folder"),
    ({"files": {"/etc/passwd": 1}}, "'/etc/passwd'; files lie in its"),
    ({"files": {"..": 1}}, r"'\.\.'; files lie in its"),
    ({"files": {"a": "1"}}, "lists '1' records for 'a'"),
    ({"files": {"a": -1}}, "lists -1 records for 'a'"),
    ({"files": {"a": 2**63}}, "lists 9223372036854775808 records for 'a'"),
    ({"files": {"a": True}}, "lists True records for 'a'"),
    ({"names": None}, "no list of names 'names'"),
    ({"names": [1]}, "no list of names 'names'"),
    ({"class_names": {}}, "no list of names 'class_names'"),
    ({"labels": [0, 0]}, "a label for each of its 1 names"),
    ({"labels": 0}, "a label for each of its 1 names"),
    ({"labels": [1]}, "has the label 1, and 1 'class_names'"),
    ({"labels": [[0, -1]]}, "has the label -1"),
    ({"labels": [0.5]}, "has the label 0.5"),
    ({"names": [], "labels": []}, "0 labels and files of 1"),
  ],
)
def test_damaged_manifests_are_refused(tmp_path, changes, message):
  with pytest.raises(UserError, match=f"train.json.*{message}"):
    _split(tmp_path, **changes)


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": {}}', "3", "null"])
def test_manifests_without_files_are_refused(tmp_path, text):
  (tmp_path / "train.json").write_text(text)
  with pytest.raises(UserError, match=r"train\.json' lists no 'files'"):
    records.open_split(tmp_path, "train", "config.leaf", "scripts.prepare")


def test_manifests_are_of_limited_size_and_regular_files(tmp_path, monkeypatch):
  path = tmp_path / "index.json"
  path.write_text("[1, 2, 3]")
  monkeypatch.setattr(limits, "MAX_INDEX_BYTES", 5)
  with pytest.raises(UserError, match="more than 5 bytes"):
    records.read_json(path)
  os.mkfifo(tmp_path / "pipe.json")
  with pytest.raises(UserError, match="it is a pipe"):
    records.read_json(tmp_path / "pipe.json")
