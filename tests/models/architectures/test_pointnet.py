"""Tests of PointNet, a baseline on point clouds."""

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import flops, zoo

_SPEC = {
  "num_classes": 40,
  "adapter": {"kind": "points", "num_bands": 0},
  "encoder": {"kind": "pointnet"},
  "decoder": {"kind": "pointnet"},
}


def _model(return_attention=False, **encoder):
  spec = {**_SPEC, "encoder": {"kind": "pointnet", **encoder}}
  return plain.transform(
    lambda x, mask=None: zoo.build(spec)(
      x,
      is_training=False,
      input_mask=mask,
      return_attention=return_attention,
    )
  )


def test_sizes_are_those_of_pointnet_without_t_nets():
  x = jax.ShapeDtypeStruct((1, 1024, 3), jnp.float32)
  params = jax.eval_shape(_model().init, jax.random.key(0), x)
  widths = {
    name.removeprefix("perceiver/"): leaves["w"].shape
    for name, leaves in params.items()
  }
  assert list(widths.values()) == [
    (1024, 512), (512, 256), (256, 40),
    (3, 64), (64, 64), (64, 64), (64, 128), (128, 1024),
  ]  # fmt: skip
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == 815_400  # Qi et al., Table 6: 0.8M.
  operations = flops.count_flops(_model().apply, params, x)
  per_point = 2 * (3 * 64 + 64 * 64 * 2 + 64 * 128 + 128 * 1024)
  head = 2 * (1024 * 512 + 512 * 256 + 256 * 40)
  assert operations == 1024 * per_point + head


def test_attention_is_the_share_of_features_of_each_critical_point():
  x = jnp.tanh(plain.normal(2, 7, 3))
  mask = jnp.arange(7) < jnp.array([[4], [7]])
  sizes = {"hidden_sizes": (8, 4)}  # 4 features have at most 4 maxima.
  params = plain.random_params(_model(**sizes), x)
  apply = lambda *what: plain.jit(_model(*what, **sizes).apply)
  (weights,) = apply(True)(params, x, mask).encoder_attention
  assert weights.shape == (2, 1, 1, 7)
  np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
  assert (weights[0, ..., 4:] == 0).all()
  (logits,) = apply("logits")(params, x, mask).encoder_attention
  np.testing.assert_allclose(jax.nn.softmax(logits), weights, atol=1e-6)
  # Removing a point that has no maximum changes nothing.
  unused = int(weights[1, 0, 0].argmin())
  assert weights[1, 0, 0, unused] == 0
  without = mask.at[1, unused].set(False)
  run = apply()
  np.testing.assert_array_equal(
    run(params, x, mask).logits, run(params, x, without).logits
  )


def test_initial_latents_are_refused():
  model = plain.transform(
    lambda x: zoo.build(_SPEC)(
      x, is_training=False, initial_latents=jnp.zeros((1, 8))
    )
  )
  with pytest.raises(ValueError, match="PointNet has no latents"):
    model.init(jax.random.key(0), plain.normal(1, 4, 3))
