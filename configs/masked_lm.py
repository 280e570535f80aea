r"""Masked language modeling (Perceiver IO v3, section 4.1, app. F).

  python -m experiments.train --config=configs/masked_lm.py:bytes \
    --workdir=runs/mlm --config.data.corpora.c4.arguments.tfds.data_dir=DIR \
    --config.data.corpora.wikipedia.arguments.tfds.data_dir=DIR

Data: C4 and English Wikipedia as TensorFlow Datasets prepares them
(`python -m scripts.data.prepare`), 70% and 30% of the examples. Ten documents
are joined before a crop is taken. Each whitespace-separated word is masked as a
whole with a probability of 15%, including the space before it, since the
authors' notebook says that masks should begin with one.

Variants:
  bytes: UTF-8 bytes, 201M parameters; GLUE 81.0 after fine-tuning.
  bytes_plus_plus: IO++, 425M; GLUE 81.8.
  sentencepiece: 32,000 tokens, 223M; GLUE 81.2. Needs
    --config.data.tokenizer=FILE.model of 31,994 subwords (there are 6 special
    tokens), which `python -m scripts.data.train_sentencepiece` makes.
  bytes_128: 128 latents of 1,920 channels; GLUE 75.8 (Table 15).
  bytes_512: 512 latents of 896 channels; GLUE 80.9 (Table 15).
  byte_bert: a plain Transformer on bytes with the same operation count, 20M;
    GLUE 71.5 (Tables 1 and 11).
  bert_base: BERT Base on 32,000 tokens as in `sentencepiece`, 110M; GLUE 81.1
    (the authors' own run, Table 1).
  small: a model for two CPU cores on text that ships with Python; after 5
    minutes its accuracy on masked bytes is 28.3%, that of byte 5-grams 21.5%.
    Unlike the paper's, its attention is initialized to be local; see
    docs/language.md.
Your own text:
  own: .txt or .jsonl files, also .gz or .zst, in a folder or by a pattern,
    --config.data.corpora.own.arguments.files.train='books/*.txt', in place of
    the above: alone, for `small`, or after a comma, as in `:bytes,own`.
Runs in seconds:
  smoke: a few steps of a tiny model; alone, or with any variant.

The recipe is Table 12's: 500,000 steps of 2,048 examples, LAMB 1.25e-3, 1,000
warm-up steps, cosine, weight decay 0.01. Not stated in the paper, and chosen:
clipping at 10, the separator of documents (an empty line), and that masked
tokens are always replaced by the mask token (no 80/10/10 rule is mentioned);
BERT Base's 12 heads and MLPs of 3,072, which are BERT's, with pre-norm layers.
The number of devices is not stated; --config.num_microbatches splits a batch
that does not fit. The sizes and the recipe of `small` are ours.
"""

import ml_collections

from configs import base
from perceiver_jax.models import zoo

_MODELS = {
  "bytes": "language_bytes",
  "bytes_plus_plus": "language_bytes_plus_plus",
  "sentencepiece": "language_sentencepiece",
  "bytes_128": "language_bytes_128",
  "bytes_512": "language_bytes_512",
  "byte_bert": "byte_bert",
  "bert_base": "bert_base",
  "small": "language_bytes",
}
# Name of the variant, and of its corpus.
_OWN = "own"


def get_config(variant: str = "bytes") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  own = _OWN in variant.split(",")
  rest = ",".join(part for part in variant.split(",") if part != _OWN)
  choices = (*_MODELS, _OWN)
  name, smoke = base.parse(rest, choices, "small" if own else "bytes")
  config = base.run()
  config.task = "masked_lm"
  config.model = zoo.get_spec(_MODELS[name])
  config.num_steps = 500_000
  config.batch_size = 2048
  config.data = {
    "tokenizer": "bytes",  # Or the path of a SentencePiece .model.
    "mask_rate": 0.15,  # Probability of masking a word.
    # Number of positions per text that training decodes, masked ones first;
    # 0: all. The loss always counts masked positions only.
    "max_masked": 0,
    "documents_per_example": 10,
    # Weights are shares of the examples; 0 leaves a corpus out.
    "corpora": {
      "c4": _tfds("c4/en", 0.7, "train", "validation"),
      # Wikipedia has one split; 1,000 articles are held out.
      "wikipedia": _tfds(
        "wikipedia/20230601.en", 0.3, "train[1000:]", "train[:1000]"
      ),
    },
    "num_workers": 16,  # Processes that prepare batches; 0: threads.
  }
  # Not in the paper; 0: off. See `perceiver_jax.models.local_attention_init`.
  config.local_attention_init_bands = 0
  config.optimizer.learning_rate = 1.25e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 1000
  config.optimizer.weight_decay = 0.01
  config.log.every_steps = 100
  config.checkpoint.every_steps = 2500
  config.eval_every_steps = 2500
  if name in ("sentencepiece", "bert_base"):
    config.data.tokenizer = "sentencepiece.model"
  if name == "small":
    _small(config)
  if smoke:
    config = _smoke(config)
  if own:
    config.data.corpora = {_OWN: _corpus("files", documents="paragraph")}
  return config


def _tfds(
  name: str, weight: float, train_split: str, eval_split: str
) -> dict[str, object]:
  return {
    **_corpus("tfds", name),
    "weight": weight,
    "train_split": train_split,
    "eval_split": eval_split,
  }


def _corpus(
  source: str, name: str = "", documents: str = "line"
) -> dict[str, object]:
  """Returns the leaves of a corpus, with the arguments of each source."""
  return {
    "source": source,  # See `perceiver_jax.data.text.corpora.SOURCES`.
    "weight": 1.0,
    "train_split": "train",
    "eval_split": "test",
    "arguments": {
      "tfds": {"name": name, "data_dir": ""},
      "python_docs": {"docstrings": False},
      # Folders or patterns; documents: "line", "paragraph" or "file".
      "files": {
        "train": "",
        "eval": "",
        "documents": documents,
        "field": "text",
      },
    },
  }


def _python_docs(config: ml_collections.ConfigDict) -> None:
  """Sets the data to text that ships with Python."""
  config.data.tokenizer = "bytes"
  config.data.num_workers = 0
  config.data.corpora = {"python_docs": _corpus("python_docs")}


def _small(config: ml_collections.ConfigDict) -> None:
  _python_docs(config)
  config.data.corpora.python_docs.arguments.python_docs.docstrings = True
  config.num_steps = 5000
  config.batch_size = 32
  config.data.documents_per_example = 1
  config.data.max_masked = 48
  config.local_attention_init_bands = 16
  _shrink(config, length=128, channels=128)
  config.model.encoder.update(
    num_latents=32,
    num_latent_channels=128,
    num_self_attends_per_block=4,
    num_cross_attend_heads=4,
    num_self_attend_heads=4,
    v_channels=128,
  )
  config.model.decoder.num_heads = 4
  # At the authors' scale of 1, untrained logits are far too large, and the
  # residual stream drowns what is attended to.
  config.model.adapter.embedding_init_scale = 0.3
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 100
  config.checkpoint.every_steps = 1000
  config.eval_every_steps = 500


def _shrink(
  config: ml_collections.ConfigDict, length: int, channels: int
) -> None:
  """Shortens texts and narrows embeddings and heads."""
  model = config.model
  model.adapter.update(max_length=length, num_channels=channels)
  if model.decoder.kind == "token":
    return
  model.encoder.qk_channels = channels
  model.decoder.update(
    max_length=length,
    num_query_channels=channels,
    qk_channels=channels,
    v_channels=channels,
  )


def _smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Shortens the run: little text, a tiny model."""
  config = base.smoke(config)
  _python_docs(config)
  _shrink(config, length=64, channels=16)
  config.model.adapter.vocab_size = 262
  config.local_attention_init_bands = min(config.local_attention_init_bands, 2)
  if config.model.encoder.get("kind") == "transformer":
    return config
  config.model.encoder.v_channels = 16
  config.model.encoder.num_cross_attend_heads = 2
  config.model.decoder.num_heads = 2
  return config
