"""Tests that gradients reach every parameter of every kind of model."""

import jax
import numpy as np
import plain
import pytest
import small
from jax import numpy as jnp

from perceiver_jax.models import zoo

# One model of each structure; the others differ in size only.
_COMMON = (
  "imagenet_learned",
  "flow",
  "flow_conv",
  "kinetics_784",
  "audioset_io_raw_video",
  "modelnet40",
  "starcraft",
)
_REST = (
  "imagenet_fourier",
  "imagenet_jft_fourier_projected",
  "imagenet_transformer_64",
  "imagenet_conv",
  "imagenet_learned_average",
  "imagenet_conv_average",
  "imagenet_icml",
  "imagenet_icml_unshared",
  "imagenet_icml_learned",
  "imagenet_icml_cross_only_4",
  "language_bytes",
  "byte_bert",
  "flow_pixels_separate",
  "flow_conv_separate",
  "audioset_icml_raw",
  "audioset_icml_video",
  "audioset_icml_raw_video",
  "audioset_average_raw_video",
  "modelnet40_transformer",
  "starcraft_transformer",
)


def _structure(name):
  """Returns the parts of a model without their sizes."""
  spec = small.spec(name)
  leaves = (
    "kind",
    "prep_type",
    "position_encoding",
    "concat_frames",
    "use_convolutions",
    "share_cross_attends",
    "share_blocks",
    "num_self_attends_per_block",
  )
  return str(
    [
      [section.get(leaf) for leaf in leaves]
      + sorted(section.get("modalities", {}))
      for section in (spec["adapter"], spec["encoder"], spec["decoder"])
    ]
  )


def test_every_structure_of_the_zoo_is_tested():
  tested = {_structure(name) for name in _COMMON + _REST}
  names = [n for n, entry in zoo.MODELS.items() if small.is_known(entry.spec)]
  assert tested == {_structure(name) for name in names}


def _raw(name):
  raw = small.raw(name)
  if "kinetics" in name:
    raw["masked"] = {
      "audio": jnp.asarray([[True, False, True, False], [False] * 4]),
      "image": jnp.asarray([[False, True] * 4] * 2),
      "label": jnp.asarray([True, False]),
    }
  return raw


def _gradients(name):
  """Returns gradients of a projection of all outputs at random parameters."""
  model = small.model(small.spec(name))
  raw, mask = _raw(name), small.mask(name)
  params, state = plain.random_like(
    small.shapes(model, raw, input_mask=mask), seed=2
  )

  def loss(params):
    out, _ = model.apply(params, state, None, raw, input_mask=mask)
    leaves = jax.tree.leaves(out.logits)
    return sum(
      (x * plain.normal(*x.shape, seed=i)).sum() for i, x in enumerate(leaves)
    )

  return plain.jit(jax.grad(loss))(params)


@pytest.mark.parametrize(
  "name",
  [*_COMMON, *(pytest.param(n, marks=pytest.mark.slow) for n in _REST)],
)
def test_gradients_reach_every_parameter(name):
  flat = {
    f"{module}/{leaf}": np.asarray(value)
    for module, leaves in _gradients(name).items()
    for leaf, value in leaves.items()
    # The softmax ignores a constant, so the gradient of a key's bias is zero.
    if (module.rpartition("/")[2], leaf) != ("key", "b")
  }
  assert all(np.isfinite(value).all() for value in flat.values())
  scale = max(np.abs(value).max() for value in flat.values())
  assert not [k for k, v in flat.items() if np.abs(v).max() < 1e-6 * scale]
