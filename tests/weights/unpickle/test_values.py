import os
import pickle

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
)


@pytest.mark.parametrize(
  "instructions",
  [
    b"cnumpy\nndarray\n}b.",
    b"cnumpy\nndarray\n(N}V__setstate__\nNstb.",
    b"}}V__class__\nNsb.",
    b"(l}V__class__\nNsb.",
    DTYPE + b"}b.",
    DTYPE + b"(I3\nV<\nN(VA\nt}tb.",  # names and fields
    DTYPE + b"(I4\nV<\nNNNI-1\nI-1\nI0\n}tb.",  # metadata
    DTYPE + b"(I3\nV!\nNNNI-1\nI-1\nI0\ntb.",
    EMPTY + b"}b.",
    EMPTY + b"(N}V__class__\nNstb.",
    EMPTY + b"(I2\n(I0\nt" + DTYPE + b"I0\nc__builtin__\nbytes\n(ttb.",
  ],
)
def test_state_is_set_only_on_unfinished_arrays(tmp_path, instructions):
  assert "sets an unusual state of" in refusal(tmp_path, instructions)


@pytest.mark.parametrize(
  "instructions",
  [
    b"cnumpy\nndarray\n(I9\ntR.",
    b"cnumpy\nndarray\n(I1000000000000\ntR.",
    b"cnumpy\ndtype\n(Vf4\ntR.",
    b"cnumpy\ndtype\n(cnumpy\nndarray\nI0\nI1\ntR.",
    b"cml_dtypes\nbfloat16\n(I0\ntR.",
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.",
    b"c_codecs\nencode\n(Vx\nVzip\ntR.",
    b"c_codecs\nencode\n(Vx\nVutf-16\ntR.",
    b"c__builtin__\nbytes\n(I1000000000000\ntR.",
    b"chaiku._src.data_structures\nFlatMapping\n((ltR.",
    b"ccollections\nOrderedDict\n(I1\ntR.",
    b"cjax._src.array\n_reconstruct_array\n(c_codecs\nencode\n(tNNtR.",
    b"cjax._src.array\n_reconstruct_array\n(ccollections\nOrderedDict\n(tNNtR.",
    b"cjax._src.array\n_reconstruct_array\n("
    b"cjax._src.array\n_reconstruct_array\n(tNNtR.",
    b"cjax._src.array\n_reconstruct_array\np0\n("
    + b"g0\n(" * 9999
    + b"t"
    + b"NNt" * 9999
    + b"R.",
  ],
)
def test_calls_with_unusual_arguments_are_refused(tmp_path, instructions):
  assert "with unusual arguments" in refusal(tmp_path, instructions)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
  ("array", "name"),
  [
    (np.array([None, {}]), "O8"),
    (np.array([os.system], object), ""),
    (np.zeros(2, [("a", "f4"), ("b", "O")]), "V12"),
    (np.zeros(2, [("a", "f4")]), "V4"),
    (np.array(["text"]), "U4"),
    (np.array([b"bytes"]), "S5"),
    (np.zeros(2, "c8"), "c8"),
    (np.zeros(2, "M8[s]"), "M8"),
  ],
)
def test_arrays_of_other_types_are_refused(tmp_path, array, name, protocol):
  message = refusal(tmp_path, {"a": array}, protocol)
  assert f"holds an array of type {name}" in message


def test_arrays_of_the_wrong_size_are_refused(tmp_path):
  good = np.frombuffer(b"x" * 8, "f4")
  assert_same(read(tmp_path, b"}Va\n" + state((2,))[:-1] + b"s."), {"a": good})
  for shape in [(), (1,), (3,), (10**9,), (2**31 - 1,) * 3]:
    message = refusal(tmp_path, state(shape))
    assert f"has 8 bytes for float32{list(shape)}" in message
  odd_shapes = [(-2,), (-1, -2), (2.0,), (True, 2), (2**31, 0), (0,) * 33, [2]]
  for shape in [*odd_shapes, (10**12,), (10**5000,), (2**63, 2**63), "2", None]:
    assert "damaged" in refusal(tmp_path, state(shape))
  assert "with a value of type str" in refusal(tmp_path, state((2,), "x" * 8))
  assert "typed a value" in refusal(tmp_path, state((2,), dtype=b"Vf4\n"))
  empty = (0, *((2**31 - 1,) * 5))
  assert "damaged" in refusal(tmp_path, state(empty, b""))


def test_arrays_of_odd_orders_are_refused(tmp_path):
  bytes8, two = pickle.dumps(b"x" * 8, 3)[2:-1], b"(I2\nI1\nt"
  name = b"cnumpy.core.numeric\n_frombuffer\n("
  for rest in [
    b"VA\nt",
    b"V\nt",
    b"Nt",
    b"VK\n(I0\nI0\ntt",
    b"VK\n(I0\ntt",
    b"VK\n(I0\nI-1\ntt",
    b"VK\nVab\nt",
  ]:
    data = name + bytes8 + DTYPE + two + rest + b"R."
    assert "damaged" in refusal(tmp_path, data)
