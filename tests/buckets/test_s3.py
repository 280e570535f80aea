"""Tests of files in buckets of S3, on a server that runs on this machine."""

import importlib.util

import bucket_server
import fsspec
import jax
import numpy as np
import pytest
import tiny_weights
from etils.epath import backend

from perceiver_jax import files, growing_folder, weights
from perceiver_jax.buckets import store
from perceiver_jax.data.images import codec, image_folder
from perceiver_jax.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
  if None in map(importlib.util.find_spec, ("moto", "s3fs")):
    pytest.skip("needs s3fs and moto: make test-slow gets them")
  from moto import server as moto

  s3 = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
  s3.start()
  proxy = bucket_server.Server(s3.get_host_and_port()[1])
  assert proxy.ask("PUT", "/bucket")[0] == 200
  yield proxy
  proxy.stop()
  s3.stop()


@pytest.fixture
def connected(server, monkeypatch, tmp_path):
  """Returns the server, which this process uses for s3:// in this test."""
  monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
  monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
  monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
  monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
  monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
  for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
    monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(store, "_checked", set())
  store.connect("s3")
  fsspec.get_filesystem_class("s3").clear_instance_cache()
  backend.fsspec_backend._get_filesystem.cache_clear()
  yield server
  server.fault = lambda method, path: None
  backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def folder(connected, request):
  """Returns a folder in the bucket."""
  return files.as_path(f"s3://bucket/{request.node.name}")


def test_files_are_written_and_read(folder):
  path = folder / "a" / "b.json"
  files.check_writable(path)
  assert not path.exists()
  files.write_text(path, '{"é": 1}')
  assert files.read_json(path) == {"é": 1}
  assert files.size(path) == 9
  assert [p.name for p in path.parent.iterdir()] == ["b.json"]
  with files.open_regular(path, "r", encoding="utf-8") as file:
    assert file.readlines() == ['{"é": 1}']
  with pytest.raises(FileNotFoundError):
    files.read_bytes(folder / "none")
  files.move_folder(folder / "a", folder / "c")
  assert not path.exists()
  assert files.below(folder, ".json") == [folder / "c" / "b.json"]


def test_objects_that_mark_folders_are_not_files(connected, folder):
  for name, contents in (("a/", ""), ("a/b/", ""), ("a/b/c.txt", "1")):
    connected.ask("PUT", f"/bucket/{folder.name}/{name}", contents)
  local = files.local_folder(folder / "a")
  assert (local / "b" / "c.txt").read_text() == "1"
  files.move_folder(folder / "a", folder / "d")
  assert files.read_text(folder / "d" / "b" / "c.txt") == "1"
  assert not (folder / "a").exists()


def test_one_process_creates_a_file(folder):
  assert store.create(folder / "a", b"first")
  assert not store.create(folder / "a", b"second")
  assert (folder / "a").read_bytes() == b"first"


def test_files_that_grow_are_uploaded(folder):
  files.write_text(folder / "a.log", "old")
  growing = growing_folder.GrowingFolder(folder)
  with growing.fetch("a.log").open("a") as file:
    file.write("new")
  growing.close()
  assert files.read_text(folder / "a.log") == "oldnew"


def test_only_what_has_changed_is_copied_again(folder):
  image = codec.encode_png(np.zeros((4, 4, 3), np.uint8))
  for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
    files.write_bytes(folder / "train" / name, image)
  source = image_folder.image_folder(str(folder), "train")
  assert (len(source), source.class_names) == (3, ("cat", "dog"))
  local = files.local_folder(folder)
  before = (local / "train" / "cat" / "a.png").stat().st_ino
  (folder / "train" / "dog" / "c.png").unlink()
  source = image_folder.image_folder(str(folder), "train")
  assert (len(source), source.class_names) == (2, ("cat",))
  assert (local / "train" / "cat" / "a.png").stat().st_ino == before
  assert len(files.local_matches(f"{folder}/train/*/*.png")) == 2


def test_a_program_reads_and_writes_in_the_bucket(call, folder):
  model = folder / "model.safetensors"
  with pytest.raises(UserError, match="no weights at 's3://"):
    weights.load(model)
  saved = tiny_weights.perceiver_ar()
  weights.save(model, saved)
  jax.tree.map(
    np.testing.assert_array_equal, weights.load(model).params, saved.params
  )
  files.write_text(folder / "prompt.json", "[5, 200, 0]")
  words = [f"--weights={model}", f"--prompt={folder}/prompt.json"]
  words += ["--num_tokens=4", f"--output={folder}/out"]
  done = call("predict", "generate", *words)
  assert done.status == 0, done
  with np.load(files.local_file(folder / "out" / "generated.npz")) as written:
    assert written["sequence_0"][:3].tolist() == [5, 200, 0]


def test_a_missing_bucket_is_named(connected):
  with pytest.raises(UserError, match="there is no bucket 'other'"):
    files.as_path("s3://other/a")


def test_missing_credentials_are_named(connected, monkeypatch):
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.delenv(name)
  with pytest.raises(UserError, match=r"no valid credentials.*aws configure"):
    files.as_path("s3://bucket/a")


def test_a_missing_permission_is_named(connected, folder):
  connected.fault = lambda method, path: 403
  for use in (folder.exists, lambda: list(folder.iterdir())):
    with pytest.raises(PermissionError, match="permission denied"):
      use()
  with pytest.raises(PermissionError, match="permission denied"):
    files.write_text(folder / "a", "b")


def test_a_failing_server_is_asked_again(connected, folder):
  answers = iter([503, 500])
  connected.fault = lambda method, path: next(answers, None)
  files.write_text(folder / "a", "b")
  assert next(answers, None) is None
  assert files.read_text(folder / "a") == "b"


def test_a_server_without_answer_is_named(connected, monkeypatch):
  monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
  with pytest.raises(UserError, match=r"can't be read: .*127\.0\.0\.1:1"):
    files.as_path("s3://bucket/a")
