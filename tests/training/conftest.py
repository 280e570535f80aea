"""Provides a tiny config of image classification and quick compilation."""

import jax
import ml_collections
import pytest

from configs import base


def _tiny_config() -> ml_collections.ConfigDict:
  """Returns a config of the digits with four latents and one self-attend."""
  config = base.image_classification()
  config.num_steps = 20
  config.batch_size = 16
  config.data.source = "digits"
  config.data.image_shape = (8, 8, 1)
  config.model = {
    "num_classes": 10,
    "adapter": {
      "prep_type": "pixels",
      "position_encoding": "fourier",
      "num_bands": 1,
    },
    "encoder": {
      "num_latents": 4,
      "num_latent_channels": 8,
      "num_blocks": 1,
      "num_self_attends_per_block": 1,
      "num_self_attend_heads": 2,
    },
    "decoder": {"kind": "classification", "num_query_channels": 8},
  }
  return config


@pytest.fixture(scope="session")
def make_tiny_config():
  """Returns a function that makes a `tiny_config`, for module fixtures."""
  return _tiny_config


@pytest.fixture
def tiny_config(make_tiny_config) -> ml_collections.ConfigDict:
  """Returns the config of a tiny run of image classification."""
  return make_tiny_config()


@pytest.fixture
def tiny_conv_config(tiny_config) -> ml_collections.ConfigDict:
  """Returns a `tiny_config` with a convolution stem and its batch norm."""
  tiny_config.model.adapter.update(
    prep_type="conv", num_channels=4, spatial_downsample=4
  )
  return tiny_config


@pytest.fixture(scope="module")
def quick_compile():
  """Halves the compile time of programs that run only a few steps."""
  name = "jax_disable_most_optimizations"
  jax.config.update(name, True)
  yield
  jax.config.update(name, False)
