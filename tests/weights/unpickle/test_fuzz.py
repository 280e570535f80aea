import pickle
import pickletools
import sys

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from pickle_writing import DTYPE, EMPTY, PROTOCOLS, state

from perceiver_jax import errors
from perceiver_jax.weights.unpickle import trees

EVENTS: list[str] | None = None
ACTIONS = ("os.", "subprocess.", "exec", "compile", "import", "pickle.")
ACTIONS += ("ctypes.", "socket.", "shutil.", "code.", "marshal.")


def _record(event, _):
  if EVENTS is not None and event.startswith(ACTIONS):
    EVENTS.append(event)


@pytest.fixture(scope="module", autouse=True)
def _audit():
  sys.addaudithook(_record)


def read_or_refuse(path, data):
  """Reads `data` and checks that it runs no code; returns the tree or None."""
  global EVENTS
  path.write_bytes(data)
  EVENTS = []
  try:
    tree = trees.read_tree(path)
  except errors.UserError:
    return None
  finally:
    events, EVENTS = EVENTS, None
    assert events == []
  assert_tree(tree)
  return tree


def assert_tree(value):
  if isinstance(value, dict):
    assert type(value) is dict
    for key, item in value.items():
      assert type(key) is str
      assert_tree(item)
  else:
    assert type(value) is np.ndarray
    assert value.dtype.isnative
    assert not value.dtype.hasobject
    value.tobytes()


GOOD = {
  "params": {
    "lin": {"w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.zeros(0)},
    "norm": {"s": np.ones(3, ml_dtypes.bfloat16), "n": np.array(3, "i4")},
  },
  "state": {"ema": {"c": np.asfortranarray(np.ones((2, 2), "f2"))}},
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
  """Returns a file to overwrite, after reading has imported its modules."""
  path = tmp_path_factory.mktemp("scratch") / "file"
  for protocol in PROTOCOLS:
    path.write_bytes(pickle.dumps(GOOD, protocol))
    trees.read_tree(path)
  return path


edits = st.lists(
  st.tuples(
    st.sampled_from(["change", "insert", "delete", "copy"]),
    st.integers(0, 10**6),
    st.one_of(
      st.integers(0, 255), st.sampled_from(list(b"Rbcos.(tq}]\x93\x94"))
    ),
  ),
  min_size=1,
  max_size=6,
)


@hypothesis.settings(deadline=None, max_examples=500)
@hypothesis.given(protocol=st.sampled_from(PROTOCOLS), edits=edits)
def test_damaged_files_read_as_arrays_or_are_refused(scratch, protocol, edits):
  data = bytearray(pickle.dumps(GOOD, protocol))
  for kind, where, byte in edits:
    at = where % max(len(data), 1)
    if kind == "change":
      data[at : at + 1] = [byte]
    elif kind == "insert":
      data[at:at] = [byte]
    elif kind == "delete":
      del data[at : at + 1 + byte % 4]
    else:
      data[at:at] = data[at : at + byte]
  read_or_refuse(scratch, bytes(data))


FRAGMENTS = [
  *[bytes([opcode.code.encode("latin1")[0]]) for opcode in pickletools.opcodes],
  b"cos\nsystem\n",
  b"cposix\nsystem\n",
  b"cbuiltins\neval\n",
  b"cnumpy\nndarray\n",
  b"c_codecs\nencode\n",
  b"ccollections\nOrderedDict\n",
  b"cml_dtypes\nbfloat16\n",
  b"cjax._src.array\n_reconstruct_array\n",
  b"chaiku._src.data_structures\nFlatMapping\n",
  b"cnumpy.core.numeric\n_frombuffer\n",
  DTYPE,
  EMPTY,
  state((2,))[:-1],
  b"Vtouch marker\n",
  b"Vlatin1\n",
  b"Va\n",
  b"(I2\nt",
  b"I3\n",
  b"\x8c\x02os\x8c\x06system\x93",
]


@hypothesis.settings(deadline=None, max_examples=500)
@hypothesis.given(st.lists(st.sampled_from(FRAGMENTS), max_size=25))
def test_any_instructions_read_as_arrays_or_are_refused(scratch, fragments):
  data = b"".join(fragments) + b"."
  read_or_refuse(scratch, data)
  read_or_refuse(scratch, b"}Va\n" + data[:-1] + b"s.")


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_read_as_arrays_or_are_refused(scratch, data):
  read_or_refuse(scratch, data)
