"""Tests of `perceiver_jax.files` on paths in a bucket, which is in memory."""

import contextlib
import pickle
import types

import jax
import numpy as np
import pytest
import tiny_weights

from perceiver_jax import files, growing_folder, weights
from perceiver_jax.buckets import store, uploads
from perceiver_jax.errors import UserError
from perceiver_jax.training import workdir
from perceiver_jax.training.logs import metric_writers
from perceiver_jax.viz import report


def test_files_are_written_and_read(memory_bucket):
  path = memory_bucket / "a" / "b.json"
  assert str(path) == "gs://bucket/folder/a/b.json"
  files.write_text(path, '{"é": 1}')
  assert files.read_json(path) == {"é": 1}
  assert files.read_text(path) == '{"é": 1}'
  assert files.size(path) == 9
  assert [p.name for p in path.parent.iterdir()] == ["b.json"]
  with files.open_regular(path, "r", encoding="utf-8") as file:
    assert file.readlines() == ['{"é": 1}']
  assert pickle.loads(pickle.dumps(path)) == path
  with pytest.raises(FileNotFoundError):
    files.read_bytes(memory_bucket / "none")


def test_a_file_appears_when_it_is_complete(memory_bucket):
  path = memory_bucket / "a.txt"
  files.write_text(path, "old")
  with contextlib.suppress(KeyboardInterrupt), files.replacing(path) as partial:
    partial.write_text("half")
    assert path.read_text() == "old"
    raise KeyboardInterrupt
  assert path.read_text() == "old"
  assert not partial.parent.exists()


def test_one_process_creates_a_file(memory_bucket):
  path = memory_bucket / "lock"
  assert store.create(path, b"first")
  assert not store.create(path, b"second")
  assert path.read_bytes() == b"first"
  # The first answer was lost, and the library has sent the request again.
  assert store.create(path, b"first")


def test_checking_that_a_file_can_be_written_does_not_change_it(memory_bucket):
  path = memory_bucket / "a.txt"
  files.check_writable(path)
  assert not path.exists()
  files.write_text(path, "old")
  files.check_writable(path)
  assert [p.name for p in memory_bucket.iterdir()] == ["a.txt"]
  assert path.read_text() == "old"


def test_a_folder_is_moved(memory_bucket):
  for name in ("a/b", "a/c/d"):
    files.write_text(memory_bucket / "old" / name, name)
  files.move_folder(memory_bucket / "old", memory_bucket / "new" / "x")
  assert (memory_bucket / "new" / "x" / "a" / "c" / "d").read_text() == "a/c/d"
  assert not (memory_bucket / "old" / "a" / "b").exists()


def test_files_that_grow_are_uploaded_now_and_then(memory_bucket, monkeypatch):
  now = [100.0]
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(uploads, "time", clock)
  count = []
  monkeypatch.setattr(
    uploads, "upload",
    lambda local, path: count.append(0) or store.upload(local, path),
  )  # fmt: skip
  metrics = metric_writers.MetricsFile(memory_bucket / "metrics.jsonl")
  read = lambda: [
    record["step"]
    for record in metric_writers.read_metrics(memory_bucket / "metrics.jsonl")
  ]
  for step in range(1, 100):
    metrics.write(step, {"loss": 1.0})
    now[0] += 1.0
  assert len(count) == 4
  assert read() == list(range(1, 92))
  metrics.sync()
  assert read() == list(range(1, 100))
  metrics.truncate_after(50)
  metrics.write(51, {"loss": 2.0})
  metrics.close()
  assert read() == list(range(1, 52))


def test_uploads_take_a_small_share_of_the_time(memory_bucket, monkeypatch):
  now = [0.0]
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(uploads, "time", clock)
  seconds = [10.0]

  def upload(local, path):
    now[0] += seconds[0]

  monkeypatch.setattr(uploads, "upload", upload)
  folder = uploads.Uploads(memory_bucket)
  file = folder.local / "a"
  while now[0] < 5000:
    with file.open("a") as stream:
      stream.write("x")
    start = now[0]
    folder.sync()
    uploading = now[0] - start
    seconds.append(uploading)
    now[0] += 1.0
  assert sum(seconds[1:]) <= 0.022 * now[0]


def test_files_that_grow_may_be_in_folders(memory_bucket):
  files.write_text(memory_bucket / "cola" / "a.log", "old")
  folder = growing_folder.GrowingFolder(memory_bucket)
  for name in ("cola/a.log", "rte/a.log"):
    with folder.fetch(name).open("a") as file:
      file.write("new")
  folder.close()
  assert (memory_bucket / "cola" / "a.log").read_text() == "oldnew"
  assert (memory_bucket / "rte" / "a.log").read_text() == "new"


def test_a_failed_upload_is_tried_again(memory_bucket, monkeypatch):
  def fail(*_):
    raise OSError(5, "the server still answers 503")

  folder = uploads.Uploads(memory_bucket)
  (folder.local / "a").write_text("x")
  with monkeypatch.context() as patch:
    patch.setattr(uploads, "upload", fail)
    folder.sync()
    with pytest.raises(OSError, match="503"):
      folder.sync(now=True)
  folder.close()
  assert (memory_bucket / "a").read_text() == "x"
  assert not folder.local.exists()


def test_a_run_writes_its_files(memory_bucket):
  run = memory_bucket / "run"
  workdir.write(run, {"a": {"b": (1, 2)}}, {"class_names": ["x"]})
  workdir.check_config(run, {"a": {"b": (1, 2)}})
  workdir.check_config(run, {"a": {"b": 3}})
  assert workdir.read_metadata(run) == {"class_names": ["x"]}
  writers = metric_writers.MetricWriters(run, resume_step=0, tensorboard=True)
  writers.scalars(1, {"loss": 1.0})
  writers.image(1, "a b", np.zeros((4, 4, 3), np.uint8))
  writers.close()
  with pytest.raises(UserError, match=r"a\.b is \[1, 2\] there and 3 here"):
    workdir.check_config(run, {"a": {"b": 3}})
  assert (run / "images" / "a-b-00000001.png").exists()
  (events,) = (run / "tensorboard").iterdir()
  assert b"loss" in events.read_bytes()
  report.write_report(run / "report.html", report.Report(title="t", summary={}))
  assert (run / "report.html").read_text().startswith("<!")


def test_weights_are_saved_and_loaded(memory_bucket):
  path = memory_bucket / "model.safetensors"
  with pytest.raises(UserError, match="no weights at 'gs://"):
    weights.load(str(path))
  saved = tiny_weights.classifier()
  weights.save(path, saved)
  loaded = weights.load(f"{memory_bucket}/model.safetensors")
  jax.tree.map(np.testing.assert_array_equal, loaded.params, saved.params)
  assert loaded.spec == saved.spec


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("ftp://a/b", "ftp://a/b is neither a local path nor one with gs://"),
    ("gs://", "gs:// names no bucket; give gs://BUCKET/FOLDER"),
  ],
)
def test_other_urls_are_refused(path, message):
  with pytest.raises(UserError, match=message):
    files.as_path(path)


def test_a_missing_package_is_named(monkeypatch):
  store.connect.cache_clear()
  monkeypatch.setattr(store.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"package gcsfs: pip install -e '.\[gcs"):
    files.as_path("gs://bucket/a")
  with pytest.raises(UserError, match="package adlfs: pip install adlfs"):
    files.as_path("az://bucket/a")


def test_local_paths_stay_local(tmp_path, monkeypatch):
  import pathlib

  path = files.as_path(f"{tmp_path}/a:b")
  assert type(path) is type(pathlib.Path())
  assert files.local_folder("~").is_absolute()
  assert not files.is_remote("a/b://c")
