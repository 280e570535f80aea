"""Helpers that write pickles as old libraries and attackers do."""

import pickle
import sys
import types

import pytest

from perceiver_jax import errors
from perceiver_jax.weights.unpickle import trees

PROTOCOLS = range(6)
OLD_RECONSTRUCT = ("numpy.core.multiarray", "_reconstruct")

# Protocol 0: the type float32, and an unfilled array.
DTYPE = b"cnumpy\ndtype\n(Vf4\nI0\nI1\ntR"
EMPTY = b"cnumpy\n_reconstruct\n".replace(b"numpy", b"numpy.core.multiarray")
EMPTY += b"(cnumpy\nndarray\n(I0\ntVb\ntR"


class Named:
  """Pickles as a call of a function under any given name."""

  def __init__(self, monkeypatch, place, *call):
    module, name = place

    def function():
      pass

    function.__module__, function.__qualname__ = module, name
    fake = types.ModuleType(module)
    setattr(fake, name, function)
    self._use = lambda: monkeypatch.setitem(sys.modules, module, fake)
    self._call = (function, *call)

  def __reduce__(self):
    self._use()
    return self._call


def write(tmp_path, value, protocol=4):
  path = tmp_path / "file.pystate"
  dumped = value
  if not isinstance(value, bytes):
    dumped = pickle.dumps(value, protocol)
  path.write_bytes(dumped)
  return path


def read(tmp_path, value, protocol=4):
  return trees.read_tree(write(tmp_path, value, protocol))


def refusal(tmp_path, value, protocol=4):
  """Returns the error message for a file that is refused."""
  path = write(tmp_path, value, protocol)
  with pytest.raises(errors.UserError) as caught:
    trees.read_tree(path)
  message = str(caught.value)
  assert message.startswith(str(path))
  assert message.isprintable()
  assert len(message) < len(str(path)) + 300
  return message


def assert_same(actual, expected):
  assert type(actual) is type(expected)
  if isinstance(expected, dict):
    assert list(actual) == list(expected)
    for key in expected:
      assert_same(actual[key], expected[key])
  else:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


def state(shape, data=b"x" * 8, dtype=DTYPE):
  """Pickles an array of a shape, type and content."""
  shape, data = (pickle.dumps(value, 3)[2:-1] for value in (shape, data))
  return EMPTY + b"(I1\n" + shape + dtype + b"I0\n" + data + b"tb."
