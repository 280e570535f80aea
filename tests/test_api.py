"""The names that `perceiver_jax` exports."""

import subprocess
import sys

import pytest

import perceiver_jax
from perceiver_jax import api


def test_the_package_exports_the_names_of_its_api_with_docstrings():
  for name in perceiver_jax.__all__:
    assert getattr(perceiver_jax, name) is getattr(api, name)
    assert getattr(perceiver_jax, name).__doc__
    assert name in dir(perceiver_jax)
  assert not hasattr(perceiver_jax, "no_such_name")


def test_importing_the_package_imports_neither_jax_nor_data_libraries():
  code = (
    "import sys, perceiver_jax; assert 'jax' not in sys.modules;"
    "perceiver_jax.transform;"
    "assert not {'tensorflow', 'torch', 'grain'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_overrides_change_only_the_leaves_they_name():
  expected = perceiver_jax.get_spec("imagenet_fourier")
  spec = perceiver_jax.get_spec(
    "imagenet_fourier", num_classes=3, encoder={"num_latents": 4}
  )
  expected["num_classes"], expected["encoder"]["num_latents"] = 3, 4
  assert spec == expected


def test_an_override_with_a_kind_replaces_the_section():
  decoder = {"kind": "arrays", "num_outputs": 2}
  spec = perceiver_jax.get_spec("imagenet_fourier", decoder=decoder)
  assert spec["decoder"] == decoder


def test_published_models_have_input_shapes_and_others_are_refused():
  shape = perceiver_jax.input_shapes("modelnet40", batch_size=2).shape
  assert shape == (2, 2048, 3)
  assert "modelnet40" in perceiver_jax.published_models()
  with pytest.raises(ValueError, match="choose one of"):
    perceiver_jax.input_shapes("resnet")
