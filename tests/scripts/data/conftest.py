"""Fixtures of the scripts that prepare data."""

import pytest


@pytest.fixture
def in_process(monkeypatch):
  """Replaces processes, whose start takes seconds, by this one."""

  class Pool:
    def __init__(self, size, context):
      pass

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def map(self, function, jobs):
      return map(function, jobs)

  monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Pool)
