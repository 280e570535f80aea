"""Tests of the whole model: initial values, attention and latents."""

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp
from small import ENCODER

from perceiver_jax.models import decoders, perceiver
from perceiver_jax.models import encoder as encoder_lib

_BATCH, _ELEMENTS, _CHANNELS = 2, 6, 5


def _inputs(seed=0):
  return plain.normal(_BATCH, _ELEMENTS, _CHANNELS, seed=seed)


def test_latents_start_truncated_normal_and_zero_init_outputs_at_zero():
  config = ENCODER._replace(
    num_latents=100, num_latent_channels=100, num_blocks=0, num_cross_attends=0
  )

  def make():
    encoder = encoder_lib.PerceiverEncoder(config, name="encoder")
    latents, _ = encoder(jnp.zeros((2, 1, 1)))
    decoder = decoders.QueryDecoder(5, zero_init=True, name="decoder")
    return latents, decoder(jnp.ones((2, 3, 4)), latents)[0]

  params = jax.jit(hk.transform(make).init)(jax.random.key(0))
  table = np.asarray(params["encoder/latents"]["embeddings"])
  # 0.02 is the deviation of the normal before truncation at two deviations.
  assert abs(table.std() / (0.8796 * 0.02) - 1) < 0.03
  assert 0.0395 < np.abs(table).max() <= 0.04
  latents, out = jax.jit(plain.transform(make).apply)(params)
  np.testing.assert_array_equal(latents, np.stack([table, table]))
  assert not np.any(out)
  assert np.any(params["decoder/cross_attend/attention/query"]["w"])


def _classifier(attention):
  def make(inputs, mask):
    model = perceiver.Perceiver(
      lambda x, is_training: x,
      encoder_lib.PerceiverEncoder(ENCODER, name="encoder"),
      decoders.ClassificationDecoder(7, 6, name="decoder"),
    )
    return model(
      inputs,
      is_training=False,
      input_mask=mask,
      return_attention=attention,
    )

  return plain.transform(make)


def test_attention_is_returned_on_request_with_the_same_parameters():
  inputs = _inputs()
  mask = jnp.ones((_BATCH, _ELEMENTS), bool).at[:, -1].set(False)
  params = plain.random_params(_classifier(False), inputs, mask)
  without = jax.jit(_classifier(False).apply)(params, inputs, mask)
  out = jax.jit(_classifier(True).apply)(params, inputs, mask)
  assert without.encoder_attention == ()
  assert without.decoder_attention is None
  assert [w.shape for w in out.encoder_attention] == [(2, 1, 3, 6)] * 2
  assert out.decoder_attention.shape == (2, 1, 1, 3)
  for weights in (*out.encoder_attention, out.decoder_attention):
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  assert not any(np.any(w[..., -1]) for w in out.encoder_attention)
  assert out.logits.shape == (_BATCH, 7)
  np.testing.assert_allclose(out.logits, without.logits, atol=1e-5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      {"latents": jnp.zeros((1, 2, 3)), "initial_latents": jnp.zeros((2, 3))},
      "give one",
    ),
    (
      {"dropout_keys": jnp.zeros((1, 2), jnp.uint32)},
      "the encoder has no dropout: leave dropout_keys out",
    ),
  ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
  def make():
    encoder = encoder_lib.PerceiverEncoder(ENCODER)
    return perceiver.Perceiver(len, encoder, len)(
      None, is_training=False, **arguments
    )

  with pytest.raises(ValueError, match=message):
    hk.transform(make).init(jax.random.key(0))
