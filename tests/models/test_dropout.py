"""Tests of dropout keyed by example."""

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import dropout as dropout_lib
from perceiver_jax.models import zoo
from perceiver_jax.models.dropout import ATTENTION, MLP, NO_DROPOUT, Dropout
from perceiver_jax.models.ops.execution import Execution

_LENGTH, _LATENTS = 9, 4


def _keys(count, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return jax.vmap(jax.random.key_data)(keys)


def _spec(**leaves):
  return {
    "adapter": {"kind": "tokens", "vocab_size": 11, "num_channels": 8},
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": _LATENTS,
      "num_latent_channels": 8,
      "num_self_attends": 3,
      "num_heads": 2,
      "rotary_fraction": 0.5,
      **leaves,
    },
    "decoder": {"kind": "next_token", "vocab_size": 11},
  }


def _tokens(batch):
  rng = np.random.default_rng(0)
  return {"tokens": jnp.int32(rng.integers(1, 11, (batch, _LENGTH)))}


def _apply(spec, raw, keys, execution=None, params=None):
  execution = execution or Execution()
  model = plain.transform(
    lambda x: zoo.build(spec, execution)(x, is_training=True, dropout_keys=keys)
  )
  params = params or plain.random_params(model, raw)
  return model.apply(params, raw), params


def test_a_share_is_dropped_and_the_mean_stays():
  dropout = Dropout(0.25, _keys(4))
  out = np.asarray(dropout(jnp.ones((4, 50, 40)), MLP))
  kept = out != 0
  assert 0.23 < 1 - kept.mean() < 0.27
  np.testing.assert_allclose(out[kept], 1 / 0.75, rtol=1e-6)
  # All examples, layers and places draw other elements.
  others = [
    dropout(jnp.ones((4, 50, 40)), ATTENTION),
    dropout.next_layer()(jnp.ones((4, 50, 40)), MLP),
    out[::-1],
  ]
  for other in others:
    assert 0.6 < (kept == (np.asarray(other) != 0)).mean() < 0.65


def test_without_keys_or_rate_nothing_changes():
  x = jnp.ones((2, 3))
  assert NO_DROPOUT(x, MLP) is x
  assert NO_DROPOUT.next_layer() is NO_DROPOUT
  assert Dropout(0.0, _keys(2))(x, MLP) is x


@pytest.mark.parametrize(
  "leaves", [{"dropout": 0.3}, {"input_dropout": 0.3}], ids=str
)
def test_an_example_is_the_same_in_any_batch(leaves):
  raw, keys = _tokens(4), _keys(4)
  out, params = _apply(_spec(**leaves), raw, keys)
  for start in (0, 2):
    part = slice(start, start + 2)
    half = {name: x[part] for name, x in raw.items()}
    other, _ = _apply(_spec(**leaves), half, keys[part], params=params)
    np.testing.assert_allclose(other.logits, out.logits[part], atol=1e-5)
  undropped, _ = _apply(_spec(**leaves), raw, None, params=params)
  assert np.abs(undropped.logits - out.logits).max() > 1e-3


@pytest.mark.parametrize("remat", ["none", "full"])
def test_scanned_and_unrolled_layers_drop_the_same(remat):
  raw, keys = _tokens(2), _keys(2)
  spec = _spec(dropout=0.3)
  scanned, params = _apply(spec, raw, keys)
  unrolled = Execution(scan_layers=False, remat=remat)
  other, _ = _apply(spec, raw, keys, unrolled, params)
  np.testing.assert_allclose(other.logits, scanned.logits, atol=1e-5)


def test_dropped_inputs_are_not_attended_to():
  raw, keys = _tokens(2), _keys(2)
  spec = _spec(input_dropout=0.5)
  model = plain.transform(
    lambda x: zoo.build(spec)(
      x, is_training=True, dropout_keys=keys, return_attention=True
    )
  )
  out = model.apply(plain.random_params(model, raw), raw)
  kept = Dropout(0.0, keys).kept(0.5, (_LENGTH,), dropout_lib.INPUTS)
  weights = np.asarray(out.encoder_attention[0])
  assert not weights[~np.broadcast_to(kept[:, None, None], weights.shape)].any()
  assert 0 < kept.sum() < kept.size


@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
def test_a_rate_of_one_is_refused(name):
  with pytest.raises(ValueError, match=f"{name} 1.0: give 0 for none"):
    _apply(_spec(**{name: 1.0}), _tokens(1), None)
