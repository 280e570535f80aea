"""predict fill-mask TEXT: what a byte language model puts for masked bytes."""

from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments.predictions import source
from perceiver_jax.errors import UserError

_MASK = "[MASK]"


def run(arguments: Sequence[str]) -> None:
  """Prints the filled text and the likeliest bytes of each mask.

  Args:
    arguments: texts; each has [MASK] for every hidden byte, or holds the words
      of --mask.

  Raises:
    UserError: there is no text, nothing is masked, or it is too long.
  """
  import jax

  from perceiver_jax.data import byte_tokenizer

  if not arguments:
    raise UserError(
      f"no text is given: write {_MASK} for each byte to fill, or name the"
      " words to hide with --mask"
    )
  tokens = [_tokens(text) for text in arguments]
  weights = source.load_weights(["masked_lm", "token"], "language_bytes")
  size = weights.spec["adapter"]["vocab_size"]
  if size != byte_tokenizer.VOCABULARY:
    raise UserError(
      f"these weights are of a model with {size:,} tokens; fill-mask needs one"
      f" of bytes, which has {byte_tokenizer.VOCABULARY}: give other --weights"
    )
  length = weights.spec["adapter"]["max_length"]
  padded, mask = byte_tokenizer.pad(tokens, length)
  apply = source.jitted(weights)
  for text, ids, row, real in zip(arguments, tokens, padded, mask, strict=True):
    logits = apply(row[None], input_mask=real[None]).logits[0, : len(ids)]
    probabilities = np.asarray(jax.nn.softmax(logits))
    print(text)
    print(_report(ids, probabilities))


def _tokens(text: str) -> np.ndarray:
  from perceiver_jax.data import byte_tokenizer

  if flags.FLAGS.mask:
    return byte_tokenizer.mask_words(text, flags.FLAGS.mask)
  if _MASK not in text:
    raise UserError(
      f"nothing to fill in {text!r}: write {_MASK} for each byte, or name the"
      " words to hide with --mask"
    )
  hole = np.array([byte_tokenizer.MASK], np.int32)
  parts = [byte_tokenizer.encode(part) for part in text.split(_MASK)]
  between = [part for p in parts for part in (p, hole)][:-1]
  return np.concatenate(between)


def _report(ids: np.ndarray, probabilities: np.ndarray) -> str:
  """The greedy text, then a line a masked byte with its likeliest fillings."""
  from perceiver_jax.data import byte_tokenizer

  holes = np.flatnonzero(ids == byte_tokenizer.MASK)
  filled = ids.copy()
  filled[holes] = probabilities[holes].argmax(-1)
  lines = [f"  {byte_tokenizer.display(filled)}"]
  for place in holes:
    best = np.argsort(-probabilities[place])[: flags.FLAGS.top]
    guesses = "  ".join(
      f"{byte_tokenizer.display([i])!r} {probabilities[place, i]:.1%}"
      for i in best
    )
    lines.append(f"  byte {place}: {guesses}")
  return "\n".join(lines)
