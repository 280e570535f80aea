"""Fixtures for tests of checkpoints."""

import shutil

import pytest
from absl import logging
from tiny_checkpoints import make_iterator, make_state

from perceiver_jax.training.checkpoints.checkpointer import Checkpointer


@pytest.fixture
def directory(tmp_path):
  return tmp_path / "checkpoints"


@pytest.fixture
def open_checkpointer(directory):
  """Returns a function that makes checkpointers, closed after the test."""
  opened = []

  def open_(**kwargs):
    opened.append(Checkpointer(directory, **kwargs))
    return opened[-1]

  yield open_
  for checkpointer in opened:
    checkpointer.close()


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
  """Returns a directory with two checkpoints of different states."""
  directory = tmp_path_factory.mktemp("saved") / "checkpoints"
  checkpointer, iterator = Checkpointer(directory), make_iterator()
  for step in (10, 20):
    next(iterator)
    checkpointer.save(step, make_state(step), iterator, {"seconds": step + 0.1})
  checkpointer.close()
  return directory


@pytest.fixture
def saved(saved_once, directory, open_checkpointer):
  """Returns a checkpointer of a copy of that directory."""
  shutil.copytree(saved_once, directory)
  return open_checkpointer()


@pytest.fixture
def warnings(monkeypatch):
  """Returns the list to which warnings are appended."""
  messages = []
  monkeypatch.setattr(
    logging, "warning", lambda message, *args: messages.append(message % args)
  )
  return messages
