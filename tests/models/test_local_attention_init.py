"""Tests of initial values that make cross-attention local."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import local_attention_init, zoo

_LENGTH, _LATENTS, _BANDS = 32, 8, 8


def _spec():
  spec = zoo.get_spec("language_bytes")
  spec["adapter"].update(
    num_channels=40, max_length=_LENGTH, embedding_init_scale=0.02
  )
  spec["encoder"].update(
    num_latents=_LATENTS,
    num_latent_channels=48,
    num_self_attends_per_block=1,
    num_cross_attend_heads=2,
    qk_channels=32,
    v_channels=32,
  )
  spec["decoder"].update(
    max_length=_LENGTH,
    num_query_channels=40,
    num_heads=2,
    qk_channels=32,
    v_channels=32,
  )
  return spec


def _model(bands):
  def forward(tokens):
    with local_attention_init.local_attention_init(_spec(), bands):
      return zoo.build(_spec())(tokens, is_training=True, return_attention=True)

  return plain.transform(forward)


@functools.cache
def _params(bands):
  tokens = jnp.zeros((1, _LENGTH), "int32")
  return plain.jit(_model(bands).init)(jax.random.key(0), tokens)


def test_latents_attend_to_their_segment_and_outputs_to_their_latents():
  tokens = jax.random.randint(jax.random.key(1), (1, _LENGTH), 6, 262)
  out = plain.jit(_model(_BANDS).apply)(_params(_BANDS), tokens)
  weights = np.asarray(out.encoder_attention[0])[0]  # [H, N, M]
  segment = _LENGTH // _LATENTS
  own = np.arange(_LENGTH) // segment == np.arange(_LATENTS)[:, None]
  assert weights[:, own].reshape(2, _LATENTS, -1).sum(-1).min() > 0.5
  # The first head attends to the first half of it, the second to the rest.
  centers = (weights * np.arange(_LENGTH)).sum(-1)
  assert (centers[0] + 0.5 < centers[1]).all()
  decoded = np.asarray(out.decoder_attention)[0].sum(0)  # [O, N]
  latents = np.arange(_LENGTH) // segment
  assert (np.abs(decoded.argmax(-1) - latents) <= 1).mean() > 0.9


def test_only_tables_and_their_query_and_key_projections_change():
  local, default = _params(_BANDS), _params(0)
  changed = {
    f"{module}/{name}"
    for module, name, value in hk.data_structures.traverse(local)
    if (value != default[module][name]).any()
  }
  projections = [
    f"{part}/attention/{projection}/w"
    for part in ("encoder/cross_attend_0", "decoder/cross_attend")
    for projection in ("query", "key")
  ]
  tables = ["adapter/positions", "encoder/latents", "decoder/query"]
  assert changed == {*projections, *(f"{t}/embeddings" for t in tables)}
  table = local["adapter/positions"]["embeddings"]
  rest = default["adapter/positions"]["embeddings"][:, 2 * _BANDS :]
  np.testing.assert_array_equal(table[:, 2 * _BANDS :], rest)


def test_the_shift_matrix_shifts_sinusoids():
  places = np.arange(5.0)
  first = local_attention_init.sinusoids(places, 30, 4)
  assert (first**2).mean() == pytest.approx(1)
  np.testing.assert_allclose(
    first @ local_attention_init.shift_matrix(2.5, 30, 4),
    local_attention_init.sinusoids(places + 2.5, 30, 4),
    atol=1e-12,
  )


def test_too_many_bands_and_other_decoders_are_refused():
  tokens = jnp.zeros((1, _LENGTH), "int32")
  with pytest.raises(ValueError, match="lower local_attention_init_bands"):
    jax.eval_shape(_model(_BANDS + 1).init, jax.random.key(0), tokens)
  with pytest.raises(ValueError, match="kind 'token'"):
    local_attention_init.local_attention_init(zoo.get_spec("byte_bert"), 2)
