"""Tests of the Transformer that the papers compare with."""

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import zoo

_LENGTH, _VOCABULARY = 7, 11


def _spec(**encoder):
  sizes = {"num_layers": 2, "num_heads": 2, "widening_factor": 2} | encoder
  return {
    "adapter": {
      "kind": "text",
      "vocab_size": _VOCABULARY,
      "num_channels": 8,
      "max_length": _LENGTH,
    },
    "encoder": {"kind": "transformer", **sizes},
    "decoder": {"kind": "token"},
  }


def _apply(tokens, mask=None, queries=None, params=None):
  model = plain.transform(
    lambda x: (
      zoo.build(_spec())(
        x, is_training=False, input_mask=mask, queries=queries
      ).logits
    )
  )
  params = params or plain.random_params(model, tokens)
  return np.asarray(model.apply(params, tokens)), params


def _tokens(seed=0):
  return np.random.default_rng(seed).integers(0, _VOCABULARY, (2, _LENGTH))


def test_queries_select_the_tokens_that_are_decoded():
  tokens = jnp.asarray(_tokens())
  every, params = _apply(tokens)
  assert every.shape == (2, _LENGTH, _VOCABULARY)
  some, _ = _apply(tokens, queries=jnp.array([3, 1]), params=params)
  np.testing.assert_allclose(some, every[:, [3, 1]], rtol=1e-5, atol=1e-5)


def test_every_token_attends_to_every_other():
  tokens = _tokens()
  first, params = _apply(jnp.asarray(tokens))
  tokens[:, 0] = (tokens[:, 0] + 1) % _VOCABULARY
  second, _ = _apply(jnp.asarray(tokens), params=params)
  assert (np.abs(first - second).max(-1) > 1e-6).all()


def test_padding_has_no_effect():
  tokens = _tokens()
  mask = jnp.arange(_LENGTH)[None] < jnp.array([[5], [7]])
  first, params = _apply(jnp.asarray(tokens), mask)
  tokens[0, 5:] = (tokens[0, 5:] + 1) % _VOCABULARY
  second, _ = _apply(jnp.asarray(tokens), mask, params=params)
  np.testing.assert_allclose(first[0, :5], second[0, :5], rtol=1e-6)


def test_layers_have_stacked_parameters():
  _, params = _apply(jnp.asarray(_tokens()))
  shapes = jax.tree.map(jnp.shape, params)
  stack = [name for name in shapes if "block_0/layers" in name]
  assert stack
  assert all(shape[0] == 2 for name in stack for shape in shapes[name].values())


def test_an_unknown_kind_of_encoder_is_refused():
  with pytest.raises(ValueError, match=r"encoder kind 'none'.*transformer"):
    plain.transform(
      lambda x: zoo.build(_spec(kind="none"))(x, is_training=False)
    ).init(jax.random.key(0), jnp.asarray(_tokens()))


def test_initial_latents_are_refused():
  model = plain.transform(
    lambda x: zoo.build(_spec())(
      x, is_training=False, initial_latents=jnp.zeros((3, 8))
    )
  )
  with pytest.raises(ValueError, match="leave initial_latents out"):
    model.init(jax.random.key(0), jnp.asarray(_tokens()))
