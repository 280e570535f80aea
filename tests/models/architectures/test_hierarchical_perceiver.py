"""Tests of the Hierarchical Perceiver's blocks, and of the model as a whole."""

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import zoo
from perceiver_jax.models.modalities import groups

_SIZE, _CHANNELS = 12, 3


def _blocks(num_groups, **leaves):
  return {
    "kind": "hierarchical",
    "num_groups": num_groups,
    "num_latents": 4,
    "num_latent_channels": 8,
    "num_self_attends": 1,
    "num_self_attend_heads": 2,
    **leaves,
  }


def _spec(encoder=(4, 2, 1), decoder=(2, 4), **leaves):
  return {
    "adapter": {"kind": "grouped", "num_channels": 6},
    "encoder": _blocks(encoder, **leaves),
    "decoder": _blocks(decoder, **leaves),
  }


def _classifier(**leaves):
  return _spec(**leaves) | {
    "num_classes": 5,
    "decoder": {"kind": "bottleneck_classification", "num_query_channels": 8},
  }


def _raw(batch=2, seed=0):
  return plain.normal(batch, _SIZE, _CHANNELS, seed=seed)


def _apply(spec, raw, params=None, **kwargs):
  model = plain.transform(
    lambda x: zoo.build(spec)(x, is_training=False, **kwargs)
  )
  params = params or plain.random_params(model, raw)
  return plain.jit(model.apply)(params, raw), params


# The authors' mock data sets, which share the blocks of a model.
_MOCK_DATA = (
  {"imagenet_image": (1024, 3), "imagenet_label": (32, 1)},
  {"audioset_audio": (128, 16), "audioset_label": (16, 16)},
)


@pytest.mark.parametrize(
  ("name", "label_modalities", "count"),
  [
    ("hip_16", (), 99_224_996),
    ("hip_256", (), 95_585_188),
    ("hip_mini", (), 18_709_668),
    ("hip_mini", ("imagenet_label", "audioset_label"), 21_114_788),
  ],
)
def test_parameter_counts_are_those_of_the_authors(
  name, label_modalities, count
):
  adapter = {
    "modalities": tuple(
      modality
      for data in _MOCK_DATA
      for modality in data
      if modality not in label_modalities
    ),
    "label_modalities": label_modalities,
    "project_positions": True,
  }

  def run():
    model = zoo.build(zoo.get_spec(name, adapter=adapter))
    for data in _MOCK_DATA:
      raw = {key: jnp.zeros((2, *shape)) for key, shape in data.items()}
      logits = model(raw, is_training=True).logits
      assert {key: x.shape for key, x in logits.items()} == {
        key: x.shape for key, x in raw.items()
      }

  params = jax.eval_shape(hk.transform(run).init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_with_one_group_it_is_a_flat_perceiver():
  leaves = {
    "num_latents": 4,
    "num_latent_channels": 8,
    "num_self_attend_heads": 2,
  }
  adapter = {"kind": "arrays"}
  flat = {
    "num_classes": 5,
    "adapter": adapter,
    "encoder": {
      **leaves,
      "num_blocks": 1,
      "num_self_attends_per_block": 2,
      "self_attend_widening_factor": 4,
    },
    "decoder": {
      "kind": "classification",
      "num_query_channels": 8,
      "use_query_residual": False,
    },
  }
  grouped = {
    "num_classes": 5,
    "adapter": adapter,
    "encoder": _blocks((1,), num_self_attends=2, activation="gelu"),
    "decoder": {
      "kind": "bottleneck_classification",
      "num_query_channels": 8,
      "activation": "gelu",
    },
  }
  raw = {"features": _raw()}
  out, params = _apply(flat, raw, return_attention=True)
  names = {
    "encoder/latents": "encoder/block_0/latents",
    "encoder/cross_attend_0": "encoder/block_0/cross_attend",
    "encoder/block_0/layers": "encoder/block_0/self_attends/layers",
  }

  def rename(module):
    old = next((old for old in names if module.startswith(old)), "")
    return names.get(old, "") + module.removeprefix(old)

  params = {rename(module): leaves for module, leaves in params.items()}
  other, _ = _apply(grouped, raw, params, return_attention=True)
  np.testing.assert_allclose(other.logits, out.logits, atol=1e-5)
  np.testing.assert_allclose(other.latents.bottleneck, out.latents, atol=1e-5)
  np.testing.assert_allclose(
    other.encoder_attention[0], out.encoder_attention[0], atol=1e-5
  )


def test_groups_do_not_see_each_other_before_they_are_merged():
  raw = _raw()
  out, params = _apply(_spec(), raw)
  changed = raw.at[:, 4].add(1.0)  # In the second of four groups of three.
  other, _ = _apply(_spec(), changed, params)
  difference = [
    np.abs(a - b).max((0, 2, 3))
    for a, b in zip(out.latents.skips, other.latents.skips, strict=True)
  ]
  np.testing.assert_array_equal(difference[0] > 1e-6, [False, True] + 2 * [0])
  np.testing.assert_array_equal(difference[1] > 1e-6, [True, False])
  outputs = np.abs(out.logits["image"] - other.logits["image"]).max((0, 2))
  assert (outputs > 1e-6).all()  # Through the bottleneck.


@pytest.mark.parametrize("regrouping", groups.REGROUPINGS)
def test_attention_reaches_the_inputs_through_all_blocks(regrouping):
  raw = _raw()
  spec = _classifier(regrouping=regrouping)
  out, params = _apply(spec, raw, return_attention=True)
  (weights,) = out.encoder_attention
  assert weights.shape == (2, 1, 4, _SIZE)
  assert (weights > 0).all()
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  logits, _ = _apply(spec, raw, params, return_attention="logits")
  np.testing.assert_allclose(
    jax.nn.softmax(logits.encoder_attention[0]), weights, atol=1e-5
  )
  # Without the scale of its norm, block 1 attends to all of its inputs alike:
  # the two groups that it merges get equal weights.
  if regrouping == "reshape":
    params["encoder/block_1/cross_attend/input_norm"]["scale"] *= 0
    uniform, _ = _apply(spec, raw, params, return_attention=True)
    per_group = uniform.encoder_attention[0].reshape(2, 4, 4, 3).sum(-1)
    pairs = per_group.reshape(2, 4, 2, 2)
    np.testing.assert_allclose(pairs[..., 0], pairs[..., 1], atol=1e-5)


def test_labels_are_decoded_from_the_bottleneck_alone():
  spec = _spec()
  spec["adapter"]["label_modalities"] = ("label",)
  raw = {"image": _raw(), "label": plain.normal(2, 1, 7, seed=1)}
  out, params = _apply(spec, raw)
  assert out.logits["label"].shape == (2, 1, 7)
  for module in params:
    if module.startswith("decoder/block"):
      params[module] = jax.tree.map(jnp.zeros_like, params[module])
  other, _ = _apply(spec, raw, params)
  np.testing.assert_allclose(
    other.logits["label"], out.logits["label"], atol=1e-5
  )
  changed = raw | {"label": raw["label"] + 1}
  other, _ = _apply(spec, changed, params)
  assert np.abs(other.logits["label"] - out.logits["label"]).max() > 1e-4


def test_training_draws_latents_of_the_bottleneck_for_each_example():
  spec = _spec()
  spec["encoder"]["num_training_latents"] = 2
  raw = _raw(3)
  all_latents, params = _apply(spec, raw)
  assert all_latents.latents.bottleneck.shape == (3, 4, 8)
  keys = jax.vmap(jax.random.key_data)(jax.random.split(jax.random.key(0), 3))
  out, _ = _apply(spec, raw, params, dropout_keys=keys)
  assert out.latents.bottleneck.shape == (3, 2, 8)
  one, _ = _apply(spec, raw[1:2], params, dropout_keys=keys[1:2])
  np.testing.assert_allclose(
    one.latents.bottleneck[0], out.latents.bottleneck[1], atol=1e-5
  )


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    (_spec(encoder=(4, 2)), "must end with 1"),
    (_spec(decoder=(2,)), "1 blocks and the encoder 2"),
    (_spec(decoder=(4, 2)), "4 of 4: make num_groups and num_latents"),
    (_spec(encoder=(4, 3, 1)), "can't be divided into 3 groups"),
    (
      _spec(num_latents=(4, 4)),
      "num_latents has 2 values and num_groups has 3",
    ),
    (_spec(regrouping="sort"), "regrouping 'sort': choose one of reshape"),
    (
      _spec() | {"adapter": {"kind": "grouped", "modalities": ("audio", "x")}},
      "audio, x in adapter.modalities",
    ),
  ],
)
def test_impossible_sizes_are_explained(spec, message):
  raw = {"image": _raw()}
  with pytest.raises(ValueError, match=message):
    _apply(spec, raw)


def test_a_mask_is_refused():
  mask = jnp.ones((2, _SIZE), bool)
  with pytest.raises(ValueError, match="leave input_mask"):
    _apply(_classifier(), _raw(), input_mask=mask)


def test_inputs_without_positions_are_not_reconstructed():
  spec = _spec() | {"adapter": {"kind": "arrays"}}
  with pytest.raises(ValueError, match="use the adapter kind 'grouped'"):
    _apply(spec, {"features": _raw()})
