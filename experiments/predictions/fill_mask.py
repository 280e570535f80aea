"""predict fill-mask TEXT ...: predictions of a language model for [MASK]."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import launch
from experiments.predictions import models
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.text import byte_tokenizer, tokenizers
from perceiver_jax.errors import UserError
from perceiver_jax.training import workdir

_MASK = "[MASK]"


class LanguageModel(NamedTuple):
  """A masked language model.

  Attributes:
    tokenizer: Converts text to tokens and back.
    check_length: Raises UserError if tokens [L] are too many for the model.
    apply: Returns the outputs for the tokens [L] of a text, on the host.
  """

  tokenizer: tokenizers.Tokenizer
  check_length: Callable[[np.ndarray], object]
  apply: Callable[[np.ndarray], Any]


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
    check(text, words)
  model = load()
  tokens = [tokenize(text, words, model.tokenizer) for text in arguments]
  for ids in tokens:
    model.check_length(ids)
  for text, ids in zip(arguments, tokens, strict=True):
    print(text)
    print(_format(ids, probabilities(model.apply(ids)), model.tokenizer))


def check(text: str, words: str) -> None:
  """Raises if it's unclear what to fill, before weights are loaded."""
  if words and _MASK in text:
    raise UserError(
      f"{text!r} has {_MASK} and --mask is {words!r}; give {_MASK} or --mask,"
      " not both"
    )
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


def load(
  loaded: weights_lib.Weights | None = None, **options: Any
) -> LanguageModel:
  """Loads the language model of --weights or of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.
    **options: Static options of the model.

  Raises:
    UserError: No model is given, or it does not fill masked tokens.
  """
  weights = models.load_weights(
    ["masked_lm", "token"], "language_bytes", loaded=loaded
  )
  tokenizer = load_tokenizer(weights)
  length = weights.spec["adapter"]["max_length"]
  apply_padded = models.jit_apply(weights, **options)

  def apply(ids):
    rows, input_mask = byte_tokenizer.pad([ids], length)
    return jax.device_get(apply_padded(rows, input_mask=input_mask))

  return LanguageModel(
    tokenizer, lambda ids: byte_tokenizer.pad([ids], length), apply
  )


def probabilities(model_outputs: Any) -> np.ndarray:
  """Returns the probabilities [M, V] of the tokens at each position."""
  return np.asarray(jax.nn.softmax(model_outputs.logits[0]))


def fill(ids: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
  """Returns the tokens [L] with the most likely one in place of each mask.

  Each mask gets its most likely token independently, because the model predicts
  them independently. Filling one mask at a time would give worse texts: whole
  words were masked in training, so the model never saw half a word.
  """
  is_masked = ids == byte_tokenizer.MASK
  return np.where(is_masked, probabilities[: len(ids)].argmax(-1), ids)


def top_tokens(
  ids: np.ndarray, probabilities: np.ndarray, tokenizer: tokenizers.Tokenizer
) -> dict[int, list[tuple[str, float]]]:
  """Returns the --top tokens of each mask with probabilities, by position."""
  tops = {}
  for i in np.flatnonzero(ids == byte_tokenizer.MASK).tolist():
    order = np.argsort(-probabilities[i])[: flags.FLAGS.top]
    tops[i] = [
      (tokenizer.display([token]), float(probabilities[i, token]))
      for token in order
    ]
  return tops


def _format(
  ids: np.ndarray, probabilities: np.ndarray, tokenizer: tokenizers.Tokenizer
) -> str:
  """Formats the filled text, and a line for each mask with its top tokens."""
  lines = [f"  {tokenizer.display(fill(ids, probabilities))}"]
  for i, top in top_tokens(ids, probabilities, tokenizer).items():
    predictions = "  ".join(f"{token!r} {share:.1%}" for token, share in top)
    lines.append(f"  token {i}: {predictions}")
  return "\n".join(lines)
