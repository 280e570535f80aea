"""Eight fake CPU devices, parsed flags, and shapes checked at run time."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jaxtyping
import pytest
from absl import flags

jaxtyping.install_import_hook("perceiver_jax.models", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def _parsed_flags():
  # Grain's worker processes read absl flags.
  flags.FLAGS.mark_as_parsed()
