"""Tests of writing and reading .safetensors files."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from perceiver_jax import weights
from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo

_SPEC = zoo.get_spec(
  "imagenet_conv",
  num_classes=2,
  encoder={
    "num_latents": 3,
    "num_latent_channels": 4,
    "num_self_attends_per_block": 0,
  },
)


def _weights(dtype=np.float32):
  rng = np.random.default_rng(0)
  array = lambda *shape: rng.normal(size=shape).astype(dtype)
  return weights.Weights(
    _SPEC,
    {
      "encoder/latents": {"embeddings": array(3, 4)},
      "decoder/output": {"b": array(2)},
    },
    {
      "adapter/norm/~/mean_ema": {"counter": np.int32(7), "hidden": array(1, 4)}
    },
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_round_trip_is_bitwise(tmp_path, dtype):
  path, saved = tmp_path / "model.safetensors", _weights(dtype)
  weights.save(path, saved)
  loaded = weights.load(path)
  assert loaded.spec == saved.spec
  for tree, expected in (
    (loaded.params, saved.params),
    (loaded.state, saved.state),
  ):
    assert set(tree) == set(expected)
    for module, leaves in expected.items():
      for name, leaf in leaves.items():
        np.testing.assert_array_equal(
          tree[module][name], np.asarray(leaf), strict=True
        )
  assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
  path = tmp_path / "model.safetensors"
  weights.save(path, _weights())
  before = path.read_bytes()

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.replace", full)
  with pytest.raises(UserError, match="No space left"):
    weights.save(path, _weights(np.float16))
  assert path.read_bytes() == before
  assert len(list(tmp_path.iterdir())) == 1


def test_other_suffixes_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"end in \.safetensors"):
    weights.save(tmp_path / "model.bin", _weights())
  (tmp_path / "model.bin").touch()
  with pytest.raises(UserError, match="has an unknown format"):
    weights.load(tmp_path / "model.bin")


def test_a_missing_folder_is_refused(tmp_path):
  with pytest.raises(UserError, match="can't be written"):
    weights.save(tmp_path / "no" / "model.safetensors", _weights())
  with pytest.raises(UserError, match="no weights at"):
    weights.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_files_are_refused(tmp_path, size):
  path = tmp_path / "model.safetensors"
  weights.save(path, _weights())
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(UserError, match="can't be read"):
    weights.load(path)


@pytest.mark.parametrize(
  ("header", "message"),
  [
    (None, "of another project"),
    ({"format": "pt"}, "of another project"),
    ({"format": "perceiver_jax", "spec": "{}"}, "has no adapter"),
    ({"format": "perceiver_jax", "spec": "["}, "damaged spec"),
    ({"format": "perceiver_jax", "spec": "[" * 10**5}, "nested too deeply"),
    ({"format": "perceiver_jax", "spec": "9" * 10**5}, "damaged spec"),
    (
      {
        "format": "perceiver_jax",
        "spec": json.dumps(_SPEC | {"decoder": {"kind": "x"}}),
      },
      "decoder.kind is 'x'",
    ),
  ],
)
def test_files_of_other_projects_are_refused(tmp_path, header, message):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file({"w": np.ones(2)}, path, header)
  with pytest.raises(UserError, match=message):
    weights.load(path)


def test_a_finished_run_is_loaded_by_its_folder(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(UserError, match="not finished"):
    weights.load(tmp_path)
  weights.save(tmp_path / weights.EXPORT, _weights())
  assert weights.load(tmp_path).spec == _SPEC


def test_equal_weights_are_written_as_equal_bytes(tmp_path):
  files = [tmp_path / f"{number}.safetensors" for number in range(8)]
  for file in files:
    weights.save(file, _weights())
  assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(("dtype", "bits"), [("F8_E4M3", 8), ("F4", 4)])
def test_types_without_a_numpy_type_are_named(tmp_path, dtype, bits):
  size = 4 * bits // 8
  header = json.dumps(
    {"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}
  ).encode()
  path = tmp_path / "model.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
  with pytest.raises(UserError, match=f"a has the type {dtype}"):
    weights.load(path)


def test_a_pipe_is_refused(tmp_path):
  path = tmp_path / "model.safetensors"
  os.mkfifo(path)
  with pytest.raises(UserError, match="a pipe and not a regular file"):
    weights.load(path)
