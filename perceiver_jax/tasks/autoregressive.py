"""Autoregressive modeling of sequences (Perceiver AR, arXiv 2202.07765).

Shapes: b examples, M inputs, N latents, V vocabulary.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp
from scipy import special

from perceiver_jax.checks import check_leaf, check_not_negative
from perceiver_jax.data.core.source import Example, Source
from perceiver_jax.data.sequences import crops, text
from perceiver_jax.data.sequences import source as sequences
from perceiver_jax.data.text import tokenizers
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.shared import sequence_data, text_attention
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections

# Tokens of the text that the report shows.
_NUM_TOKENS = 1000


class Autoregressive(base.Task):
  """Prediction of each token from those before it.

  Args:
    config: config with the sections `model` (see `models.zoo.build`) and `data`
      of `configs/perceiver_ar.py`.
    metadata: not used.

  Raises:
    UserError: a number of the data or of the loss is out of range.
  """

  primary_metric = "eval/loss"
  primary_mode = "min"
  eval_unit = "windows"
  rates: ClassVar = {"tokens": "tokens_per_second"}

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config, metadata)
    data = config.data
    sequence_data.check_source(data)
    self._num_latents = config.model.encoder.num_latents
    self._num_inputs = data.context_length
    check_leaf(
      "data.context_length",
      self._num_inputs,
      self._num_inputs >= self._num_latents,
      f"at least the model's {self._num_latents} latents, which are its last"
      " positions",
    )
    sizes = config.model.adapter.position_sizes
    if len(sizes) == 1:
      check_leaf(
        "data.context_length",
        self._num_inputs,
        self._num_inputs < sizes[0],
        f"less than model.adapter.position_sizes, {sizes[0]}: position 0 is"
        " that of padding",
      )
    for leaf, given in (
      ("data.min_crop", data.min_crop),
      ("data.eval_stride", data.eval_stride),
    ):
      check_leaf(
        leaf, given, given >= 0, "0 for the number of latents, or more"
      )
    self._stride = data.eval_stride or self._num_latents
    check_leaf(
      "data.eval_stride",
      self._stride,
      self._stride <= self._num_latents,
      f"at most the model's {self._num_latents} latents, or 0 for all of them",
    )
    check_not_negative("z_loss", config.z_loss)

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer | None:
    """Returns the tokenizer of texts; None for other sequences.

    Raises:
      UserError: the tokenizer can't be read, or its vocabulary differs from
        that of the model.
    """
    if not self._is_text:
      return None
    size = self._config.model.adapter.vocab_size
    return tokenizers.tokenizer_for_model(self._config.data.tokenizer, size)

  def dummy_batch(self) -> Batch:
    """Returns one sequence of padding."""
    num_positions = max(1, len(self._config.model.adapter.position_sizes))
    inputs = (1, self._num_inputs)
    return {
      "tokens": np.zeros(inputs, np.int32),
      "positions": np.zeros((*inputs, num_positions), np.int32),
      "targets": np.zeros((1, self._num_latents), np.int32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the tokens and the logits."""
    if self._is_text:
      tokens = tokenizers.describe_tokens(self._config.data.tokenizer)
    else:
      tokens = (
        f"{sequences.SOS}, then each value plus {sequences.NUM_SPECIAL}; then"
        f" {sequences.PAD} as padding"
      )
    return base.ModelDescription(
      {
        "tokens": tokens,
        "positions": "position of each token, from 1 (of images: column, row"
        " and channel, from 2); 0 at padding",
      },
      {
        "logits": "logits of the next token at each of the last positions"
        " before the padding"
      },
    )

  def metadata(self) -> dict[str, Any]:
    """Returns the name of the tokenizer of texts."""
    if not self._is_text:
      return {}
    return {"tokenizer": self._config.data.tokenizer}

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> Source:
    """Returns the sequences of "train", or windows of those of "eval"."""
    data, tokenizer = self._config.data, self.tokenizer
    if split == "train":
      return sequence_data.train_source(data, tokenizer)
    held_out = sequence_data.eval_sequences(data, tokenizer)
    return sequences.Windows(held_out, self._stride)

  def texts(self, role: str) -> Iterator[str]:
    """Yields the text of each sequence of "train" or "eval"."""
    yield from sequence_data.texts(self._config.data, role, self.tokenizer)

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Crops a sequence at random, or to the window that is evaluated."""
    num_inputs, num_targets = self._num_inputs, self._num_latents
    shortest = self._config.data.min_crop or self._num_latents
    if rng is None:
      end, num_targets = example["end"], example["end"] - example["start"]
    elif "text" in example:
      example = text.random_part(
        example["text"], self.tokenizer, num_inputs + 1, shortest, rng
      )
      end = len(example["tokens"])
    else:
      end = crops.random_end(len(example["tokens"]), shortest, rng)
    cropped = crops.crop(
      example, end, num_targets, num_inputs, self._num_latents
    )
    counts = {
      name: np.float32(example[name])
      for name in ("num_units", "num_words")
      if rng is None and name in example
    }
    return {**cropped, **counts}

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits [b, N, V] of the token after each latent's position.

    Attention is only returned for texts: the report shows no other, and that of
    131,072 inputs would take 8 GB an example.
    """
    return self.build_model()(
      {name: batch[name] for name in ("tokens", "positions")},
      is_training=is_training,
      input_mask=jnp.asarray(batch["tokens"] != sequences.PAD),
      return_attention=return_attention if self._is_text else False,
      dropout_keys=batch["rng"] if is_training else None,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy with z-loss, accuracy, and token counts."""
    targets = batch["targets"]
    losses, log_z = _cross_entropy(outputs.logits, targets)
    weights = targets != sequences.PAD
    ones = jnp.ones(len(targets), jnp.float32)
    return {
      "loss": metrics_lib.weighted(
        losses + self._config.z_loss * jnp.square(log_z), weights
      ),
      "accuracy": metrics_lib.weighted(
        outputs.logits.argmax(-1) == targets, weights
      ),
      "tokens": metrics_lib.weighted(weights.sum(-1), ones),
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy (nats), accuracy and code lengths."""
    targets, mask = batch["targets"], batch["mask"]
    losses, _ = _cross_entropy(outputs.logits, targets)
    weights = (targets != sequences.PAD) * mask[:, None]
    nats, count = metrics_lib.weighted(losses, weights)
    sums = {
      "loss": (nats, count),
      "accuracy": metrics_lib.weighted(
        outputs.logits.argmax(-1) == targets, weights
      ),
    }
    if "num_units" in batch:
      units = jnp.sum(batch["num_units"] * mask)
      sums[f"bits_per_{self._unit}"] = nats / math.log(2), units
    if "num_words" in batch:
      sums["nats_per_word"] = nats, jnp.sum(batch["num_words"] * mask)
    return sums

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Adds the perplexity, of words too where there are any."""
    return {name: _with_perplexity(means) for name, means in metrics.items()}

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns the attention of latents to the text before them."""
    del metrics
    if self.tokenizer is None:
      return []
    tokens = batch["tokens"][0]
    tokens = tokens[tokens != sequences.PAD][:_NUM_TOKENS]
    return [
      text_attention.section(
        special.softmax(np.asarray(logits[0]), axis=-1), tokens, self.tokenizer
      )
      for logits in outputs.encoder_attention
    ]

  @property
  def _is_text(self) -> bool:
    return self._config.data.source == sequence_data.TEXT

  @property
  def _unit(self) -> str:
    return sequence_data.UNITS[self._config.data.source]


def _cross_entropy(
  logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the cross-entropy [b, N] and the log partition function."""
  logits = logits.astype(jnp.float32)
  log_z = jax.nn.logsumexp(logits, axis=-1)
  own = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return log_z - own, log_z


def _with_perplexity(
  means: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """Returns metrics of an evaluation with perplexities."""
  means = dict(means)
  means["perplexity"] = np.exp(means["loss"])
  if "nats_per_word" in means:
    means["word_perplexity"] = np.exp(means.pop("nats_per_word"))
  return means
