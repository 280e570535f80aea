"""Makes the sequences that the config of an autoregressive model names."""

from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from perceiver_jax.checks import check_leaf, check_leaf_choice
from perceiver_jax.data.core import mixture
from perceiver_jax.data.core.source import Source, make_named
from perceiver_jax.data.images import sources as image_sources
from perceiver_jax.data.sequences import images, mirrored, source, text
from perceiver_jax.data.sequences.token_files import token_files
from perceiver_jax.data.text.tokenizers import Tokenizer
from perceiver_jax.tasks.shared import text_corpora

TEXT = "text"
IMAGES = "images"
_OTHERS: dict[str, Callable[..., source.Sequences]] = {
  "mirrored": mirrored.Mirrored,
  "token_files": token_files,
}
SOURCES = (TEXT, IMAGES, *_OTHERS)
# Unit of the code length of each source.
UNITS = {TEXT: "byte", IMAGES: "dim", "token_files": "token"}


def check_source(data: ml_collections.ConfigDict) -> None:
  """Checks the name of the source and the number of documents.

  Raises:
    UserError: there is no such source, or the number is not positive.
  """
  check_leaf_choice("data.source", data.source, SOURCES)
  count = data.documents_per_example
  check_leaf("data.documents_per_example", count, count >= 1, "1 or more")


def train_source(
  data: ml_collections.ConfigDict, tokenizer: Tokenizer | None
) -> Source:
  """Returns whole sequences, those of several corpora mixed by weight.

  Of texts they have the `text` in place of tokens.

  Args:
    data: section `data` of the config.
    tokenizer: tokenizer of texts.

  Raises:
    UserError: the data is missing or can't be read.
  """
  parts = _parts(data, "train", tokenizer)
  make = text.Untokenized if data.source == TEXT else source.Whole
  whole = {name: make(part) for name, part in parts.items()}
  if len(whole) == 1:
    return next(iter(whole.values()))
  return mixture.Mixture(whole, text_corpora.weights(data.corpora))


def eval_sequences(
  data: ml_collections.ConfigDict, tokenizer: Tokenizer | None
) -> source.Sequences:
  """Returns all held-out sequences; see `train_source`."""
  return source.Chain(list(_parts(data, "eval", tokenizer).values()))


def texts(
  data: ml_collections.ConfigDict, role: str, tokenizer: Tokenizer
) -> Iterator[str]:
  """Yields the text of each sequence of "train" or "eval"."""
  for part in _parts(data, role, tokenizer).values():
    yield from (part.text(i) for i in range(len(part)))


def _parts(
  data: ml_collections.ConfigDict, role: str, tokenizer: Tokenizer | None
) -> dict[str, source.Sequences]:
  """Returns the sequences of each corpus, or those of the only source."""
  if data.source == TEXT:
    count = data.documents_per_example
    return {
      name: text.Texts(
        text_corpora.documents(data.corpora, name, role), tokenizer, count
      )
      for name in text_corpora.weights(data.corpora)
    }
  split = data.train_split if role == "train" else data.eval_split
  arguments: dict[str, Any] = data.source_args.to_dict().get(data.source, {})
  if data.source != IMAGES:
    made = make_named(_OTHERS, data.source, "sequences", {
      **arguments, "split": split,
    })  # fmt: skip
    return {data.source: made}
  name = arguments["source"]
  made = image_sources.make_source(
    name, split=split, **arguments["arguments"].get(name, {})
  )
  return {IMAGES: images.Images(made, arguments["shape"])}
