"""Sampling from Perceiver AR, one token after another.

The keys and values of inputs and latents are cached, so that a token costs the
attention of one latent. The cache holds N latents. When it is full, it is
computed again with half as many latents, which are the last positions of the
sequence (the authors' code).

Shapes: B sequences, M the longest context, N latents, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.models.architectures import perceiver_ar
from perceiver_jax.models.ops.execution import AUTO, Execution
from perceiver_jax.models.typing import Array, Float, Int
from perceiver_jax.weights.model import Weights

# Tokens between two calls of `on_tokens`.
_TOKENS_PER_CALL = 32


def sample(
  logits: Float[Array, "V"],
  key: jax.Array,
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> Int[Array, ""]:
  """Samples a token.

  Args:
    logits: Of all tokens.
    key: Random key.
    temperature: Divides the logits; 0 takes the most likely token.
    top_p: Samples from the smallest set of most likely tokens that have at
      least this probability together (nucleus sampling, arXiv 1904.09751).
  """
  if not temperature:
    return jnp.argmax(logits)
  logits = logits.astype(jnp.float32) / temperature
  if top_p < 1:
    ordered = jnp.sort(logits, descending=True)
    probabilities = jax.nn.softmax(ordered)
    before = jnp.cumsum(probabilities) - probabilities
    least = jnp.where(before < top_p, ordered, jnp.inf).min()
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return jax.random.categorical(key, logits)


class _State(NamedTuple):
  """A sequence that is being continued.

  Attributes:
    window: The last tokens, int [B, M + 1], of which `length` are known.
    length: Number of known tokens.
    offset: Number of earlier tokens, which no longer fit the context.
    first_latent: Index in the window of the first latent.
    cache: Keys and values of all known tokens but the last; None if they are
      not cached.
    key: Random key.
  """

  window: Int[Array, "B m"]
  length: Int[Array, ""]
  offset: Int[Array, ""]
  first_latent: Int[Array, ""]
  cache: perceiver_ar.Cache | None
  key: jax.Array


class Sampler:
  """Continues sequences of tokens.

  Args:
    weights: A Perceiver AR.
    context: M, the most tokens that the model attends to. A longer sequence is
      continued from its last tokens.
    positions: Positions int [M, d] of the context, for models with absolute
      ones; None counts them from 1.
    temperature: See `sample`.
    top_p: See `sample`.
    use_cache: Whether keys and values are cached. Otherwise each token costs a
      forward pass over the whole context; the tokens are the same.
    execution: How the model is computed.

  Raises:
    UserError: The model is not a Perceiver AR, or a value is out of range.
  """

  def __init__(
    self,
    weights: Weights,
    context: int,
    positions: Int[Array, "M d"] | None = None,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    use_cache: bool = True,
    execution: Execution = AUTO,
  ):
    _check(weights.spec, context, temperature, top_p)
    self._spec = weights.spec
    self._context = context
    if positions is None:
      positions = np.arange(1, context + 1)[:, None]
    _check_positions(weights.spec["adapter"], np.asarray(positions))
    self._positions = jnp.asarray(positions, jnp.int32)
    self._temperature = temperature
    self._top_p = top_p
    self._use_cache = use_cache
    self._execution = execution
    self._num_latents = min(weights.spec["encoder"]["num_latents"], context)
    self._num_refilled = max(1, self._num_latents // 2)
    self._model = hk.without_apply_rng(hk.transform(self._forward))
    self._params = jax.device_put(weights.params)
    self._fill = jax.jit(self._fill_and_append)
    self._advance = jax.jit(self._append, donate_argnums=1)

  @property
  def vocab_size(self) -> int:
    """Returns V."""
    return self._spec["adapter"]["vocab_size"]

  def compile(self, batch_size: int = 1) -> None:
    """Compiles for a number of sequences, which `generate` does otherwise."""
    state = self._start(np.zeros((batch_size, 1), np.int32), 0)
    jax.block_until_ready(self._advance(self._params, state, 0))

  def generate(
    self,
    prompt: Int[Array, "B P"],
    num_tokens: int,
    seed: int = 0,
    end_token: int | None = None,
    on_tokens: Callable[[np.ndarray], Any] = lambda tokens: None,
  ) -> Int[Array, "B T"]:
    """Returns the tokens after a prompt.

    Args:
      prompt: The tokens to continue, the same number in all sequences.
      num_tokens: T, the number of tokens to generate.
      seed: Seed of the samples.
      end_token: Ends a sequence; all tokens after it are this one, too. Fewer
        than T tokens are returned if all sequences end.
      on_tokens: Called with each part of the tokens, such as int [B, 32].

    Raises:
      UserError: The prompt is empty or holds unknown tokens.
    """
    tokens = np.asarray(prompt, np.int32)
    _check_prompt(tokens, self.vocab_size)
    prompt_length = tokens.shape[1]
    ended = np.zeros((len(tokens), 1), bool)
    while (left := prompt_length + num_tokens - tokens.shape[1]) > 0:
      for new in self._until_full(tokens, left, seed):
        if end_token is not None:
          ended = ended | np.logical_or.accumulate(new == end_token, 1)
          new = np.where(ended, end_token, new)
          ended = ended[:, -1:]
        on_tokens(new)
        tokens = np.concatenate([tokens, new], 1)
        if ended.all():
          return tokens[:, prompt_length:]
    return tokens[:, prompt_length:]

  def _until_full(
    self, tokens: np.ndarray, count: int, seed: int
  ) -> Iterator[np.ndarray]:
    """Yields up to `count` tokens in parts, until all latents are in use."""
    num_steps = min(self._num_latents - self._num_refilled, count - 1)
    state = self._start(tokens, num_steps, seed)
    yield _last(state, 1)
    for done in range(0, num_steps, _TOKENS_PER_CALL):
      part = min(num_steps - done, _TOKENS_PER_CALL)
      state = self._advance(self._params, state, part)
      yield _last(state, part)

  def _start(self, tokens: np.ndarray, num_steps: int, seed: int = 0) -> _State:
    """Encodes the last tokens that leave room for more, and appends one."""
    length = min(tokens.shape[1], self._context - num_steps)
    offset = tokens.shape[1] - length
    window = np.zeros((len(tokens), self._context + 1), np.int32)
    window[:, :length] = tokens[:, offset:]
    state = _State(
      window,
      np.int32(length),
      np.int32(offset),
      np.int32(max(0, length - self._num_refilled)),
      None,
      jax.random.key(seed),
    )
    return self._fill(self._params, state)

  def _fill_and_append(self, params: Any, state: _State) -> _State:
    """Encodes all known tokens, and appends a token."""
    num_latents = self._num_refilled if self._use_cache else self._num_latents
    logits, cache = self._model.apply(
      params,
      state.window[:, :-1],
      self._positions,
      None,
      0,
      state.first_latent,
      num_latents,
      state.length - 1 - state.first_latent,
    )
    state = self._append_sample(state, logits)
    return state._replace(cache=cache if self._use_cache else None)

  def _append(self, params: Any, state: _State, count: jax.Array) -> _State:
    """Appends `count` tokens."""

    def step(_, state):
      if not self._use_cache:
        return self._fill_and_append(params, state)
      last = state.length - 1
      logits, cache = self._model.apply(
        params,
        lax.dynamic_slice_in_dim(state.window, last, 1, axis=1),
        lax.dynamic_slice_in_dim(self._positions, last, 1),
        state.cache,
        last,
        last,
        1,
        0,
      )
      return self._append_sample(state._replace(cache=cache), logits)

    return lax.fori_loop(0, count, step, state)

  def _append_sample(self, state: _State, logits: jax.Array) -> _State:
    key = jax.random.fold_in(state.key, state.offset + state.length)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
      jnp.arange(len(logits))
    )
    draw = lambda row, key: sample(row, key, self._temperature, self._top_p)
    token = jax.vmap(draw)(logits, keys).astype(jnp.int32)
    window = lax.dynamic_update_slice_in_dim(
      state.window, token[:, None], state.length, axis=1
    )
    return state._replace(window=window, length=state.length + 1)

  def _forward(
    self, tokens, positions, cache, start, first, num_latents, index
  ):
    """Returns the logits [B, V] of a latent, and the cache of all tokens.

    Args:
      tokens: New tokens [B, m].
      positions: Their positions [m, d].
      cache: That of the tokens before them; None for an empty one.
      start: Index of the first new token.
      first: Index of the first new latent.
      num_latents: Number of new latents.
      index: Which new latent to decode.
    """
    model = zoo.build(self._spec, self._execution)
    positions = jnp.broadcast_to(positions, (len(tokens), *positions.shape))
    inputs = model.adapter(
      {"tokens": tokens, "positions": positions}, is_training=False
    )
    if cache is None:
      cache = model.encoder.empty_cache(*inputs.shape)
      cache = cache._replace(first_latent=first)
    latents, cache = model.encoder.extend(
      inputs, cache, start, first, num_latents
    )
    latent = lax.dynamic_slice_in_dim(latents, index, 1, axis=1)
    return model.decoder(latent)[0][:, 0], cache


def _last(state: _State, count: int) -> np.ndarray:
  return np.asarray(state.window)[:, state.length - count : state.length]


def _check(
  spec: dict[str, Any], context: int, temperature: float, top_p: float
) -> None:
  kind = spec["encoder"].get("kind", "perceiver")
  if kind != "perceiver_ar" or spec["decoder"].get("kind") != "next_token":
    raise UserError(
      f"a model with an encoder of kind {kind!r} generates no tokens: give one"
      " with a 'perceiver_ar' encoder and a 'next_token' decoder"
    )
  if context < 1:
    raise UserError(f"the context is {context} tokens: give at least 1")
  if not 0 <= temperature < np.inf:
    raise UserError(
      f"the temperature is {temperature}: give 0 for the most likely tokens, or"
      " a number above it"
    )
  if not 0 < top_p <= 1:
    raise UserError(f"top_p is {top_p}: give a number above 0, up to 1")


def _check_positions(adapter: dict[str, Any], positions: np.ndarray) -> None:
  """Checks that a model with absolute positions has those of the context."""
  sizes = list(adapter.get("position_sizes", ()))
  if adapter.get("positions", "none") == "none" or not sizes:
    return
  if positions.shape[1] != len(sizes):
    raise UserError(
      f"the context has positions of {positions.shape[1]} dimensions and the"
      f" model's have {len(sizes)}: give positions [context, {len(sizes)}]"
    )
  largest = positions.max(0)
  if (largest >= sizes).any():
    raise UserError(
      f"the context has positions up to {largest.tolist()}, and the model's"
      f" tables hold {sizes}, from 0 on: give a shorter context"
    )


def _check_prompt(tokens: np.ndarray, vocab_size: int) -> None:
  if tokens.ndim != 2 or not tokens.size:
    raise UserError(
      f"the prompt has shape {tokens.shape}: give at least one token in each"
      " row of [sequences, tokens]"
    )
  if tokens.min() < 0 or tokens.max() >= vocab_size:
    raise UserError(
      f"the prompt holds tokens from {tokens.min()} to {tokens.max()}, and the"
      f" model's are 0 to {vocab_size - 1}"
    )
