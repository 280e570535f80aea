r"""Perceiver AR: prediction of the next token (arXiv 2202.07765).

  python -m experiments.train --config=configs/perceiver_ar.py:imagenet64 \
    --workdir=runs/ar \
    --config.data.source_args.images.arguments.tfds.data_dir=DIR

The inputs are the last tokens before a random place of a sequence, and the
latents are the last of these. docs/perceiver_ar.md has the data.

Variants:
  imagenet64: 64 x 64 images as 12,288 values, 60 self-attends, 770M parameters;
    3.40 bits per value.
  copy_131072: 65,535 random bytes and their mirror image, 6 self-attends; the
    authors released this model.
  copy_32: the same task with 15 bytes, 1 self-attend.
  wikitext103: perplexity of words 17.58 on the validation set, 18.25 on the
    test set. Needs --config.data.tokenizer=FILE.model of 31,994 subwords.
  pg19: perplexity of words 45.9 on the validation set, 28.9 on the test set.
    Needs a tokenizer too.
  books: books in text files, which the authors have not published. Needs a
    tokenizer too.
  maestro: piano music in symbols, from files of token ids; 1.82 nats per token.
  copy: `copy_131072` with a context of 64 and a small model, for two CPU cores;
    99.96% of the mirrored bytes are right in the end.
  bytes: a model of bytes for two CPU cores, on text that ships with Python.
Your own text:
  own: .txt or .jsonl files, also .gz or .zst, in a folder or by a pattern,
    --config.data.corpora.own.arguments.files.train='books/*.txt', in place of
    the above: alone, for `bytes`, or after a comma, as in `:books,own`.
Runs in seconds:
  smoke: a few steps of a tiny model; alone, or with any variant.

`imagenet64`, `copy_131072` and `copy_32` have the recipe of the authors' code:
Adam 3e-4, linear warm-up, cosine or constant with a cosine at the end, dropout
0.1, z-loss 1e-4. It clips the gradient of the sum of all losses at 1. Here
gradients are means, so that clipping and Adam's epsilon are divided by the
number of tokens of a batch, which is the same; change both with the batch size.
The sizes and recipes of the others are chosen, where the three recipes differ;
`copy` and `bytes` are this project's.

The optimizer's state of `imagenet64` and `pg19` is sharded over devices. Set
--config.num_microbatches, too: on 64 TPUs of 16 GB (v5e), 16 for `imagenet64`,
8 for `copy_131072` and 4 for `pg19`; on 64 of 32 GB (v4), 2 for `imagenet64`
and 4 for `copy_131072`. `books` fills a v5e to the last megabytes;
--config.shard_optimizer_state=True leaves 4 GB.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import base
from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables

_MODELS = (
  "imagenet64",
  "copy_131072",
  "copy_32",
  "wikitext103",
  "pg19",
  "books",
  "maestro",
  "copy",
  "bytes",
)
_OWN = "own"  # Name of the variant, and of its corpus.
_COPIES = ("copy_131072", "copy_32", "copy")


def get_config(variant: str = "imagenet64") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  own = _OWN in variant.split(",")
  rest = ",".join(part for part in variant.split(",") if part != _OWN)
  name, smoke = base.parse(
    rest, (*_MODELS, _OWN), "bytes" if own else "imagenet64"
  )
  config = base.run()
  config.task = "autoregressive"
  model = {"copy": "copy_131072", "bytes": "books"}.get(name, name)
  config.model = zoo.get_spec(f"perceiver_ar_{model}")
  config.data = _data()
  config.z_loss = 1e-4  # Weight of the squared log partition function; 0: off.
  config.num_steps = 1_000_000
  config.batch_size = 1024
  config.eval_every_steps = 10_000
  config.checkpoint.every_steps = 2500
  config.published = tables.published(f"configs/perceiver_ar.py:{name}")
  _set_data(config, name)
  if name == "copy":
    _copy(config)
  elif name == "bytes":
    _bytes(config)
  else:
    _published(config, name)
  if smoke:
    config = _smoke(config)
  if own:
    config.data.source = "text"
    config.data.corpora = {_OWN: _corpus("files", documents="paragraph")}
  return config


def _published(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the authors' recipe."""
  config.batch_size = {"imagenet64": 2048, "copy_131072": 4096}.get(name, 1024)
  if name in ("wikitext103", "pg19", "books", "maestro"):
    config.batch_size = 512
    config.optimizer.schedule = "cosine"
  tokens = config.batch_size * config.model.encoder.num_latents
  config.optimizer.update(
    name="adamw",
    learning_rate=3e-4,
    weight_decay=0.0,
    schedule="cosine",
    warmup_steps=1000,
    clip_norm=1.0 / tokens,
    eps=1e-8 / tokens,
  )
  # Models of more than 700 million parameters.
  config.shard_optimizer_state = name in ("imagenet64", "pg19")
  if name == "imagenet64":
    # The cosine begins at step 950,000. The fraction is of the 990,000 steps
    # after the warmup.
    config.optimizer.update(
      schedule="constant_cosine", warmup_steps=10_000, constant_fraction=94 / 99
    )


def _data() -> dict[str, Any]:
  """Returns the leaves of the data, which all variants have."""
  return {
    "source": "text",  # See `perceiver_jax.tasks.shared.sequence_data.SOURCES`.
    "train_split": "train",
    "eval_split": "test",
    "context_length": 0,  # Number of inputs.
    "min_crop": 0,  # Shortest training crop; 0: the number of latents.
    # Tokens that a window of the evaluation predicts; 0: the number of latents.
    "eval_stride": 0,
    "tokenizer": "bytes",  # Or the path of a SentencePiece .model.
    "documents_per_example": 1,
    "corpora": {},
    "source_args": {
      "mirrored": {
        "length": 131_072,
        "num_train": 1_000_000,
        "num_test": 16,
        "num_values": 256,
      },
      "token_files": {"train": "", "eval": "", "num_values": 388},
      "images": {
        "source": "tfds",
        "shape": (64, 64, 3),
        "arguments": {  # Of each source in `data.images.sources.SOURCES`.
          "tfds": {
            "name": "downsampled_imagenet/64x64",
            "data_dir": "",
            "label_feature": "",
          },
          "image_folder": {"directory": ""},
        },
      },
    },
    "num_workers": 16,  # Processes that prepare batches; 0: threads.
  }


def _set_data(config: ml_collections.ConfigDict, name: str) -> None:
  """Sets the source of a variant, and the length of its inputs."""
  data = config.data
  # The inputs follow from the model's table of positions.
  data.context_length = config.model.adapter.position_sizes[0] - 1
  if name == "imagenet64":
    data.context_length = 12_416
    data.source = "images"
    data.eval_split = "validation"
    data.eval_stride = 512
  elif name in _COPIES:
    data.source = "mirrored"
    set_copy_length(config, 32 if name == "copy_32" else 131_072)
  elif name == "maestro":
    data.source = "token_files"
  elif name == "pg19":
    data.corpora = {"pg19": _corpus("tfds", "pg19", feature="book_text")}
    data.tokenizer = "sentencepiece.model"
  elif name in ("wikitext103", "books"):
    kind = "paragraph" if name == "wikitext103" else "file"
    data.corpora = {name: _corpus("files", documents=kind)}
    data.tokenizer = "sentencepiece.model"
    if name == "wikitext103":
      data.documents_per_example = 200
  elif name == "bytes":
    _python_docs(data)


def set_copy_length(config: ml_collections.ConfigDict, length: int) -> None:
  """Sets the number of tokens of mirrored sequences, and what follows."""
  config.data.context_length = length
  config.data.min_crop = length // 2
  config.data.source_args.mirrored.length = length
  # 16,384 tokens of the second halves, or more.
  config.data.source_args.mirrored.num_test = max(16, 2**15 // length)
  config.model.adapter.position_sizes = (length + 1,)


def sweep_copy_context() -> Iterator[dict[str, Any]]:
  """Yields points of `copy` with other lengths of the context."""
  for length in (32, 64, 128, 256, 512):
    config = get_config("copy")
    set_copy_length(config, length)
    mirrored = config.data.source_args.mirrored
    yield {
      "data.context_length": length,
      "data.min_crop": config.data.min_crop,
      "data.source_args.mirrored.length": mirrored.length,
      "data.source_args.mirrored.num_test": mirrored.num_test,
      "model.adapter.position_sizes": config.model.adapter.position_sizes,
    }


def _corpus(
  source: str, name: str = "", documents: str = "line", feature: str = "text"
) -> dict[str, Any]:
  """Returns the leaves of a corpus, with the arguments of each source."""
  return {
    "source": source,  # See `perceiver_jax.data.text.corpora.SOURCES`.
    "weight": 1.0,
    "train_split": "train",
    "eval_split": "validation" if source == "tfds" else "test",
    "arguments": {
      "tfds": {"name": name, "data_dir": "", "feature": feature},
      "python_docs": {"docstrings": True},
      # Folders or patterns; documents: "line", "paragraph" or "file".
      "files": {
        "train": "",
        "eval": "",
        "documents": documents,
        "field": "text",
      },
    },
  }


def _python_docs(data: ml_collections.ConfigDict) -> None:
  """Sets the data to text that ships with Python."""
  data.source = "text"
  data.tokenizer = "bytes"
  data.documents_per_example = 1
  data.corpora = {"python_docs": _corpus("python_docs")}


def _shrink(
  config: ml_collections.ConfigDict, num_latents: int, depth: int
) -> None:
  """Narrows the model to 128 channels, and sets a recipe for it."""
  config.model.adapter.num_channels = 128
  config.model.encoder.update(
    num_latents=num_latents,
    num_latent_channels=128,
    num_self_attends=depth,
    num_heads=4,
    dropout=0.0,
  )
  config.optimizer.update(
    name="adamw",
    learning_rate=2e-3,
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=200,
    clip_norm=1.0,
    eps=1e-8,
  )
  config.data.num_workers = 0
  config.log.every_steps = 100
  config.checkpoint.every_steps = 1000
  config.eval_every_steps = 1000


def _copy(config: ml_collections.ConfigDict) -> None:
  _shrink(config, num_latents=16, depth=1)
  set_copy_length(config, 64)
  config.num_steps = 1000
  config.batch_size = 64
  config.eval_every_steps = 250


def _bytes(config: ml_collections.ConfigDict) -> None:
  vocab_size = 262
  _shrink(config, num_latents=256, depth=3)
  config.model.adapter.vocab_size = vocab_size
  config.model.decoder.vocab_size = vocab_size
  config.data.context_length = 512
  config.model.adapter.position_sizes = (513,)
  config.model.encoder.update(rotary_fraction=0.5, max_wavelength=512.0)
  config.num_steps = 4000
  config.batch_size = 16
  config.optimizer.learning_rate = 3e-3
  config.optimizer.b2 = 0.98


def _smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Shortens the run: little data, a tiny model."""
  config = base.smoke(config)
  config.model.adapter.num_channels = 16
  data = config.data
  data.num_workers = 0
  data.eval_stride = 0
  if data.source == "text":
    _python_docs(data)
    data.corpora.python_docs.arguments.python_docs.docstrings = False
    config.model.adapter.vocab_size = config.model.decoder.vocab_size = 262
    data.context_length = 64
    # Fewer would make more windows of the held-out text.
    config.model.encoder.num_latents = 32
  elif data.source == "images":
    images = data.source_args.images
    images.update(source="photos", shape=(8, 8, 3))
    images.arguments.photos = {"size": 8, "num_train": 64, "num_test": 8}
    data.eval_split = "test"
    data.context_length = 192
  else:  # There are no files of music here.
    data.source = "mirrored"
    set_copy_length(config, 32)
    data.source_args.mirrored.num_test = 16
  return config
