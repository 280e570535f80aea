"""predict fill-mask TEXT: what a language model puts for masked tokens."""

from collections.abc import (
  Callable,
  Sequence,
)
from typing import Any

import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import source
from perceiver_jax.errors import UserError

_MASK = "[MASK]"

# Tokens [L] of a text to the probabilities [L, V] of each.
_Predict = Callable[[np.ndarray], np.ndarray]


def run(arguments: Sequence[str]) -> None:
  """Prints the filled text and the likeliest tokens of each mask.

  Args:
    arguments: texts; each has [MASK] for every hidden byte (or piece), or holds
      the words of --mask.

  Raises:
    UserError: there is no text, nothing is masked, or it is too long.
  """
  from perceiver_jax.data.text import byte_tokenizer

  if not arguments:
    raise UserError(
      f"no text is given: write {_MASK} for each byte to fill, or name the"
      " words to hide with --mask"
    )
  for text in arguments:
    _check(text)
  weights = source.load_weights(["masked_lm", "token"], "language_bytes")
  tokenizer = _tokenizer(weights)
  tokens = [_tokens(text, tokenizer) for text in arguments]
  length = weights.spec["adapter"]["max_length"]
  byte_tokenizer.pad(tokens, length)  # Refuses a long one before any is filled.
  predict = _predictor(weights, length)
  for text, ids in zip(arguments, tokens, strict=True):
    print(text)
    print(_report(ids, predict(ids), tokenizer))


def _check(text: str) -> None:
  """Refuses a text with nothing to fill before any weights are read."""
  from perceiver_jax.data.text import byte_tokenizer

  if flags.FLAGS.mask:
    byte_tokenizer.mask_words(text, flags.FLAGS.mask)
  elif _MASK not in text:
    raise UserError(
      f"nothing to fill in {text!r}: write {_MASK} for each byte, or name the"
      " words to hide with --mask"
    )
  else:
    byte_tokenizer.encode(text)


def _tokenizer(weights: Any) -> Any:
  """That of the run, or of --tokenizer."""
  from perceiver_jax.data.text import tokenizers
  from perceiver_jax.training import workdir

  name = flags.FLAGS.tokenizer
  if not name and flags.FLAGS.workdir and not flags.FLAGS.weights:
    name = workdir.read_metadata(launch.workdir()).get("tokenizer", "")
  size = weights.spec["adapter"]["vocab_size"]
  found = tokenizers.make_tokenizer(name or "bytes")
  if size != found.vocab_size:
    raise UserError(
      f"these weights are of a model with {size:,} tokens, and the tokenizer"
      f" {name or 'bytes'!r} has {found.vocab_size}: give its own with"
      " --tokenizer=FILE.model, or other --weights"
    )
  return found


def _tokens(text: str, tokenizer: Any) -> np.ndarray:
  from perceiver_jax.data.text import byte_tokenizer

  if flags.FLAGS.mask:
    return tokenizer.mask_words(text, flags.FLAGS.mask)
  hole = np.array([byte_tokenizer.MASK], np.int32)
  parts = [tokenizer.encode(part) for part in text.split(_MASK)]
  between = [part for p in parts for part in (p, hole)][:-1]
  return np.concatenate(between)


def _predictor(weights: Any, length: int) -> _Predict:
  import jax

  from perceiver_jax.data.text import byte_tokenizer

  apply = source.jitted(weights)

  def predict(ids):
    rows, real = byte_tokenizer.pad([ids], length)
    logits = apply(rows, input_mask=real).logits[0, : len(ids)]
    return np.asarray(jax.nn.softmax(logits))

  return predict


def _report(ids: np.ndarray, probabilities: np.ndarray, tokenizer: Any) -> str:
  """The best text, then a line a mask with its likeliest fillings.

  The model predicts each mask by itself, so the likeliest token of each makes
  the likeliest text. Filling one mask at a time, for the next to see, makes it
  worse: words were hidden whole in training, and half a word never seen.
  """
  from perceiver_jax.data.text import byte_tokenizer

  holes = np.flatnonzero(ids == byte_tokenizer.MASK)
  filled = ids.copy()
  filled[holes] = probabilities[holes].argmax(-1)
  lines = [f"  {tokenizer.display(filled)}"]
  for place in holes:
    best = np.argsort(-probabilities[place])[: flags.FLAGS.top]
    guesses = "  ".join(
      f"{tokenizer.display([i])!r} {probabilities[place, i]:.1%}" for i in best
    )
    lines.append(f"  token {place}: {guesses}")
  return "\n".join(lines)
