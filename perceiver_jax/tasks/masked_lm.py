"""Masked language modeling of bytes or subwords (Perceiver IO, 4.1).

Shapes: b examples, M tokens of an example, V vocabulary.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp
from scipy import special

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.core import mixture
from perceiver_jax.data.core.source import Example
from perceiver_jax.data.text import byte_tokenizer, masking, tokenizers
from perceiver_jax.models import local_attention_init, perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import text_attention, text_corpora
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections

# Number of a text's tokens in the report: before the first masked one, in all.
_NUM_BEFORE, _NUM_TOKENS = 40, 160


class MaskedLanguageModel(base.Task):
  """Masked language modeling; metrics are means over masked tokens.

  Args:
    config: config with the sections `model` (see `models.zoo.build`) and `data`
      of `configs/masked_lm.py`.
    metadata: not used.

  Raises:
    UserError: the share of masked words is not between 0 and 1.
  """

  rates: ClassVar = {"tokens": "tokens_per_second"}

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config, metadata)
    self._length = config.model.adapter.max_length
    rate, max_masked = config.data.mask_rate, config.data.max_masked
    check_leaf(
      "data.mask_rate",
      rate,
      0 < rate < 1,
      "a share of the words between 0 and 1",
    )
    check_leaf(
      "data.max_masked",
      max_masked,
      0 <= max_masked <= self._length,
      f"0, which decodes all, or at most the model's {self._length} tokens",
    )

  def dummy_batch(self) -> Batch:
    """Returns one empty text."""
    return {
      "tokens": np.full((1, self._length), byte_tokenizer.PAD, np.int32),
      "masked": np.zeros((1, self._length), bool),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the tokens and the logits."""
    tokens = tokenizers.describe_tokens(self._config.data.tokenizer)
    return base.ModelDescription(
      {
        "tokens": tokens,
        "masked": "True at tokens that the model must not see, which count as"
        " MASK",
      },
      {
        "logits": "logits of the vocabulary at each position; their softmax is"
        " the probabilities"
      },
    )

  def metadata(self) -> dict[str, Any]:
    """Returns the name of the tokenizer."""
    return {"tokenizer": self._config.data.tokenizer}

  def prepare_batch(self, batch: Batch) -> Batch:
    """Chooses the positions [b, O] to decode: masked ones first, in order.

    All are decoded if `config.data.max_masked` is 0.
    """
    count = self._config.data.max_masked
    if not count:
      return batch
    queries = jax.lax.top_k(batch["masked"].astype(jnp.int32), count)[1]
    return {**batch, "queries": queries}

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, M, V], or [b, O, V] of the batch's queries alone."""
    tokens = batch["tokens"]
    seen = jnp.where(batch["masked"], byte_tokenizer.MASK, tokens)
    spec = self._config.model.to_dict()
    with local_attention_init.local_attention_init(
      spec, self._config.local_attention_init_bands
    ):
      return self.build_model(spec)(
        seen,
        is_training=is_training,
        input_mask=jnp.asarray(tokens != byte_tokenizer.PAD),
        queries=batch.get("queries"),
        return_attention=return_attention,
      )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy and accuracy of masked tokens, and token counts."""
    real = (batch["tokens"] != byte_tokenizer.PAD).sum(-1)
    ones = jnp.ones(real.shape, jnp.float32)
    trained = {name: batch[name] for name in ("tokens", "masked")}
    if "queries" in batch:
      trained = {
        name: jnp.take_along_axis(value, batch["queries"], 1)
        for name, value in trained.items()
      }
    return {
      **self.metrics(outputs, {**trained, "mask": ones}),
      "tokens": metrics_lib.weighted(real, ones),
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy (nats) and accuracy over masked tokens."""
    losses = optax.softmax_cross_entropy_with_integer_labels(
      outputs.logits, batch["tokens"]
    )
    correct = outputs.logits.argmax(-1) == batch["tokens"]
    weights = batch["masked"] * batch["mask"][:, None]
    return {
      "loss": metrics_lib.weighted(losses, weights),
      "accuracy": metrics_lib.weighted(correct, weights),
    }

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns held-out texts with predictions, and attention to one."""
    del metrics
    predictions = np.asarray(outputs.logits).argmax(-1)
    rows = zip(batch["tokens"], batch["masked"], predictions, strict=True)
    report = [sections.masked_tokens([self._spans(*row) for row in rows])]
    tokens = np.where(batch["masked"], byte_tokenizer.MASK, batch["tokens"])[0]
    tokens = tokens[tokens != byte_tokenizer.PAD][:_NUM_TOKENS]
    for logits in outputs.encoder_attention:
      weights = special.softmax(np.asarray(logits[0]), axis=-1)
      report.append(text_attention.section(weights, tokens, self.tokenizer))
    return report

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """Returns the tokenizer.

    Raises:
      UserError: the tokenizer can't be read, or its vocabulary differs from
        that of the model.
    """
    size = self._config.model.adapter.vocab_size
    return tokenizers.tokenizer_for_model(self._config.data.tokenizer, size)

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Crops and masks a text, deterministically in evaluation."""
    if rng is None:
      rng = np.random.default_rng(example["position"])
    return masking.masked_example(
      example,
      self.tokenizer,
      self._length,
      self._config.data.mask_rate,
      rng,
    )

  def _spans(
    self, tokens: np.ndarray, masked: np.ndarray, predictions: np.ndarray
  ) -> list[sections.TextSpan]:
    """Splits the text around the first masked token into spans."""
    start = max(0, int(masked.argmax()) - _NUM_BEFORE)
    part = slice(start, start + _NUM_TOKENS)
    tokens, masked, predictions = tokens[part], masked[part], predictions[part]
    known = slice(int((tokens != byte_tokenizer.PAD).sum()))
    return spans(
      tokens[known], masked[known], predictions[known], self.tokenizer
    )

  def train_texts(self) -> Iterator[str]:
    """Yields every training document of every corpus once."""
    corpora = self._config.data.corpora
    for name in text_corpora.weights(corpora):
      documents = text_corpora.documents(corpora, name, "train")
      yield from (documents[i] for i in range(len(documents)))

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> mixture.Mixture:
    """Returns the documents of a split, "train" or "eval"."""
    self.tokenizer  # noqa: B018 (raises errors before any text is read)
    corpora = self._config.data.corpora
    weights = text_corpora.weights(corpora)
    count = self._config.data.documents_per_example
    joined = {
      name: masking.JoinedDocuments(
        text_corpora.documents(corpora, name, split), count
      )
      for name in weights
    }
    return mixture.Mixture(joined, weights)


def spans(
  tokens: np.ndarray,
  masked: np.ndarray,
  predictions: np.ndarray,
  tokenizer: tokenizers.Tokenizer,
) -> list[sections.TextSpan]:
  """Splits a text into masked and visible spans.

  Args:
    tokens: the original text [L].
    masked: whether each token was masked [L].
    predictions: the most likely tokens [L].
    tokenizer: tokenizer of the model.
  """
  edges = np.flatnonzero(np.diff(masked)) + 1
  return [
    sections.TextSpan(
      tokenizer.display(tokens[span]),
      tokenizer.display(predictions[span]),
      bool(masked[span[0]]),
    )
    for span in np.split(np.arange(len(tokens)), edges)
    if len(span)
  ]


def masked_bytes(
  batch: Mapping[str, Any],
) -> list[tuple[bytes, np.ndarray]]:
  """Returns the texts of a batch of bytes with their masks.

  Args:
    batch: a batch of `eval_datasets`, with the byte tokenizer.

  Returns:
    The bytes of each valid example, without padding, and a boolean mask of the
    same length.
  """
  first = len(byte_tokenizer.SPECIAL_TOKENS)
  pairs = []
  for tokens, masked, is_valid in zip(
    batch["tokens"], batch["masked"], batch["mask"], strict=True
  ):
    real = tokens >= first
    if is_valid:
      text = (tokens[real] - first).astype(np.uint8).tobytes()
      pairs.append((text, masked[real]))
  return pairs
