"""predict generate --prompt=TEXT: continues a sequence of tokens."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import launch
from experiments.predictions import models, outputs
from perceiver_jax import files
from perceiver_jax.data.sequences import images, source, token_files
from perceiver_jax.data.text import byte_tokenizer, tokenizers
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import sampling
from perceiver_jax.training import workdir
from perceiver_jax.viz.text import printable

# Context of models whose weights do not determine it.
_DEFAULT_CONTEXT = 2048


class SequenceModel(NamedTuple):
  """An autoregressive model, and how its tokens are converted.

  Attributes:
    sampler: Continues sequences.
    tokenizer: Tokenizer of texts; None for other tokens.
    image_shape: (H, W, C) of images; () for other sequences.
  """

  sampler: sampling.Sampler
  tokenizer: tokenizers.Tokenizer | None
  image_shape: tuple[int, ...]

  @property
  def begin(self) -> int:
    """Returns the token that begins a sequence."""
    return source.SOS if self.tokenizer is None else byte_tokenizer.BOS

  @property
  def end(self) -> int:
    """Returns the token that ends a sequence."""
    return source.EOS if self.tokenizer is None else byte_tokenizer.EOS


def run(arguments: Sequence[str]) -> None:
  """Prints texts, or saves other sequences to a file.

  Args:
    arguments: Must be empty.

  Raises:
    UserError: There is an argument, or the flags do not fit the model.
  """
  if arguments:
    raise UserError(
      f"unexpected argument {arguments[0]!r}: give the text, or the file of"
      " tokens, to continue with --prompt"
    )
  values = flags.FLAGS
  model = load()
  prompt = encode_prompt(values.prompt, model)
  num_tokens = _num_tokens(model, len(prompt))
  prompts = np.tile(prompt, (values.num_samples, 1))
  model.sampler.compile(len(prompts))
  start = time.perf_counter()
  with tqdm(
    total=num_tokens, desc="generate", unit="token", leave=False, disable=None
  ) as bar:
    tokens = model.sampler.generate(
      prompts,
      num_tokens,
      seed=values.seed,
      end_token=model.end,
      on_tokens=lambda new: bar.update(new.shape[1]),
    )
  seconds = time.perf_counter() - start
  sequences = [
    np.concatenate([prompt, _before(row, model.end)]) for row in tokens
  ]
  if model.tokenizer is None:
    _save(sequences, model.image_shape)
  else:
    for sequence in sequences:
      print(_printable_lines(model.tokenizer.decode(sequence)))
  speed = tokens.size / seconds
  print(f"{tokens.size:,} tokens in {seconds:.1f} s: {speed:,.1f} tokens/s")


def load() -> SequenceModel:
  """Loads the model of --weights or of the run in --workdir.

  Raises:
    UserError: No model is given, or it generates no tokens.
  """
  values = flags.FLAGS
  weights = models.load_weights(["next_token"])
  tokenizer = _tokenizer(weights.spec["adapter"]["vocab_size"])
  sizes = tuple(weights.spec["adapter"].get("position_sizes", ()))
  positions, shape, context = None, (), _DEFAULT_CONTEXT
  if models.uses_run():
    context = launch.saved_run()[0].data.context_length
  elif len(sizes) == 1:
    context = sizes[0] - 1
  if len(sizes) == 3:  # Of column, row and channel.
    width, height, channels = (size - 2 for size in sizes)
    shape = (height, width, channels)
    positions = images.positions(shape)
    context = len(positions)
  sampler = sampling.Sampler(
    weights,
    context,
    positions,
    temperature=values.temperature,
    top_p=values.top_p,
    use_cache=values.cache,
  )
  return SequenceModel(sampler, tokenizer, shape)


def encode_prompt(prompt: str, model: SequenceModel) -> np.ndarray:
  """Returns the tokens [P] of a prompt, of which the first begins a sequence.

  Args:
    prompt: A text, or for models of other tokens a file of ids, of which the
      first sequence is taken; "" for nothing.
    model: The model.

  Raises:
    UserError: The text or the file can't be converted.
  """
  if model.tokenizer is not None:
    tokens = model.tokenizer.encode(prompt)
  elif prompt:
    path = str(files.as_path(prompt).expanduser())
    sequences = token_files.read(
      path, model.sampler.vocab_size - source.NUM_SPECIAL
    )
    tokens = next(iter(sequences), np.zeros(0, np.int32)) + source.NUM_SPECIAL
  else:
    tokens = np.zeros(0, np.int32)
  return np.concatenate([[model.begin], tokens]).astype(np.int32)


def _tokenizer(vocab_size: int) -> tokenizers.Tokenizer | None:
  """Returns the tokenizer of --tokenizer or of the run.

  Without either, a model whose vocabulary has the size of that of bytes is
  taken for a model of bytes.
  """
  name = flags.FLAGS.tokenizer
  if not name and models.uses_run():
    name = workdir.read_metadata(launch.workdir()).get("tokenizer", "")
  elif not name and vocab_size == byte_tokenizer.VOCAB_SIZE:
    name = "bytes"
  return tokenizers.tokenizer_for_model(name, vocab_size) if name else None


def _num_tokens(model: SequenceModel, prompt_length: int) -> int:
  """Returns --num_tokens; by default 256, or the rest of an image."""
  given = flags.FLAGS.num_tokens
  if not model.image_shape:
    return given or 256
  left = 1 + int(np.prod(model.image_shape)) - prompt_length
  if left < max(given or 1, 1):
    raise UserError(
      f"{max(left, 0)} values of the image are left after the prompt: lower"
      " --num_tokens, or shorten the --prompt"
    )
  return given or left


def _before(tokens: np.ndarray, end: int) -> np.ndarray:
  """Returns the tokens before the one that ends the sequence."""
  ends = np.flatnonzero(tokens == end)
  return tokens[: ends[0]] if len(ends) else tokens


def _save(sequences: list[np.ndarray], image_shape: tuple[int, ...]) -> None:
  """Saves ids from 0 as one file, and complete images as PNG."""
  folder = outputs.output_folder()
  values = [np.maximum(s[1:] - source.NUM_SPECIAL, 0) for s in sequences]
  path = outputs.unused_path(folder, "generated.npz")
  arrays = {f"sequence_{i}": ids for i, ids in enumerate(values)}
  with (
    outputs.writing(path),
    files.replacing(path) as partial,
    partial.open("wb") as file,
  ):
    np.savez(file, **arrays)
  print(f"wrote {path}")
  for ids in values:
    if image_shape and len(ids) == np.prod(image_shape):
      pixels = np.minimum(ids, 255).astype(np.uint8).reshape(image_shape)
      image = np.broadcast_to(pixels, (*image_shape[:2], 3))
      print(f"wrote {outputs.save_png(folder, 'generated.png', image)}")


def _printable_lines(text: str) -> str:
  return "\n".join(map(printable, text.split("\n")))
