"""predict fill-mask TEXT ...: predictions of a language model for [MASK]."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import models
from perceiver_jax.data.text import byte_tokenizer, tokenizers
from perceiver_jax.errors import UserError
from perceiver_jax.training import workdir

_MASK = "[MASK]"

# Maps the tokens [L] of a text to probabilities [L, V].
_Predict = Callable[[np.ndarray], np.ndarray]


def run(arguments: Sequence[str]) -> None:
  """Prints each text filled in, and the most likely tokens for each mask.

  Args:
    arguments: Texts with [MASK] for each masked byte (or subword), or with the
      words of --mask.

  Raises:
    UserError: No text is given, or one has nothing masked or is too long.
  """
  words = flags.FLAGS.mask
  if not arguments:
    raise UserError(
      f"no text is given: write {_MASK} for each byte to fill, or name the"
      " words to mask with --mask"
    )
  for text in arguments:
    _check(text, words)
  weights = models.load_weights(["masked_lm", "token"], "language_bytes")
  tokenizer = load_tokenizer(weights)
  tokens = [tokenize(text, words, tokenizer) for text in arguments]
  length = weights.spec["adapter"]["max_length"]
  byte_tokenizer.pad(tokens, length)  # Raises if any of the texts is too long.
  predict = _predictor(weights, length)
  for text, ids in zip(arguments, tokens, strict=True):
    print(text)
    print(_format(ids, predict(ids), tokenizer))


def _check(text: str, words: str) -> None:
  """Raises if a text has nothing to fill, before weights are loaded."""
  if words:
    byte_tokenizer.mask_words(text, words)
  elif _MASK not in text:
    raise UserError(
      f"nothing to fill in {text!r}: write {_MASK} for each byte, or name the"
      " words to mask with --mask"
    )
  else:
    byte_tokenizer.encode(text)


def load_tokenizer(weights: Any) -> Any:
  """Loads the tokenizer of --tokenizer or of the run; by default bytes."""
  name = flags.FLAGS.tokenizer
  if not name and models.uses_run():
    name = workdir.read_metadata(launch.workdir()).get("tokenizer", "")
  name = name or "bytes"
  vocab_size = weights.spec["adapter"]["vocab_size"]
  tokenizer = tokenizers.make_tokenizer(name)
  if vocab_size != tokenizer.vocab_size:
    raise UserError(
      f"these weights are of a model with {vocab_size:,} tokens, and the"
      f" tokenizer {name!r} has {tokenizer.vocab_size}: give the model's with"
      " --tokenizer=FILE.model, or other --weights"
    )
  return tokenizer


def tokenize(text: str, words: str, tokenizer: Any) -> np.ndarray:
  """Returns the tokens of a text in which [MASK], or `words`, are masked."""
  if words:
    return tokenizer.mask_words(text, words)
  mask = np.array([byte_tokenizer.MASK], np.int32)
  parts = [tokenizer.encode(part) for part in text.split(_MASK)]
  with_masks = [tokens for part in parts for tokens in (part, mask)][:-1]
  return np.concatenate(with_masks)


def _predictor(weights: Any, length: int) -> _Predict:
  apply = models.jit_apply(weights)

  def predict(ids):
    rows, input_mask = byte_tokenizer.pad([ids], length)
    logits = apply(rows, input_mask=input_mask).logits[0, : len(ids)]
    return np.asarray(jax.nn.softmax(logits))

  return predict


def _format(ids: np.ndarray, probabilities: np.ndarray, tokenizer: Any) -> str:
  """Formats the filled text, and a line for each mask with its top tokens.

  Each mask gets its most likely token independently, because the model predicts
  them independently. Filling one mask at a time would give worse texts: whole
  words were masked in training, so the model never saw half a word.
  """
  positions = np.flatnonzero(ids == byte_tokenizer.MASK)
  filled = ids.copy()
  filled[positions] = probabilities[positions].argmax(-1)
  lines = [f"  {tokenizer.display(filled)}"]
  for i in positions:
    top = np.argsort(-probabilities[i])[: flags.FLAGS.top]
    predictions = "  ".join(
      f"{tokenizer.display([token])!r} {probabilities[i, token]:.1%}"
      for token in top
    )
    lines.append(f"  token {i}: {predictions}")
  return "\n".join(lines)
