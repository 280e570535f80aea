"""A tiny run of the real task, and compiles that take a moment."""

import jax
import ml_collections
import pytest

from configs import base


def _tiny_config() -> ml_collections.ConfigDict:
  """Digits, four latents of eight channels, one self-attend."""
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
  """Makes a new `tiny_config`, for fixtures that live longer than a test."""
  return _tiny_config


@pytest.fixture
def tiny_config(make_tiny_config) -> ml_collections.ConfigDict:
  """A tiny run of the real task."""
  return make_tiny_config()


@pytest.fixture
def tiny_conv_config(tiny_config) -> ml_collections.ConfigDict:
  """The same behind the convolution stem, with its batch statistics."""
  tiny_config.model.adapter.update(
    prep_type="conv", num_channels=4, spatial_downsample=4
  )
  return tiny_config


@pytest.fixture(scope="module")
def quick_compile():
  """Halves the time XLA takes for programs that run a few steps only."""
  name = "jax_disable_most_optimizations"
  jax.config.update(name, True)
  yield
  jax.config.update(name, False)
