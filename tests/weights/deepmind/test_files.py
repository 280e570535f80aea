"""Tests of reading the files that DeepMind released."""

import json
import pathlib

import numpy as np
import pytest

from perceiver_jax import weights
from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import model
from perceiver_jax.weights.deepmind import files as deepmind_files
from perceiver_jax.weights.deepmind import names as deepmind_names

_TREES = pathlib.Path(__file__).parents[2] / "golden" / "parameter_trees"
_COUNTS = {
  "imagenet_fourier": 48_440_627,
  "imagenet_learned": 62_255_848,
  "imagenet_conv": 48_646_522,
  "language_bytes": 201_108_230,
  "flow": 41_057_134,
  "kinetics_784": 19_858_855,
}


@pytest.fixture(autouse=True, scope="module")
def _shapes_once():
  """Traces each full-size model only once, to save time."""
  abstract, made = model.abstract_variables, {}

  def once(spec, raw):
    if str(spec) not in made:
      made[str(spec)] = abstract(spec, raw)
    return made[str(spec)]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(model, "abstract_variables", once)
    yield


def _tree(name, part):
  """Returns a tree of DeepMind's names and shapes, of single bytes."""
  flat = json.loads((_TREES / f"{name}.json").read_text())[part]
  zero = np.zeros((), np.int8)
  leaves = {key: np.broadcast_to(zero, shape) for key, shape in flat.items()}
  return model.unflatten(leaves)


def _sizes(tree):
  return sum(leaf.size for leaf in model.flatten(tree).values())


def test_every_release_is_tested():
  assert {r.name for r in deepmind_files.RELEASES} == set(_COUNTS)
  assert all(r.url.startswith("https://") for r in deepmind_files.RELEASES)


@pytest.mark.parametrize("name", _COUNTS)
def test_a_full_size_tree_is_converted_and_identified(name, monkeypatch):
  params, state = _tree(name, "params"), _tree(name, "state")
  monkeypatch.setattr(
    deepmind_files, "read_variables", lambda _: (params, state)
  )
  loaded = deepmind_files.load("file.pystate")
  assert loaded.spec == zoo.get_spec(name)
  # `load` compares shapes with those of the model.
  assert _sizes(loaded.params) == _sizes(params) == _COUNTS[name]
  assert _sizes(loaded.state) == _sizes(state)
  assert bool(state) == (name == "imagenet_conv")


@pytest.mark.parametrize("name", ["hip_16", "hip_256"])
def test_a_tree_of_the_authors_code_is_loaded_by_name(name, monkeypatch):
  params = _tree(name, "params")
  monkeypatch.setattr(deepmind_files, "read_variables", lambda _: (params, {}))
  loaded = deepmind_files.load("file.pickle", name)
  assert _sizes(loaded.params) == zoo.MODELS[name].num_parameters


def _perceiver_ar_tree(spec, example):
  """Returns a tree of the authors' names, of a model with one self-attend."""
  params, _ = model.abstract_variables(spec, example)
  renamed = {
    "adapter": "~/embed",
    "encoder/latents": "~/linear",
    "decoder/norm": "layer_norm",
    "decoder/logits": "~/logits",
  }
  for ours, theirs, names in (
    ("encoder/cross_attend_0", "~/cross_attention", deepmind_names._CROSS),
    (
      "encoder/block_0/layers/self_attend",
      "~/self_attention",
      deepmind_names._SELF,
    ),
  ):
    renamed |= {f"{ours}/{x}": f"{theirs}/{y}" for y, x in names.items()}
  zero = np.zeros((), np.int8)
  return {
    f"perceiver_ar/{renamed[module]}": {
      leaf: np.broadcast_to(zero, x.shape["block_0" in module :])
      for leaf, x in leaves.items()
    }
    for module, leaves in params.items()
  }


@pytest.mark.parametrize("by", ["name", "spec"])
def test_fixed_positions_of_perceiver_ar_are_left_out(by, monkeypatch):
  name = "perceiver_ar_copy_32"
  entry = zoo.MODELS[name]
  params = _perceiver_ar_tree(entry.spec, entry.example())
  table = np.broadcast_to(np.int8(0), (33, 1024))
  params["perceiver_ar/~/embed_1"] = {"embeddings": table}
  monkeypatch.setattr(deepmind_files, "read_variables", lambda _: (params, {}))
  given = {"name": name} if by == "name" else {"spec": entry.spec}
  loaded = deepmind_files.load("file.pickle", **given)
  assert _sizes(loaded.params) == entry.num_parameters
  learned = {**entry.spec["adapter"], "positions": "learned"}
  given = {"spec": {**entry.spec, "adapter": learned}}
  loaded = deepmind_files.load("file.pickle", **given)
  assert "adapter/positions_0" in loaded.params


def test_two_layers_of_one_number_are_refused():
  params = _tree("flow", "params")
  prefix = "perceiver_encoder/~/self_attention/"
  layer = {k: v for k, v in params.items() if k.startswith(prefix)}
  assert layer
  params |= {
    k.replace("self_attention", "self_attention_0"): v for k, v in layer.items()
  }
  with pytest.raises(ValueError, match=r"two tensors are called encoder/.*/0"):
    deepmind_names.convert(params)


def test_each_released_tensor_is_used_once():
  tree = _tree("kinetics_784", "params")
  number = iter(range(1, 1000))
  marked = {
    module: {leaf: np.float32(next(number)) for leaf in leaves}
    for module, leaves in tree.items()
  }
  out = model.flatten(deepmind_names.convert(marked))
  values = np.concatenate([np.ravel(x) for x in out.values()])
  count = len(model.flatten(marked))
  assert sorted(values) == list(range(1, count + 1))


def test_other_shapes_are_not_identified(monkeypatch):
  params = _tree("flow", "params")
  params["flow_decoder/~/basic_decoder/output"]["b"] = np.zeros(3, np.int8)
  monkeypatch.setattr(deepmind_files, "read_variables", lambda _: (params, {}))
  with pytest.raises(UserError, match="none of the released models"):
    deepmind_files.load("file.pystate")
  message = "decoder/output/b is \\(3,\\) in the file and \\(2,\\) in the model"
  with pytest.raises(UserError, match=message):
    deepmind_files.load("file.pystate", "flow")
  with pytest.raises(UserError, match=r"'nosuch' is unknown.* flow"):
    deepmind_files.load("file.pystate", "nosuch")


def test_unknown_names_are_refused(monkeypatch):
  params = {**_tree("flow", "params"), "mystery": {"w": np.zeros(1)}}
  monkeypatch.setattr(deepmind_files, "read_variables", lambda _: (params, {}))
  with pytest.raises(UserError, match="unknown module"):
    deepmind_files.load("file.pystate")


def test_the_download_hint_names_the_files():
  text = deepmind_files.download_hint("flow")
  assert "perceiver_io/optical_flow_checkpoint.pystate" in text
  assert "--weights=FILE" in text
  assert "imagenet" not in text


def test_the_suffix_decides_the_format(tmp_path):
  path = tmp_path / "flow.pickle"
  path.write_bytes(b"not a pickle")
  with pytest.raises(UserError, match="pickle"):
    weights.load(path)
