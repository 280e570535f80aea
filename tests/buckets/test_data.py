"""Tests of data in a bucket, which is in memory, and of its local copies."""

import fcntl
import json

import numpy as np
import pytest
import tiny_tfds
from fsspec.implementations import memory

from perceiver_jax import files
from perceiver_jax.buckets import cache, store
from perceiver_jax.data.core import records, tfds
from perceiver_jax.data.images import codec, image_folder
from perceiver_jax.data.sequences.source import NUM_SPECIAL
from perceiver_jax.data.sequences.token_files import token_files
from perceiver_jax.data.text import corpora
from perceiver_jax.errors import UserError

_IMAGE = codec.encode_png(np.zeros((4, 4, 3), np.uint8))


def _upload(local, folder):
  """Copies a folder to the bucket."""
  for path in local.rglob("*"):
    if path.is_file():
      target = folder / path.relative_to(local).as_posix()
      files.write_bytes(target, path.read_bytes())


def _mark(folder):
  """Creates the empty object with which consoles mark a folder."""
  name = str(folder).removeprefix("gs:/") + "/"
  bucket = store.filesystem(folder)
  bucket.store[name] = memory.MemoryFile(bucket, name)


def test_only_what_has_changed_is_copied_again(memory_bucket):
  for name in ("a.txt", "b/c.txt"):
    files.write_text(memory_bucket / "data" / name, name)
  local = files.local_folder(f"{memory_bucket}/data")
  assert (local / "b" / "c.txt").read_text() == "b/c.txt"
  assert files.local_file(memory_bucket / "data" / "a.txt") == local / "a.txt"
  (local / "a.txt").chmod(0o444)
  before = (local / "a.txt").stat().st_ino
  files.write_text(memory_bucket / "data" / "b" / "c.txt", "changed")
  assert files.local_folder(f"{memory_bucket}/data") == local
  assert (local / "b" / "c.txt").read_text() == "changed"
  assert (local / "a.txt").stat().st_ino == before
  with pytest.raises(UserError, match=r"none can't be copied .*: No such file"):
    files.local_folder(f"{memory_bucket}/none")


def test_a_copy_that_failed_goes_on(memory_bucket, monkeypatch):
  for name in ("a", "b"):
    files.write_text(memory_bucket / "data" / name, name)
  bucket = type(store.filesystem(memory_bucket))
  get_file = bucket.get_file

  def fail(self, name, *args, **options):
    if name.endswith("b"):
      raise OSError(5, "broken")
    return get_file(self, name, *args, **options)

  with monkeypatch.context() as patch:
    patch.setattr(bucket, "get_file", fail)
    with pytest.raises(UserError, match="broken"):
      files.local_folder(f"{memory_bucket}/data")
  local = cache._cached(f"{memory_bucket}/data")
  before = (local / "a").stat().st_ino
  files.local_folder(f"{memory_bucket}/data")
  assert [(local / name).read_text() for name in "ab"] == ["a", "b"]
  assert (local / "a").stat().st_ino == before


def test_incomplete_files_of_dead_processes_are_removed(memory_bucket):
  left = cache._cached("gs://") / ".left"
  left.mkdir(parents=True)
  (left / "0").write_text("half")
  files.write_text(memory_bucket / "a", "1")
  with open(left.parent / ".lock", "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_SH)  # As another process that copies.
    files.local_file(memory_bucket / "a")
    assert (left / "0").exists()
  files.write_text(memory_bucket / "a", "changed")
  files.local_file(memory_bucket / "a")
  assert {path.name for path in left.parent.iterdir()} == {".lock", "bucket"}


def test_what_was_deleted_in_the_bucket_is_not_read(memory_bucket, tmp_path):
  data = memory_bucket / "images"
  for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
    files.write_bytes(data / "train" / name, _IMAGE)
  files.write_text(memory_bucket / "other.txt", "stays")
  other = files.local_file(memory_bucket / "other.txt")
  source = image_folder.image_folder(str(data), "train")
  assert (len(source), source.class_names) == (3, ("cat", "dog"))
  for name in ("cat/b.png", "dog/c.png"):
    (data / "train" / name).unlink()
  source = image_folder.image_folder(str(data), "train")
  assert (len(source), source.class_names) == (1, ("cat",))
  assert not (files.local_folder(str(data)) / "train" / "dog").exists()
  assert other.exists()


@pytest.mark.parametrize("copy", [files.local_folder, files.local_matches])
def test_a_file_and_a_folder_take_the_place_of_each_other(memory_bucket, copy):
  data = memory_bucket / "data"
  files.write_text(data / "a" / "b", "1")
  files.write_text(data / "c", "2")
  copy(str(data))
  for name in ("a/b", "c"):
    (data / name).unlink()
  if (data / "a").exists():  # The memory keeps empty folders.
    (data / "a").rmdir()
  files.write_text(data / "a", "3")
  files.write_text(data / "c" / "d", "4")
  copy(str(data))
  local = cache._cached(str(data))
  assert (local / "a").read_text() == "3"
  assert (local / "c" / "d").read_text() == "4"


def test_objects_that_mark_folders_are_not_copied(memory_bucket):
  data = memory_bucket / "data"
  files.write_text(data / "a" / "b.txt", "1")
  for folder in (data, data / "a", memory_bucket / "empty"):
    _mark(folder)
  local = files.local_folder(f"{data}")
  assert (local / "a" / "b.txt").read_text() == "1"
  for pattern in (f"{data}", f"{data}/**"):
    assert files.local_matches(pattern) == [str(local / "a" / "b.txt")]
  assert files.below(data, "") == [data / "a" / "b.txt"]
  assert files.local_matches(f"{memory_bucket}/empty") == []
  with pytest.raises(UserError, match=r"empty can't be copied .*: No such f"):
    files.local_folder(f"{memory_bucket}/empty")


def test_nothing_outside_the_cache_is_removed(memory_bucket, tmp_path):
  own = tmp_path / "own"
  for name in ("x.txt", "y/z.txt"):
    (own / name).parent.mkdir(parents=True, exist_ok=True)
    (own / name).write_text("mine")
  data = memory_bucket / "data"
  files.write_text(data / "y" / "a.txt", "1")
  local = files.local_folder(str(data))
  (local / "linked").symlink_to(own)
  (local / "x.txt").symlink_to(own / "x.txt")
  assert [path.name for path in files.local_folder(str(data)).iterdir()] == [
    "y"
  ]
  (local / "y" / "a.txt").unlink()
  (local / "y").rmdir()
  local.rmdir()
  local.symlink_to(own)
  with pytest.raises(UserError, match="is a link to another folder"):
    files.local_folder(str(data))
  assert {path.name for path in own.rglob("*")} == {"x.txt", "y", "z.txt"}
  assert (own / "y" / "z.txt").read_text() == "mine"


def test_names_that_lead_out_of_the_cache_are_refused(memory_bucket):
  with pytest.raises(OSError, match=r"name of an object contains '\.\.'"):
    cache._cached("gs://bucket/a/../../../../b")


def test_records_and_texts_are_read_from_copies(memory_bucket):
  arrays = {"x": np.arange(3)}
  folder = memory_bucket / "prepared"
  with files.replacing(folder / "train-0.array_record") as partial:
    records.write_records(partial, [records.encode(arrays)] * 2)
  contents = {
    "files": {"train-0.array_record": 2},
    "names": ["a", "b"],
    "class_names": ["c"],
    "labels": [0, 0],
  }
  files.write_text(folder / "train.json", json.dumps(contents))
  _, stored = records.open_split(str(folder), "train", "leaf", "script")
  np.testing.assert_array_equal(records.decode(stored[1])["x"], arrays["x"])
  files.write_text(memory_bucket / "texts" / "a.txt", "one\ntwo\nthree\n")
  texts = corpora.files(f"{memory_bucket}/texts/*.txt", "train")
  assert [texts[i] for i in range(len(texts))] == ["one", "two"]
  texts = corpora.files(f"{memory_bucket}/texts", "test")
  assert [texts[i] for i in range(len(texts))] == ["three"]
  with pytest.raises(UserError, match="no text file 'gs://bucket/none"):
    corpora.files("gs://bucket/none/*.txt", "train")


def test_token_files_are_read_from_copies(memory_bucket):
  folder = memory_bucket / "tokens"
  with files.replacing(folder / "a" / "b.npy") as partial:
    np.save(partial, np.arange(6).reshape(2, 3))
  files.write_text(folder / "c.json", "[0, 1]")
  files.write_text(folder / "notes.txt", "not read")
  train = token_files(str(folder), "train", f"{folder}/*.json", 6)
  held_out = token_files(str(folder), "test", f"{folder}/*.json", 6)
  assert (len(train), len(held_out)) == (3, 1)
  tokens = held_out[0]["tokens"]
  assert tokens[1:-1].tolist() == [NUM_SPECIAL, NUM_SPECIAL + 1]
  with pytest.raises(UserError, match="no token file 'gs://bucket/none"):
    token_files("gs://bucket/none", "train")


def test_data_sets_of_tfds_are_read_from_copies(memory_bucket, tmp_path):
  tiny_tfds.glue_mnli(tmp_path / "tfds")
  _upload(tmp_path / "tfds", memory_bucket / "tfds")
  for where in (f"{memory_bucket}/tfds", f"{memory_bucket}/tfds/"):
    source = tfds.open_prepared("glue/mnli", "train", where)
    assert len(source) == 3
  assert len(tfds.open_prepared("glue/mnli:2.0.0", "train", where)) == 3
  with pytest.raises(UserError, match="tfds/none can't be copied to the cache"):
    tfds.open_prepared("none", "train", where)
