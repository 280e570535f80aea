"""Tests of the autoregressive model and of rotary position encodings."""

import jax
import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import position_encoding, zoo
from perceiver_jax.models.position_encoding import Rotary

_VOCABULARY, _LENGTH, _LATENTS = 11, 9, 4


def _spec(positions="none", rotary_fraction=0.5):
  return {
    "adapter": {
      "kind": "tokens",
      "vocab_size": _VOCABULARY,
      "num_channels": 8,
      "positions": positions,
      "position_sizes": (_LENGTH, 3),
    },
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": _LATENTS,
      "num_latent_channels": 8,
      "num_self_attends": 2,
      "num_heads": 2,
      "rotary_fraction": rotary_fraction,
    },
    "decoder": {"kind": "next_token", "vocab_size": _VOCABULARY},
  }


def _inputs(batch=2, length=_LENGTH, seed=0):
  rng = np.random.default_rng(seed)
  positions = np.stack([np.arange(length), np.arange(length) % 3], -1)
  positions = np.broadcast_to(positions, (batch, length, 2))
  return {
    "tokens": jnp.int32(rng.integers(0, _VOCABULARY, (batch, length))),
    "positions": jnp.int32(positions),
  }


def _change(raw, index):
  """Returns inputs with another token at a position."""
  tokens = raw["tokens"]
  other = (tokens[:, index] + 1) % _VOCABULARY
  return raw | {"tokens": tokens.at[:, index].set(other)}


def _apply(spec, raw, mask=None, params=None, **kwargs):
  model = plain.transform(
    lambda x: zoo.build(spec)(x, is_training=False, input_mask=mask, **kwargs)
  )
  params = params or plain.random_params(model, raw)
  return model.apply(params, raw), params


@pytest.mark.parametrize(
  ("positions", "fraction"),
  [("none", 0.5), ("sinusoidal", 0.0), ("learned", 0.0)],
)
def test_no_latent_sees_a_later_token(positions, fraction):
  raw = _inputs()
  before, params = _apply(_spec(positions, fraction), raw)
  # The token at the last latent but one.
  raw = _change(raw, _LENGTH - 2)
  after, _ = _apply(_spec(positions, fraction), raw, params=params)
  difference = np.abs(before.logits - after.logits).max((0, 2))
  np.testing.assert_array_equal(difference[:2], 0)
  assert (difference[2:] > 1e-6).all()


def test_every_latent_sees_the_first_token():
  raw = _inputs()
  before, params = _apply(_spec(), raw)
  after, _ = _apply(_spec(), _change(raw, 0), params=params)
  assert (np.abs(before.logits - after.logits).max((0, 2)) > 1e-6).all()


def test_padding_has_no_effect():
  raw, padded = _inputs(length=6), _inputs()
  padded["tokens"] = padded["tokens"].at[:, :6].set(raw["tokens"])
  spec = _spec("learned", 0.5)
  out, params = _apply(spec, raw)
  mask = jnp.arange(_LENGTH)[None] < jnp.array([[6], [6]])
  other, _ = _apply(spec, padded, mask, params)
  np.testing.assert_allclose(out.logits, other.logits, atol=1e-5)


def test_latents_before_the_first_position_change_no_other():
  raw = _inputs(length=3)  # Fewer than there are latents.
  out, params = _apply(_spec(), raw)
  assert np.isfinite(out.logits).all()
  shorter = {name: x[:, :2] for name, x in raw.items()}
  other, _ = _apply(_spec(), shorter, params=params)
  # The last latent but one of the longer input is the last of the shorter.
  np.testing.assert_allclose(
    out.logits[:, -3:-1], other.logits[:, -2:], atol=1e-5
  )


def test_attention_is_that_of_the_cross_attend():
  out, _ = _apply(_spec(), _inputs(), return_attention=True)
  (weights,) = out.encoder_attention
  assert weights.shape == (2, 2, _LATENTS, _LENGTH)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
  first = _LENGTH - _LATENTS
  above = np.triu(np.ones((_LATENTS, _LENGTH), bool), first + 1)
  assert not weights[:, :, above].any()


def test_initial_latents_are_refused():
  with pytest.raises(ValueError, match="leave initial_latents out"):
    _apply(_spec(), _inputs(), initial_latents=jnp.zeros((_LATENTS, 8)))


@pytest.mark.parametrize(
  ("leaves", "message"),
  [
    ({"positions": "fourier"}, "choose one of none, sinusoidal"),
    ({"positions": "learned", "position_sizes": ()}, "need position_sizes"),
    ({"positions": "learned", "position_sizes": (9, 3, 2)}, "has 3: make them"),
    ({"positions": "sinusoidal", "position_sizes": (9,)}, "has 1: make them"),
    ({"positions": "sinusoidal", "num_channels": 7}, "give an even number"),
  ],
)
def test_impossible_positions_are_refused(leaves, message):
  spec = _spec()
  spec["adapter"] |= leaves
  with pytest.raises(ValueError, match=message):
    _apply(spec, _inputs())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 500), st.integers(-50, 50), st.sampled_from([0.25, 1.0]))
def test_products_of_rotated_vectors_depend_on_their_distance(
  position, distance, fraction
):
  rotary = Rotary(1000.0, fraction)
  q, k = plain.normal(1, 1, 1, 16), plain.normal(1, 1, 1, 16, seed=1)

  def product(offset):
    at = lambda x, p: position_encoding.rotate(x, jnp.array([[p]]), rotary)
    return (
      at(q, offset + position) * at(k, offset + position + distance)
    ).sum()

  np.testing.assert_allclose(product(0), product(300), atol=2e-4)
  turned = position_encoding.rotate(q, jnp.array([[position]]), rotary)
  np.testing.assert_allclose(
    jnp.linalg.norm(turned), jnp.linalg.norm(q), rtol=1e-5
  )


@pytest.mark.parametrize("fraction", [0.2, 2.0])
def test_a_rotary_fraction_without_a_pair_in_a_head_is_refused(fraction):
  message = (
    f"rotary_fraction {fraction} of heads of 4 channels: give a fraction"
  )
  with pytest.raises(ValueError, match=message):
    _apply(_spec(rotary_fraction=fraction), _inputs())


def test_the_slowest_channels_turn_by_one_radian_in_the_longest_wavelength():
  x = jnp.zeros((1, 1, 1, 8)).at[..., 6].set(1.0)
  turned = position_encoding.rotate(x, jnp.array([[100]]), Rotary(100.0, 1.0))
  np.testing.assert_allclose(turned[0, 0, 0, 6:], [np.cos(1), np.sin(1)], 1e-5)


def test_the_imagenet_model_has_the_authors_parameters():
  spec = {
    "adapter": {
      "kind": "tokens",
      "vocab_size": 259,
      "num_channels": 1024,
      "positions": "learned",
      "position_sizes": (66, 66, 5),
    },
    "encoder": {"kind": "perceiver_ar", "num_self_attends": 60},
    "decoder": {"kind": "next_token", "vocab_size": 259},
  }
  raw = {
    "tokens": jax.ShapeDtypeStruct((1, 12_416), jnp.int32),
    "positions": jax.ShapeDtypeStruct((1, 12_416, 3), jnp.int32),
  }
  model = plain.transform(lambda x: zoo.build(spec)(x, is_training=False))
  params = jax.eval_shape(model.init, jax.random.key(0), raw)
  count = sum(x.size for x in jax.tree.leaves(params))
  assert count == 770_094_339


def test_sinusoidal_encodings_are_exact_at_far_positions():
  positions = jnp.array([[0, 1, 255, 256], [4097, 65_536, 131_071, 131_072]])
  rows = position_encoding.sinusoidal_encodings(positions, 131_073, 16)
  frequencies = 10_000.0 ** -(np.arange(8) / 7)
  angles = np.asarray(positions)[..., None] * frequencies
  expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
  np.testing.assert_allclose(rows, expected, atol=1e-6)
