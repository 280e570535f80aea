"""Cuts sequences into the inputs and targets of Perceiver AR.

The latents are at the last N positions of the inputs, and each predicts the
token after its own. Shapes: E tokens of a sequence, M inputs, N latents, d
dimensions of positions.
"""

import numpy as np

from perceiver_jax.data.core.source import Example
from perceiver_jax.data.sequences.source import PAD


def random_end(length: int, shortest: int, rng: np.random.Generator) -> int:
  """Returns where a random crop of a sequence ends.

  All ends are equally likely, so that tokens at all places are predicted (the
  authors' code).

  Args:
    length: E.
    shortest: Smallest end, if the sequence is that long; at least 2.
    rng: Draws the end.
  """
  return int(rng.integers(min(max(shortest, 2), length), length + 1))


def crop(
  example: Example,
  end: int,
  num_targets: int,
  num_inputs: int,
  num_latents: int,
) -> Example:
  """Returns the tokens before `end` as inputs and targets.

  Args:
    example: A sequence; see `source.Sequences`.
    end: Index after that of the last target, at least 2.
    num_targets: Number of the last tokens that count as targets.
    num_inputs: M.
    num_latents: N, at most M.

  Returns:
    `tokens` int32 [M] and `positions` int32 [M, d], padded at the end; and
    `targets` int32 [N], the token that each latent should predict: `PAD` at
    latents without a position, and where nothing counts.
  """
  start = max(0, end - 1 - num_inputs)
  tokens, positions = example["tokens"], example["positions"]
  count = end - 1 - start
  inputs = np.full(num_inputs, PAD, np.int32)
  inputs[:count] = tokens[start : end - 1]
  where = np.zeros((num_inputs, positions.shape[1]), np.int32)
  where[:count] = positions[start : end - 1]
  if positions.shape[1] == 1:  # From the start of the crop.
    where[:count] -= start
  targets = np.full(num_latents, PAD, np.int32)
  used = min(count, num_latents, num_targets)
  targets[num_latents - used :] = tokens[end - used : end]
  return {"tokens": inputs, "positions": where, "targets": targets}
