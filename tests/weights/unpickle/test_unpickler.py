import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types

import haiku as hk
import numpy as np
import pytest
from pickle_writing import (
  DTYPE,
  EMPTY,
  PROTOCOLS,
  assert_same,
  read,
  refusal,
  state,
  write,
)

from perceiver_jax import errors
from perceiver_jax.weights.unpickle import trees


def test_agrees_with_pickle_on_ignored_parts(tmp_path):
  array = np.ones(2)
  dumped = pickle.dumps({"w": array}, 2)
  # Popped values, a duplicate, and bytes after the end.
  odd = b"\x80\x02N0(NN1" + dumped[2:-1] + b"20" + b".trailing"
  assert_same(pickle.loads(odd), {"w": array})
  assert_same(read(tmp_path, odd), {"w": array})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_truncation_is_refused(tmp_path, protocol):
  whole = pickle.dumps({"a": {"w": np.ones(2, "f4")}}, protocol)
  for size in range(len(whole)):
    assert "damaged" in refusal(tmp_path, whole[:size])


@pytest.mark.parametrize(
  "data",
  [b"", b"<!DOCTYPE html>", b"PK\x03\x04", b"\x80\x04.", b"\n" * 9, b"N(."],
)
def test_other_files_are_refused(tmp_path, data):
  assert "damaged or not a pickle" in refusal(tmp_path, data)


def call(module, name, *args):
  """Pickles a function call in protocol 0."""
  arguments = b"".join(pickle.dumps(arg, 0)[:-1] for arg in args)
  return f"c{module}\n{name}\n(".encode() + arguments + b"tR."


HOSTILE = [
  ("os", "system", "touch {}"),
  ("posix", "system", "touch {}"),
  ("nt", "system", "touch {}"),
  ("os", "mkdir", "{}"),
  ("builtins", "eval", "open('{}', 'w')"),
  ("__builtin__", "eval", "open('{}', 'w')"),
  ("builtins", "exec", "open('{}', 'w')"),
  ("builtins", "open", "{}", "w"),
  ("builtins", "__import__", "os"),
  ("builtins", "getattr", 1, "real"),
  ("builtins", "bytearray", 10**12),
  ("subprocess", "Popen", "touch {}"),
  ("subprocess", "getoutput", "touch {}"),
  ("pickle", "loads", b"cos\nsystem\n(Vtouch {}\ntR."),
  ("numpy", "load", "{}"),
  ("numpy", "save", "{}", 1),
  ("numpy", "fromfile", "{}"),
  ("numpy", "zeros", 10**12),
  ("numpy.core.multiarray", "fromfile", "{}"),
  ("numpy.core.multiarray", "zeros", 10**12),
  ("numpy.core.numeric", "ones", 10**12),
  ("numpy._core.multiarray", "_vec_string", 1),
  ("numpy.testing._private.utils", "runstring", "open('{}', 'w')", {}),
  ("_codecs", "decode", b"", "zip"),
  ("codecs", "open", "{}", "w"),
  ("haiku._src.data_structures", "Stack"),
  ("haiku._src.data_structures", "FlatComponents", (), None),
  ("jax._src.array", "ArrayImpl"),
  ("copyreg", "_reconstructor", 1, 2, 3),
  ("collections", "defaultdict", 1),
]


@pytest.mark.parametrize("place", HOSTILE, ids=lambda p: f"{p[0]}.{p[1]}")
def test_other_names_are_refused_and_not_called(tmp_path, place):
  marker = tmp_path / "marker"
  module, name, *args = place
  args = [a.format(marker) if isinstance(a, str) else a for a in args]
  named = f"reads arrays and plain containers; the file names {module}.{name}"
  whole = call(module, name, *args)
  assert refusal(tmp_path, whole).endswith(named)
  # As an element of an otherwise valid file.
  nested = b"}Va\n" + whole[:-1] + b"s."
  assert refusal(tmp_path, nested).endswith(named)
  # Named on the stack, by NEWOBJ, OBJ and INST.
  on_stack = f"V{module}\nV{name}\n".encode() + b"\x93)R."
  assert refusal(tmp_path, on_stack).endswith(named)
  newobj = f"c{module}\n{name}\n)".encode() + b"\x81."
  assert refusal(tmp_path, newobj).endswith(named)
  assert refusal(tmp_path, b"(" + newobj[:-2] + b"o.").endswith(named)
  inst = f"(i{module}\n{name}\n.".encode()
  assert refusal(tmp_path, inst).endswith(named)
  assert not marker.exists()


def test_a_hostile_call_runs_with_plain_pickle(tmp_path):
  # This shows that the test above can fail.
  marker = tmp_path / "marker"
  pickle.loads(call("os", "system", f"touch {marker}"))
  assert marker.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_and_functions_of_this_process_are_refused(tmp_path, protocol):
  for value, name in [
    (os.system, "system"),
    (np.load, "load"),
    (np.float32, "float32"),
    (hk.Linear, "Linear"),
    (types.SimpleNamespace(), "SimpleNamespace"),
    (np.ones(2).view(np.matrix), "matrix"),
    (np.ma.ones(2), "_mareconstruct"),
    (frozenset([1]) if protocol < 4 else os.stat("."), ""),
  ]:
    message = refusal(tmp_path, {"a": value}, protocol)
    assert "the file names " in message
    assert name in message


@pytest.mark.parametrize(
  ("instructions", "name"),
  [
    (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
    (b"cnumpy\nndarray\n)}\x92.", "NEWOBJ_EX"),
    (b"(cnumpy\nndarray\no.", "OBJ"),
    (b"(inumpy\nndarray\n.", "INST"),
    (b"\x82\x01.", "EXT1"),
    (b"\x83\x01\x00.", "EXT2"),
    (b"\x84\x01\x00\x00\x00.", "EXT4"),
    (b"Pos.system\n.", "PERSID"),
    (b"NQ.", "BINPERSID"),
    (b"\x97.", "NEXT_BUFFER"),
    (b"N\x98.", "READONLY_BUFFER"),
    (b"\x8f.", "EMPTY_SET"),
    (b"(\x91.", "FROZENSET"),
  ],
)
def test_other_instructions_are_refused(tmp_path, instructions, name):
  message = refusal(tmp_path, instructions)
  assert message.endswith(f"the file uses the pickle instruction {name}")


def test_computed_and_odd_names_are_refused(tmp_path):
  for module, name, printed in [
    ("numpy", "ndarray.tofile", "numpy.ndarray.tofile"),
    ("numpy.ndarray", "__class__", "numpy.ndarray.__class__"),
    ("os\n\x1b[2J", "x", r"os\n\x1b[2J.x"),
    ("é" * 5000, "x", r"\xe9\xe9"),
  ]:
    texts = b"".join(pickle.dumps(text, 3)[2:-1] for text in (module, name))
    assert f"the file names {printed}" in refusal(tmp_path, texts + b"\x93.")
  assert "damaged" in refusal(tmp_path, b"NN\x93.")
  assert "calls a value of type str" in refusal(tmp_path, b"Vos.system\n(tR.")
  assert "calls a value of type int" in refusal(tmp_path, b"I7\n(tR.")
  assert "calls numpy.dtype" in refusal(tmp_path, b"cnumpy\ndtype\nNR.")


# With each of these, pickle.loads allocates gigabytes or ends the process.
BOMBS = {
  "BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
  "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
  "BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
  "BINBYTES8 of all": b"\x80\x04\x8e" + b"\xff" * 8 + b"x.",
  "BINBYTES": b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b"x.",
  "BINUNICODE": b"\x80\x03X" + struct.pack("<I", 2**32 - 1) + b"x.",
  "LONG4": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
  "negative LONG4": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
  "FRAME": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"x.",
  "memo": b"\x80\x04Nr" + b"\xff" * 4 + b".",
  "text memo": b"Np9999999999999\n.",
  "long text": b"I" + b"9" * 10**6 + b"\n.",
  "nested key": b"}" + b")" + b"\x85" * 150_000 + b"Ns.",
  "nested tuple": b"}Va\n)" + b"\x85" * 150_000 + b"s.",
  "nested list": b"}Va\n" + b"]" * 90_000 + b"a" * 89_999 + b"s.",
  "marks": b"(" * 500_000 + b".",
  "dicts": b"}" * 500_000 + b".",
  "shape": state((10**12,)),
  "big shape": state((2**31 - 1,)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_without_allocating(tmp_path, name):
  path = write(tmp_path, BOMBS[name])
  tracemalloc.start()
  try:
    with pytest.raises(errors.UserError):
      trees.read_tree(path)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  # The limit of instructions allows 200,000 empty dicts.
  assert peak < 8 * len(BOMBS[name]) + 30 * 2**20


def test_many_arrays_of_the_same_bytes_are_refused(tmp_path):
  text = b"V" + b"x" * 10**6 + b"\np0\n0"
  encode = b"c_codecs\nencode\n(g0\nVlatin1\ntR0"
  assert "over and over" in refusal(tmp_path, text + encode * 9999 + b"}.")
  content = pickle.dumps(b"x" * 10**6, 3)[2:-1] + b"p0\n0"
  big = DTYPE + b"(I3\nV>\nNNNI-1\nI-1\nI0\ntb"
  array = EMPTY + b"(I1\n(I250000\nt" + big + b"I0\ng0\ntb"
  data = content + b"}(" + b"Va\n" + array
  data += b"".join(f"Vk{i}\n".encode() + array for i in range(999)) + b"u."
  assert "over and over" in refusal(tmp_path, data)


def test_a_small_address_space_is_enough(tmp_path):
  # A separate process, so that its limit covers all kinds of memory.
  paths = [tmp_path / f"{i}" for i in range(len(BOMBS))]
  for path, data in zip(paths, BOMBS.values(), strict=True):
    path.write_bytes(data)
  code = """
import resource, sys
from perceiver_jax import errors
from perceiver_jax.weights.unpickle import trees
used = int(open('/proc/self/statm').read().split()[0])
limit = used * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
  try:
    trees.read_tree(path)
  except errors.UserError:
    print('refused')
"""
  done = subprocess.run(
    [sys.executable, "-c", code, *map(str, paths)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ["refused"] * len(paths)
