"""The papers' models at full size, by shapes alone; what models import."""

import ast
import copy
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

_SIZES = {
  "imagenet_fourier": 48_440_627,
  "imagenet_learned": 62_255_848,
  "imagenet_conv": 48_646_522,
  "imagenet_icml": 44_912_254,
  "imagenet_icml_1": 42_135_859,
  "imagenet_icml_unshared": 326_241_856,
}
_TINY = {
  "num_latents": 3,
  "num_latent_channels": 4,
  "num_blocks": 1,
  "num_self_attends_per_block": 1,
  "num_cross_attends": 1,
  "num_self_attend_heads": 2,
}


def _variables(spec, *shape):
  """Shapes of parameters and state; nothing is allocated."""
  model = hk.transform_with_state(
    lambda x, is_training: zoo.build(spec)(x, is_training=is_training)
  )
  return jax.eval_shape(
    lambda key, x: model.init(key, x, True),
    jax.random.key(0),
    flops.abstract(*shape),
  )


def test_every_model_is_tested():
  assert set(_SIZES) == set(zoo.MODELS)


@pytest.mark.parametrize("name", _SIZES)
def test_number_of_parameters_at_full_size(name):
  entry = zoo.MODELS[name]
  before = len(jax.live_arrays())
  params, _ = _variables(zoo.spec(name), 1, *entry.input_shape)
  leaves = jax.tree.leaves(params)
  assert all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves)
  assert len(jax.live_arrays()) <= before + 1  # At most the key.
  assert sum(x.size for x in leaves) == entry.num_parameters == _SIZES[name]
  millions = entry.published.split("M")[0]
  assert f"{entry.num_parameters / 1e6:.1f}" == millions


def test_only_the_convolutional_model_has_state():
  for name, entry in zoo.MODELS.items():
    _, state = _variables(entry.spec, 1, *entry.input_shape)
    assert bool(state) == (name == "imagenet_conv"), name


def test_spec_is_a_copy():
  before = copy.deepcopy(zoo.MODELS["imagenet_fourier"].spec)
  spec = zoo.spec("imagenet_fourier")
  spec["num_classes"] = 3
  spec["encoder"]["num_blocks"] = 1
  spec["adapter"]["num_bands"] = 2
  spec["decoder"].clear()
  assert zoo.MODELS["imagenet_fourier"].spec == before
  assert zoo.spec("imagenet_fourier") == before
  # Models that share a section in the table do not share it in their specs.
  assert zoo.spec("imagenet_conv")["decoder"]["kind"] == "query"


def test_unknown_model_names_the_choices():
  with pytest.raises(ValueError, match="model 'resnet': choose one of") as e:
    zoo.spec("resnet")
  assert all(name in str(e.value) for name in zoo.MODELS)
  assert "\n" not in str(e.value)


def test_unknown_decoder_names_the_choices():
  spec = zoo.spec("imagenet_fourier") | {"decoder": {"kind": "max"}}
  message = "decoder kind 'max': choose one of query, average"
  with pytest.raises(ValueError, match=message):
    _variables(spec, 1, 8, 8, 3)


@pytest.mark.parametrize("name", _SIZES)
def test_a_changed_spec_builds_a_small_model(name):
  spec = zoo.spec(name)
  spec["num_classes"] = 7
  spec["encoder"] |= _TINY
  build = lambda x, is_training: zoo.build(spec)(x, is_training=is_training)
  model = hk.transform_with_state(build)

  def run(key, x):
    params, state = model.init(key, x, True)
    return model.apply(params, state, None, x, False)[0]

  images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
  out = jax.eval_shape(run, jax.random.key(0), images)
  assert out.logits.shape == (2, 7)
  assert out.latents.shape == (2, 3, 4)


_FOLDER = pathlib.Path(perceiver_jax.models.__file__).parent
_ALLOWED = {"jax", "haiku", "numpy", "jmp"}


@pytest.mark.parametrize(
  "path", sorted(_FOLDER.rglob("*.py")), ids=lambda p: p.stem
)
def test_models_import_little(path):
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

from perceiver_jax.models import typing, zoo

assert not hasattr(sys.modules.get("jaxtyping"), "Float")
spec = zoo.spec("imagenet_fourier")
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


def test_models_run_where_nothing_else_is_installed():
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(_SCRIPT)],
    cwd=_FOLDER.parent.parent,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert "perceiver_jax.models.adapters.image" in lines
  assert lines[-1] == "(2, 7) True"
