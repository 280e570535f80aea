import collections
import os
import pickle
import pickletools
import tracemalloc

import haiku as hk
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from pickle_writing import (
  DTYPE,
  EMPTY,
  OLD_RECONSTRUCT,
  PROTOCOLS,
  Named,
  assert_same,
  read,
  refusal,
  write,
)

from perceiver_jax import errors
from perceiver_jax.weights.deepmind import files as deepmind_files
from perceiver_jax.weights.unpickle import trees

FLAT_MAPPING = ("haiku._src.data_structures", "FlatMapping")
DTYPES = ["f4", "f2", "f8", "i4", "i8", "u1", "u4", "?", ml_dtypes.bfloat16]
SHAPES = [(), (0,), (3, 0), (4,), (2, 3), (2, 3, 4)]


def old_array(monkeypatch, array):
  """Pickles an array as NumPy 1.x and JAX 0.2 did."""
  _, args, state = array.__reduce__()
  return Named(monkeypatch, OLD_RECONSTRUCT, args, state)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_arrays_of_every_kind(tmp_path, protocol):
  rng = np.random.default_rng(0)
  tree = {
    f"{np.dtype(dtype)}{shape}": {
      "c": np.asarray(rng.integers(-9, 9, shape)).astype(dtype),
      "f": np.asfortranarray(rng.integers(0, 9, shape)).astype(dtype),
    }
    for dtype in DTYPES
    for shape in SHAPES
  }
  assert_same(read(tmp_path, tree, protocol), tree)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_views_foreign_byte_orders_and_scalars(tmp_path, protocol):
  array = np.arange(24, dtype="f4").reshape(2, 3, 4)
  tree_read = read(
    tmp_path,
    {
      "transposed": array.transpose(1, 0, 2),
      "strided": array[:, ::2],
      "big": array.astype(">f4"),
      "big_scalar": np.array(7, ">i8"),
      "scalar": np.float32(1.5),
      "bool": np.bool_(True),
    },
    protocol,
  )
  expected = {
    "transposed": array.transpose(1, 0, 2),
    "strided": array[:, ::2],
    "big": array,
    "big_scalar": np.array(7),
    "scalar": np.array(1.5, "f4"),
    "bool": np.array(True),
  }
  assert_same(tree_read, expected)
  assert tree_read["big"].dtype.isnative


def test_keeps_fortran_order_and_is_read_only(tmp_path):
  for protocol in PROTOCOLS:
    tree_read = read(tmp_path, {"w": np.ones((2, 3), order="F")}, protocol)["w"]
    assert tree_read.flags.f_contiguous
    assert not tree_read.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_files_in_the_released_format(tmp_path, monkeypatch, protocol):
  params = {
    "perceiver_encoder/~/self_attention/mlp/linear": {
      "w": np.arange(6, dtype="f4").reshape(2, 3),
      "b": np.zeros(3, "f4"),
    },
    "latents": {"pos_embs": np.ones((2, 2), "f4")},
  }
  state = {"batchnorm/~/mean_ema": {"counter": np.array(3, "i4")}}

  def written(tree):
    flat = {
      module: Named(
        monkeypatch,
        FLAT_MAPPING,
        ({name: old_array(monkeypatch, a) for name, a in leaves.items()},),
      )
      for module, leaves in tree.items()
    }
    return Named(monkeypatch, FLAT_MAPPING, (flat,))

  both = {"params": written(params), "state": written(state)}
  path = write(tmp_path, both, protocol)
  names = {
    argument.split(" ")[1]
    for opcode, argument, _ in pickletools.genops(path.read_bytes())
    if opcode.name == "GLOBAL"
  }
  if protocol < 4:
    assert {"FlatMapping", "_reconstruct", "ndarray", "dtype"} <= names
  assert_same(trees.read_tree(path), {"params": params, "state": state})
  assert_same(deepmind_files.read_variables(path)[0], params)
  assert_same(deepmind_files.read_variables(path)[1], state)

  path = write(tmp_path, written(params), protocol)
  assert_same(deepmind_files.read_variables(path)[0], params)
  assert deepmind_files.read_variables(path)[1] == {}


@pytest.mark.parametrize("name", ["FlatMapping", "FlatMap", "frozendict"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_every_mapping_of_haiku(tmp_path, monkeypatch, name, protocol):
  inner = {"b": np.zeros(2)}
  place = ("haiku._src.data_structures", name)
  tree_read = read(
    tmp_path, Named(monkeypatch, place, ({"a": inner},)), protocol
  )
  assert_same(tree_read, {"a": inner})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_pickles_of_the_installed_haiku_and_jax(tmp_path, protocol):
  tree = {"lin": {"w": jnp.ones((2, 3)), "b": jnp.zeros(2, jnp.bfloat16)}}
  expected = {"lin": {k: np.asarray(v) for k, v in tree["lin"].items()}}
  flat = hk.data_structures.to_immutable_dict(tree)
  for value in (tree, flat, collections.OrderedDict(tree)):
    assert_same(read(tmp_path, value, protocol), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("installed", [False, True])
def test_reads_wrapped_device_arrays(
  tmp_path, monkeypatch, protocol, installed
):
  array = np.arange(6, dtype="f4").reshape(2, 3)
  function, args, state = array.__reduce__()
  place = ("jax._src.device_array", "reconstruct_device_array")
  aval = {"weak_type": False, "named_shape": {}}
  if not installed:
    function = Named(monkeypatch, OLD_RECONSTRUCT).__reduce__()[0]
  value = Named(monkeypatch, place, (function, args, state, aval))
  assert_same(read(tmp_path, {"w": value}, protocol), {"w": array})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_mappings_and_arrays_stay_shared(tmp_path, protocol):
  array = np.ones(3)
  leaves = {"w": array, "v": array}
  tree_read = read(tmp_path, {"a": leaves, "b": leaves}, protocol)
  assert_same(tree_read, {"a": leaves, "b": leaves})
  assert tree_read["a"] is tree_read["b"]
  assert tree_read["a"]["w"] is tree_read["a"]["v"]


@pytest.mark.parametrize(
  ("tree", "held"),
  [
    ({}, "nothing"),
    ({"params": {}}, "params"),
    ({"params": np.ones(2)}, "params"),
    ({"w": np.ones(2)}, "w"),
    ({"params": {"lin": {"w": np.ones(2)}}, "state": np.ones(2)}, "state"),
    ({"params": {"lin": np.ones(2)}, "state": {}}, "params, state"),
    ({"a": {"b": {"c": np.ones(2)}}}, "a"),
  ],
)
def test_read_variables_refuses_other_structures(tmp_path, tree, held):
  path = write(tmp_path, tree)
  assert_same(trees.read_tree(path), tree)
  with pytest.raises(errors.UserError, match=f"holds .*{held}; it must map"):
    deepmind_files.read_variables(path)


def test_unreadable_files_are_refused(tmp_path):
  missing, pipe = tmp_path / "missing", tmp_path / "pipe"
  os.mkfifo(pipe)
  for path, reason in [
    (missing, "No such file"),
    (tmp_path, "not a regular file"),
    (pipe, "not a regular file"),
    ("/dev/null", "not a regular file"),
    (missing / ("x" * 300), "[Nn]ame too long|No such file"),
    ("nul\0", "No such file"),
  ]:
    with pytest.raises(errors.UserError, match=reason):
      trees.read_tree(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
  ("value", "kind"),
  [(1, "int"), (1.5, "float"), ("x", "str"), (b"xy", "bytes"), (None, "None")],
)
def test_other_leaves_are_refused(tmp_path, protocol, value, kind):
  for leaf in (value, [value], (value,)):
    message = refusal(tmp_path, {"a": {"b": leaf}}, protocol)
    expected = type(leaf).__name__ if leaf is not value else kind
    assert f"holds a value of type {expected}" in message
    assert "as a/b, not an array" in message
    message = refusal(tmp_path, pickle.dumps(leaf, protocol))
    assert f"holds a value of type {expected}" in message
    assert "not a mapping" in message


def test_unfinished_leaves_are_refused(tmp_path):
  for value, kind in [
    (EMPTY, "an unfilled array"),
    (DTYPE, "the type float32"),
    (b"cnumpy\nndarray\n", "numpy.ndarray"),
  ]:
    message = refusal(tmp_path, b"}Va\n" + value + b"s.")
    assert f"holds {kind} as a, not an array" in message
  root = refusal(tmp_path, np.ones(2))
  assert "the file holds an array, not a mapping" in root


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_keys_are_refused(tmp_path, protocol):
  for key in (1, None, b"xy", (1, 2), 1.5, True):
    message = refusal(tmp_path, {"a": {key: np.ones(2)}}, protocol)
    assert f"type {type(key).__name__} as a key" in message
  for key in ("a\nb", "\x1b[31m", "\ud800", "\u202e", "x" * 1001):
    assert "not printable" in refusal(tmp_path, {key: np.ones(2)}, protocol)


def test_mappings_that_contain_themselves_are_refused(tmp_path):
  tree = {"a": {}}
  tree["a"]["b"] = tree
  assert "contains itself, a/b" in refusal(tmp_path, tree)
  wide = {}
  wide.update({f"k{i}": wide for i in range(1000)})
  assert "contains itself, k0" in refusal(tmp_path, wide)


def nested(depth, width=1):
  tree = {"leaf": np.ones(1)}
  for _ in range(depth):
    tree = {f"k{i}": tree for i in range(width)}
  return tree


def test_deep_nesting_is_refused(tmp_path):
  assert_same(read(tmp_path, nested(14)), nested(14))
  assert "more than 16 deep" in refusal(tmp_path, nested(40))
  deep = b"}Vk\n" * 60_000 + b"}" + b"s" * 60_000 + b"."
  assert "more than 16 deep" in refusal(tmp_path, deep)


def test_shared_mappings_are_converted_once(tmp_path):
  tree = read(tmp_path, nested(12, width=2))
  assert tree["k0"] is tree["k1"]
  for _ in range(12):
    tree = tree["k1"]
  assert_same(tree, nested(0))


def test_mappings_that_are_shared_too_often_are_refused(tmp_path):
  # Visiting every path would mean 100 ** 12 leaves.
  assert "at most 100,000" in refusal(tmp_path, nested(12, width=100))
  names = {str(number): np.zeros(0) for number in range(2)}
  names |= dict.fromkeys(map(str, range(20_000)), names["0"])
  tree = {"a": dict.fromkeys(map(str, range(20_000)), names)}
  assert "400,000,000 arrays" in refusal(tmp_path, tree)


def test_memory_is_proportional_to_the_file_size(tmp_path):
  arrays = {f"a{i}": np.full(2**18, i, "f4") for i in range(16)}
  for protocol, factor in [(2, 4), (3, 2.1), (5, 2.1)]:
    path = write(tmp_path, {"m": arrays}, protocol)
    size = path.stat().st_size
    tracemalloc.start()
    trees.read_tree(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < factor * size
