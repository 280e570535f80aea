"""The names that `perceiver_jax` exports."""

import subprocess
import sys

import pytest

import perceiver_jax
from perceiver_jax import api


def test_exports_are_those_of_the_api():
  assert perceiver_jax.__all__ == api.__all__
  for name in api.__all__:
    assert getattr(perceiver_jax, name) is getattr(api, name)
    assert getattr(perceiver_jax, name).__doc__
    assert name in dir(perceiver_jax)
  assert not hasattr(perceiver_jax, "no_such_name")


def test_import_is_light():
  code = (
    "import sys, perceiver_jax; assert 'jax' not in sys.modules;"
    "perceiver_jax.transform;"
    "assert not {'tensorflow', 'torch', 'grain'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_overrides_change_only_the_leaves_they_name():
  want = perceiver_jax.get_spec("imagenet_fourier")
  spec = perceiver_jax.get_spec(
    "imagenet_fourier", num_classes=3, encoder={"num_latents": 4}
  )
  want["num_classes"], want["encoder"]["num_latents"] = 3, 4
  assert spec == want


def test_an_override_with_a_kind_replaces_the_section():
  decoder = {"kind": "arrays", "num_outputs": 2}
  spec = perceiver_jax.get_spec("imagenet_fourier", decoder=decoder)
  assert spec["decoder"] == decoder


def test_inputs_of_a_published_model():
  shape = perceiver_jax.input_shapes("modelnet40", batch_size=2).shape
  assert shape == (2, 2048, 3)
  assert "modelnet40" in perceiver_jax.published_models()
  with pytest.raises(ValueError, match="choose one of"):
    perceiver_jax.input_shapes("resnet")
