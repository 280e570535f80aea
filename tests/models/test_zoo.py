"""Tests of the published models at full size, without allocating them."""

import ast
import copy
import functools
import pathlib
import subprocess
import sys
import textwrap

import haiku as hk
import jax
import pytest
from jax import numpy as jnp

import perceiver_jax.models
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.ops.execution import AUTO, PLAIN

# Counts derived by hand from the papers and DeepMind's code.
_KNOWN = {
  "imagenet_fourier": 48_440_627,
  "imagenet_learned": 62_255_848,
  "imagenet_conv": 48_646_522,
  "imagenet_icml": 44_912_254,
  "imagenet_icml_1": 42_135_859,
  "imagenet_icml_unshared": 326_241_856,
  "imagenet_icml_cross_only_4": 12_654_868,
  "imagenet_jft_fourier": 212_170_035,
  "imagenet_jft_fourier_projected": 213_082_618,
  "imagenet_jft_conv": 212_375_930,
  "language_bytes": 201_108_230,
  "language_bytes_plus_plus": 425_607_430,
  "language_sentencepiece": 223_155_456,
  # Embeddings, 12 layers of 7,087,872, the last norm and the logits' bias.
  "bert_base": 32_512 * 768 + 12 * 7_087_872 + 1_536 + 32_000,
  "flow": 41_057_134,
  "flow_16x1024": 27_908_974,
  "kinetics_784": 19_858_855,
  "kinetics_392": 19_658_151,
  "kinetics_196": 19_557_799,
}
_TINY = {
  "num_latents": 3,
  "num_latent_channels": 4,
  "num_blocks": 1,
  "num_self_attends_per_block": 1,
  "num_cross_attends": 1,
  "num_self_attend_heads": 2,
}


def _model(spec, execution=AUTO):
  return hk.transform_with_state(
    lambda raw, is_training, mask=None: zoo.build(spec, execution)(
      raw, is_training=is_training, input_mask=mask
    )
  )


def _variables(spec, raw):
  """Returns abstract parameters and state."""
  return jax.eval_shape(
    lambda key, x: _model(spec).init(key, x, True), jax.random.key(0), raw
  )


@functools.cache
def _published_variables(name):
  return _variables(zoo.get_spec(name), zoo.MODELS[name].example())


@pytest.mark.parametrize("name", _KNOWN)
def test_stated_parameter_counts_are_those_derived_by_hand(name):
  assert zoo.MODELS[name].num_parameters == _KNOWN[name]


@pytest.mark.parametrize("name", zoo.MODELS)
def test_stated_parameter_counts_are_those_of_the_built_model(name):
  entry = zoo.MODELS[name]
  before = len(jax.live_arrays())
  params, state = _published_variables(name)
  leaves = jax.tree.leaves(params)
  assert all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)
  assert len(jax.live_arrays()) <= before + 1  # Only the key is allocated.
  assert sum(x.size for x in leaves) == entry.num_parameters
  assert bool(state) == ("conv" in name), "only BatchNorm has state"


@pytest.mark.parametrize("name", zoo.MODELS)
def test_parameter_counts_agree_with_published_ones(name):
  entry = zoo.MODELS[name]
  if entry.published_parameters and not entry.note:
    published = float(entry.published_parameters)
    # IO++ is published truncated, not rounded, and autoencoders approximately.
    assert entry.num_parameters / 1e6 == pytest.approx(published, abs=0.7)
    if "." in entry.published_parameters:
      assert f"{entry.num_parameters / 1e6:.1f}" == entry.published_parameters


@pytest.mark.parametrize(
  "name", [n for n, entry in zoo.MODELS.items() if entry.published_flops]
)
def test_operations_agree_with_published_ones_or_have_a_note(name):
  entry = zoo.MODELS[name]
  model, raw = _model(entry.spec, PLAIN), entry.example()
  params, state = _published_variables(name)
  count = flops.count_flops(
    lambda p, s, x: model.apply(p, s, None, x, False)[0], params, state, raw
  )
  published = float(entry.published_flops) * 1e9
  matches = count == pytest.approx(published, rel=0.005)
  assert matches or entry.note, f"{count:.4g} against {published:.4g}"


def test_spec_is_a_copy():
  before = copy.deepcopy(zoo.MODELS["imagenet_fourier"].spec)
  spec = zoo.get_spec("imagenet_fourier")
  spec["num_classes"] = 3
  spec["encoder"]["num_blocks"] = 1
  spec["adapter"]["num_bands"] = 2
  spec["decoder"].clear()
  assert zoo.MODELS["imagenet_fourier"].spec == before
  assert zoo.get_spec("imagenet_fourier") == before
  # Models that share a section in the table do not share it in their specs.
  assert zoo.get_spec("imagenet_conv")["decoder"]["kind"] == "classification"


def test_an_unknown_model_is_refused_with_the_choices():
  with pytest.raises(ValueError, match="model 'resnet': choose one of") as e:
    zoo.get_spec("resnet")
  assert all(name in str(e.value) for name in zoo.MODELS)
  assert "\n" not in str(e.value)


def test_an_unknown_decoder_is_refused_with_the_choices():
  spec = zoo.get_spec("imagenet_fourier") | {"decoder": {"kind": "max"}}
  message = "decoder kind 'max': choose one of classification, "
  with pytest.raises(ValueError, match=message):
    _variables(spec, flops.abstract(1, 8, 8, 3))


def test_an_unknown_adapter_is_refused_with_the_choices():
  spec = zoo.get_spec("imagenet_fourier") | {"adapter": {"kind": "smell"}}
  message = "adapter kind 'smell': choose one of image, audio"
  with pytest.raises(ValueError, match=message):
    _variables(spec, flops.abstract(1, 8, 8, 3))


def _apply_small(spec, raw, mask=None):
  model = _model(spec)

  def run(key, raw, mask):
    params, state = model.init(key, raw, True, mask)
    return model.apply(params, state, None, raw, False, mask)[0]

  return jax.eval_shape(run, jax.random.key(0), raw, mask)


@pytest.mark.parametrize(
  "name",
  [
    n for n in zoo.MODELS if n.startswith("imagenet") and "transformer" not in n
  ],
)
def test_a_changed_spec_builds_a_small_classifier(name):
  spec = zoo.get_spec(name)
  spec["num_classes"] = 7
  spec["encoder"] |= _TINY
  out = _apply_small(spec, flops.abstract(2, 16, 16, 3))
  assert out.logits.shape == (2, 7)
  assert out.latents.shape == (2, 3, 4)


def test_a_transformer_on_pixels_has_a_latent_per_pixel():
  spec = zoo.get_spec("imagenet_transformer_64", num_classes=7)
  spec["encoder"]["num_layers"] = 1
  out = _apply_small(spec, flops.abstract(2, 8, 8, 3))
  assert out.logits.shape == (2, 7)
  assert out.latents.shape == (2, 64, 512)


def test_a_language_model_can_be_built_small_and_limits_its_length():
  spec = zoo.get_spec("language_bytes")
  spec["encoder"] |= _TINY | {"qk_channels": 8, "v_channels": 8}
  spec["adapter"] |= {"vocab_size": 11, "num_channels": 8, "max_length": 9}
  spec["decoder"] |= {"num_query_channels": 8, "max_length": 9}
  spec["decoder"] |= {"qk_channels": 8, "v_channels": 8}
  tokens = flops.abstract(2, 5, dtype=jnp.int32)
  out = _apply_small(spec, tokens, flops.abstract(2, 5, dtype=jnp.bool_))
  assert out.logits.shape == (2, 5, 11)
  with pytest.raises(ValueError, match="10 elements, but only"):
    _apply_small(spec, flops.abstract(2, 10, dtype=jnp.int32))


@pytest.mark.parametrize("name", [n for n in zoo.MODELS if "flow" in n])
def test_a_flow_model_can_be_built_for_any_image_size(name):
  spec = zoo.get_spec(name)
  spec["encoder"] |= _TINY
  spec["decoder"]["image_size"] = (6, 10)  # Not a multiple of the stem's 4.
  out = _apply_small(spec, flops.abstract(2, 2, 6, 10, 3))
  assert out.logits.shape == (2, 6, 10, 2)


_FOLDER = pathlib.Path(perceiver_jax.models.__file__).parent
_ALLOWED = {"jax", "haiku", "numpy", "jmp"}


@pytest.mark.parametrize(
  "path", sorted(_FOLDER.rglob("*.py")), ids=lambda p: p.stem
)
def test_models_import_only_jax_haiku_numpy_and_jmp(path):
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "imports are absolute"
      names.add(node.module)
  if path.name == "typing.py":
    names.discard("jaxtyping")  # Optional there; tested below.
  for name in names:
    top = name.split(".")[0]
    inside = name.startswith("perceiver_jax.models")
    assert inside or top in _ALLOWED | sys.stdlib_module_names, name


_BLOCKED = (
  "beartype chex clu flax grain jaxtyping ml_collections optax"
  " orbax tensorboardX tensorflow tensorflow_datasets torch PIL cv2 sklearn"
)
_SCRIPT = f"""
import importlib, pkgutil, sys

class Block:
  def find_spec(self, name, path=None, target=None):
    if any(name == b or name.startswith(b + ".") for b in blocked):
      raise ImportError(name)

blocked = {_BLOCKED.split()!r}
sys.meta_path.insert(0, Block())

import jax
import haiku as hk
import perceiver_jax.models as models

for module in pkgutil.walk_packages(models.__path__, models.__name__ + "."):
  importlib.import_module(module.name)
  print(module.name)

from perceiver_jax.models import (
  typing,
  zoo,
)

assert not hasattr(sys.modules.get("jaxtyping"), "Float")
spec = zoo.get_spec("imagenet_fourier")
spec["num_classes"] = 7
spec["encoder"] |= {_TINY!r}
spec["decoder"]["num_query_channels"] = 4
spec["adapter"]["num_bands"] = 2
model = hk.transform_with_state(
  lambda x: zoo.build(spec)(x, is_training=True)
)
x = jax.numpy.ones((2, 4, 4, 3))
params, state = jax.tree.map(
  lambda leaf: jax.numpy.ones(leaf.shape),
  jax.eval_shape(model.init, jax.random.key(0), x),
)
out, _ = jax.jit(model.apply)(params, state, None, x)
print(out.logits.shape, jax.numpy.isfinite(out.logits).all())
"""


def test_models_run_without_other_packages_installed():
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(_SCRIPT)],
    cwd=_FOLDER.parent.parent,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert "perceiver_jax.models.modalities.image" in lines
  assert lines[-1] == "(2, 7) True"


def test_an_unknown_leaf_is_named():
  spec = zoo.get_spec("imagenet_fourier", adapter={"no_such_leaf": 1})
  raw = zoo.MODELS["imagenet_fourier"].example(1)
  with pytest.raises(ValueError, match="'no_such_leaf'"):
    _variables(spec, raw)


def test_an_unknown_section_is_not_merged_into_a_spec():
  message = "unknown num_clases, unknown encodr; give adapter, encoder, decoder"
  with pytest.raises(ValueError, match=message):
    zoo.get_spec("imagenet_fourier", num_clases=7, encodr={"num_latents": 8})


@pytest.mark.parametrize(
  ("name", "removed", "changes", "message"),
  [
    ("imagenet_fourier", (), {"num_clases": 7}, "unknown num_clases; give"),
    (
      "imagenet_fourier",
      ("adapter", "decoder"),
      {},
      "missing adapter, missing decoder; give",
    ),
    ("imagenet_fourier", ("num_classes",), {}, "'num_classes'"),
    ("language_bytes", (), {"num_classes": 7}, "'num_classes'"),
    (
      "imagenet_fourier",
      (),
      {"encoder": {"num_latents": "8"}},
      "num_latents '8': give a value of type int",
    ),
    (
      "imagenet_fourier",
      (),
      {"encoder": {"shape_for_attn": 8}},
      "shape_for_attn 8: give a value of type str",
    ),
  ],
)
def test_wrong_sections_and_types_are_named(name, removed, changes, message):
  spec = zoo.get_spec(name) | changes
  spec = {k: v for k, v in spec.items() if k not in removed}
  with pytest.raises(ValueError, match=message):
    _variables(spec, zoo.MODELS[name].example())


def test_elements_of_each_modality_are_counted():
  raw = {
    "audio": flops.abstract(1, 61_440, 1),
    "image": flops.abstract(1, 32, 224, 224, 3),
  }
  counts = zoo.num_inputs(zoo.get_spec("audioset_icml_raw_video"), raw)
  assert list(counts.items()) == [("audio", 480), ("image", 12_544)]
  raw["audio"] = flops.abstract(1, 30_720, 1)
  raw["image"] = flops.abstract(1, 16, 224, 224, 3)
  raw["label"] = flops.abstract(1, 700)
  counts = zoo.num_inputs(zoo.get_spec("kinetics_784"), raw)
  assert counts == {"audio": 1_920, "image": 50_176, "label": 1}
