"""Buckets for tests: one in memory, and a server of Cloud Storage."""

import importlib

import bucket_server
import pytest
from etils.epath import backend
from fsspec.implementations import memory

from perceiver_jax.buckets import store

# `fsspec.registry` is a mapping in this module.
registry = importlib.import_module("fsspec.registry")


class _Memory(memory.MemoryFileSystem):
  """Files of gs:// in the memory of this process."""

  protocol = ("gs", "gcs")
  cachable = False

  def __init__(self, *args, finalize_on_close=False, **options):
    super().__init__(*args, **options)

  @classmethod
  def _strip_protocol(cls, path):
    return "/" + str(path).removeprefix("gs://").strip("/")


@pytest.fixture
def memory_bucket(monkeypatch, tmp_path):
  """Keeps what is written to gs:// paths in memory; returns a folder there."""
  monkeypatch.setattr(_Memory, "store", {})
  monkeypatch.setattr(_Memory, "pseudo_dirs", [""])
  monkeypatch.setattr(store, "connect", lambda scheme: None)
  monkeypatch.setattr(store, "_checked", set())
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  for name in ("gs", "gcs"):
    monkeypatch.setitem(registry._registry, name, _Memory)
  backend.fsspec_backend._get_filesystem.cache_clear()
  yield store.as_path("gs://bucket/folder")
  backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture(scope="session")
def _server():
  if bucket_server.binary() is None:
    pytest.skip("needs gcsfs and fake-gcs-server: make test-slow gets them")
  with bucket_server.running() as server:
    yield server


@pytest.fixture
def cloud_storage(_server, monkeypatch):
  """Returns a server of Cloud Storage, which this process uses for gs://."""
  for name, value in _server.environment.items():
    monkeypatch.setenv(name, value)
  backend.fsspec_backend._get_filesystem.cache_clear()
  yield _server
  _server.fault = lambda method, path: None


@pytest.fixture
def inject(cloud_storage):
  """Returns a function that sets the proxy's fault; None ends it."""

  def inject(fault):
    cloud_storage.fault = fault or (lambda method, path: None)

  return inject
