"""Tests of sampling from Perceiver AR."""

import functools

import jax
import numpy as np
import pytest
import tiny_weights
from jax import numpy as jnp

from perceiver_jax import weights as weights_lib
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import sampling
from perceiver_jax.models.ops.execution import PLAIN

pytestmark = pytest.mark.usefixtures("compile_once")

_VOCABULARY, _CONTEXT, _LATENTS = 11, 20, 6
_OPTIONS = {"temperature": 0.7, "top_p": 0.95}


def _spec(positions="none", rotary_fraction=0.5, num_latents=_LATENTS):
  return {
    "adapter": {
      "kind": "tokens",
      "vocab_size": _VOCABULARY,
      "num_channels": 8,
      "positions": positions,
      "position_sizes": (_CONTEXT + 1,),
    },
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": num_latents,
      "num_latent_channels": 16,
      "num_self_attends": 2,
      "num_heads": 2,
      "rotary_fraction": rotary_fraction,
    },
    "decoder": {"kind": "next_token", "vocab_size": _VOCABULARY},
  }


def _weights(*args, **kwargs):
  raw = {
    "tokens": tiny_weights.array(1, _CONTEXT, dtype="int32"),
    "positions": tiny_weights.array(1, _CONTEXT, 1, dtype="int32"),
  }
  weights = tiny_weights.random(_spec(*args, **kwargs), raw, scale=0.5)
  # Tokens then matter more than biases.
  embeddings = weights.params["adapter"]
  embeddings["embeddings"] = 5 * embeddings["embeddings"]
  return weights


def _prompt(length, batch=2):
  rng = np.random.default_rng(1)
  return rng.integers(0, _VOCABULARY, (batch, length)).astype(np.int32)


@functools.cache
def _forward(num_latents):
  """Returns the forward pass of a model with rotary positions."""
  model = weights_lib.transform(_spec(num_latents=num_latents))
  params = jax.device_put(_weights().params)
  return jax.jit(
    lambda tokens, mask: model.apply(
      params, {}, None, {"tokens": tokens}, input_mask=mask
    )[0].logits[:, -1]
  )


def _most_likely_next(tokens, num_latents):
  """Returns the most likely next tokens of the model's own forward pass."""
  length = tokens.shape[1]
  padded = np.pad(tokens, ((0, 0), (0, _CONTEXT - length)))
  mask = np.broadcast_to(np.arange(_CONTEXT) < length, padded.shape)
  return np.asarray(_forward(num_latents)(padded, mask).argmax(-1))


def _samplers(weights, **options):
  """Returns a sampler with a cache and one without."""
  return [
    sampling.Sampler(weights, _CONTEXT, use_cache=use_cache, **options)
    for use_cache in (True, False)
  ]


@pytest.fixture(scope="module")
def samplers():
  """Returns samplers of a model with rotary positions."""
  return _samplers(_weights(), **_OPTIONS)


def _check_equal(samplers, length):
  # 30 tokens fill the latents several times, and outgrow the context.
  cached, uncached = (
    sampler.generate(_prompt(length), 30, seed=3) for sampler in samplers
  )
  assert cached.shape == (2, 30)
  np.testing.assert_array_equal(cached, uncached)
  return cached


@pytest.mark.parametrize("length", [1, 9])
def test_cached_and_uncached_samples_are_the_same(samplers, length):
  tokens = _check_equal(samplers, length)
  assert len(np.unique(tokens)) > 2


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_cached_and_uncached_greedy_tokens_are_the_same(positions):
  _check_equal(_samplers(_weights(positions, 0.0), temperature=0.0), 9)


@pytest.mark.parametrize("num_latents", [1, 2 * _CONTEXT])
def test_any_number_of_latents_works(num_latents):
  _check_equal(_samplers(_weights(num_latents=num_latents)), 4)


def test_greedy_tokens_are_the_most_likely_of_the_forward_pass():
  prompt = _prompt(7)
  sampler = sampling.Sampler(_weights(), _CONTEXT, temperature=0.0)
  tokens = np.concatenate([prompt, sampler.generate(prompt, 8)], 1)
  # Starts with 3 of 6 latents, and again when all are in use.
  for i, num_latents in enumerate([3, 4, 5, 6, 3, 4, 5, 6]):
    want = _most_likely_next(tokens[:, : 7 + i], num_latents)
    np.testing.assert_array_equal(tokens[:, 7 + i], want)


def test_a_sequence_beyond_the_context_is_continued_from_its_last_tokens():
  prompt = _prompt(_CONTEXT + 5)
  sampler = sampling.Sampler(_weights(), _CONTEXT, temperature=0.0)
  (first,) = sampler.generate(prompt, 1).T
  want = _most_likely_next(prompt[:, -_CONTEXT:], 3)
  np.testing.assert_array_equal(first, want)


def test_the_execution_does_not_change_the_tokens(samplers):
  plain = sampling.Sampler(_weights(), _CONTEXT, execution=PLAIN, **_OPTIONS)
  prompt = _prompt(4)
  want = samplers[0].generate(prompt, 12)
  np.testing.assert_array_equal(plain.generate(prompt, 12), want)


def test_a_seed_gives_a_sequence_the_same_tokens_in_any_batch(samplers):
  sampler, prompt = samplers[0], _prompt(4)
  both = sampler.generate(prompt, 12, seed=5)
  np.testing.assert_array_equal(sampler.generate(prompt, 12, seed=5), both)
  alone = sampler.generate(prompt[:1], 12, seed=5)
  np.testing.assert_array_equal(alone, both[:1])
  assert (sampler.generate(prompt, 12, seed=6) != both).any()


def test_equal_prompts_get_different_samples(samplers):
  prompt = np.repeat(_prompt(4, 1), 2, axis=0)
  first, second = samplers[0].generate(prompt, 12)
  assert (first != second).any()


def test_the_end_token_ends_a_sequence(samplers):
  sampler, prompt = samplers[0], _prompt(4)
  free = sampler.generate(prompt, 40)
  end = free[0, 5]
  parts = []
  tokens = sampler.generate(
    prompt, 40, end_token=int(end), on_tokens=parts.append
  )
  np.testing.assert_array_equal(np.concatenate(parts, 1), tokens)
  for row, unended in zip(tokens, free, strict=True):
    ends = np.flatnonzero(unended == end)
    first = ends[0] if len(ends) else len(row)
    np.testing.assert_array_equal(row[:first], unended[:first][: len(row)])
    assert (row[first:] == end).all()


def _shares(temperature=1.0, top_p=1.0):
  logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
  draw = lambda key: sampling.sample(logits, key, temperature, top_p)
  tokens = jax.vmap(draw)(jax.random.split(jax.random.key(0), 20_000))
  return np.bincount(np.asarray(tokens), minlength=4) / 20_000


@pytest.mark.parametrize(
  ("options", "want"),
  [
    ({}, [0.5, 0.3, 0.15, 0.05]),
    ({"temperature": 0.0}, [1, 0, 0, 0]),
    ({"temperature": 0.5}, np.square([0.5, 0.3, 0.15, 0.05]) / 0.365),
    ({"top_p": 0.5}, [1, 0, 0, 0]),
    ({"top_p": 0.6}, [0.625, 0.375, 0, 0]),
    ({"top_p": 1e-6}, [1, 0, 0, 0]),
  ],
)
def test_tokens_are_drawn_in_proportion(options, want):
  np.testing.assert_allclose(_shares(**options), want, atol=0.012)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"temperature": -1.0}, "temperature is -1"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_p": 0.0}, "top_p is 0"),
    ({"top_p": 1.5}, "top_p is 1.5"),
    ({"context": 0}, "context is 0"),
  ],
)
def test_values_without_meaning_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    sampling.Sampler(_weights(), **{"context": _CONTEXT, **options})


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_positions_that_the_model_lacks_are_refused(positions):
  weights = _weights(positions, 0.0)
  with pytest.raises(UserError, match=r"up to \[21\].* hold \[21\]"):
    sampling.Sampler(weights, _CONTEXT + 1)
  with pytest.raises(UserError, match=r"of 3 dimensions .* 1:"):
    sampling.Sampler(weights, _CONTEXT, np.ones((_CONTEXT, 3)))
  # Rotary positions have no end.
  sampling.Sampler(_weights(), _CONTEXT + 1)


def test_bad_prompts_are_refused(samplers):
  with pytest.raises(UserError, match="at least one token"):
    samplers[0].generate(np.zeros((1, 0), np.int32), 3)
  with pytest.raises(UserError, match="from 11 to 11"):
    samplers[0].generate(np.array([[_VOCABULARY]]), 3)


def test_another_model_is_refused():
  weights = _weights()
  spec = weights.spec | {"encoder": {"kind": "transformer"}}
  with pytest.raises(UserError, match="'transformer' generates no tokens"):
    sampling.Sampler(weights._replace(spec=spec), _CONTEXT)
