r"""Fine-tuning on GLUE (Perceiver IO v3, section 4.1, app. F).

  python -m experiments.train --config=configs/glue.py:cola \
    --workdir=runs/cola --config.init_from=runs/mlm

`init_from` is a pretrained model: a run of configs/masked_lm.py, the authors'
language_perceiver_io_bytes.pickle, or a Hugging Face folder of the same model.
Parameters that it lacks, the task's query and head, are initialized at random.

Data: glue/* of TensorFlow Datasets (`python -m scripts.data.prepare
--dataset=glue/cola`), or the folders of TSV files of the benchmark:
--config.data.source=files --config.data.source_args.files.data_dir=DIR, where
DIR has CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI and RTE.

Variants:

One task with a learned query (published: metrics of `bytes` on dev, Table 14):
  cola: Matthews correlation 50.19.
  sst2: accuracy 93.17.
  mrpc: accuracy 87.24.
  stsb: Pearson correlation 86.81.
  qqp: accuracy 90.12.
  mnli: accuracy 83.22 matched, 83.89 mismatched.
  qnli: accuracy 91.71.
  rte: accuracy 64.84.
All eight together (published: their average, Tables 2 and 14):
  multitask_shared_token: one token before the text, decoded there; 81.49.
  multitask_task_tokens: a token for each task, decoded there; 81.76.
  multitask_query: a query for each task, no token; 81.79.
Your own data:
  own: texts and labels of --config.data.source_args.files.data_dir, a folder
    with train.tsv and dev.tsv, or a single file, of which a tenth is held out.
    The first line names the columns label and sentence, or sentence1 and
    sentence2. The number of classes follows from the data. `own,small` is for
    two CPU cores.
On text that ships with Python, after configs/masked_lm.py:small:
  word_order: whether the words of a passage are in order.
  next_sentence: whether one passage follows another.
Models, after a comma, as in `:cola,bytes_plus_plus` (default: bytes):
  bytes_plus_plus, sentencepiece, bytes_128, bytes_512: as in
    configs/masked_lm.py. For the last two only averages are published (Table
    15): 75.84 and 80.92, compared with 80.95 for bytes.
  small: also as there; the default on text that ships with Python.
  byte_bert, bert_base: the plain Transformers, which predict from a token
    before the text.
  smoke: a few steps of a tiny model, in seconds, on text that ships with Python
    (`own,smoke`: on yours); alone, or with any variant.

The recipe is Table 13's: 10 epochs, LAMB, 200 warm-up steps, weight decay 0.01,
and for each task the best on dev of batch sizes 16, 32, 64 and rates 1e-4,
5e-5, 2e-5, 1e-5; `python -m scripts.sweeps.glue` runs that grid. Not stated in
the paper, and chosen: the schedule (cosine) and clipping at 10, as in
pretraining; SEP between two texts; the longer text is truncated first; the
squared error of STS-B's score from 0 to 5; for several tasks, sampling in
proportion to the sizes of their data sets (`data.sampling_temperature`), and
the batch size (32).
"""

from collections.abc import Sequence
from typing import Any

import ml_collections

from configs import base, masked_lm
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.models.published import tables

# Variants of configs/masked_lm.py.
_MODELS = (
  "bytes", "bytes_plus_plus", "sentencepiece", "bytes_128", "bytes_512",
  "byte_bert", "bert_base", "small",
)  # fmt: skip
# Query of the decoder, and the token before the text.
_MULTITASK = {
  "multitask_shared_token": ("first_position", "cls"),
  "multitask_task_tokens": ("first_position", "task"),
  "multitask_query": ("task", "none"),
}
_VARIANTS = (*glue_tasks.GLUE, *_MULTITASK, "own", *glue_tasks.TINY)
_SOURCES = {"own": "files", **dict.fromkeys(glue_tasks.TINY, "tiny")}


# Leaves that the new decoder shares with the pretrained one.
_SHARED_LEAVES = (
  "max_length", "num_query_channels", "num_heads", "qk_channels", "v_channels",
  "use_query_residual",
)  # fmt: skip


def get_config(variant: str = "cola") -> ml_collections.ConfigDict:
  """Returns the config of a variant; see the module's docstring."""
  name, model, smoke = _parse(variant)
  config = base.run()
  config.task = "glue"
  config.num_epochs = 10.0
  config.batch_size = 32
  config.data = {
    "source": _SOURCES.get(name, "tfds"),
    # Arguments of each source, other than the split.
    "source_args": {"tfds": {"data_dir": ""}, "files": {"data_dir": ""}},
    "train_split": "train",
    "eval_split": "validation",
    # Token before the text: "none", "cls", or "task", one for each task.
    "first_token": "none",
    # T: a task of n examples is drawn in proportion to n^(1/T).
    "sampling_temperature": 1.0,
    "num_workers": 0,  # Processes that prepare batches; 0: threads.
  }
  config.optimizer.learning_rate = 5e-5
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 200
  config.optimizer.weight_decay = 0.01
  config.eval_every_epochs = 1.0
  config.checkpoint.every_steps = 2500
  config.checkpoint.every_epochs = 1.0
  if name in glue_tasks.TINY:
    _tiny(config)
  if (name, model) == ("own", "small"):
    _own_small(config)
  if name == "own":
    # The data decides it, and the number of outputs, which is 0.
    config.data.train_split = config.data.eval_split = ""
  config.published = _published(name, model)
  tasks = _tasks(name)
  if smoke:
    _smoke(config)
    if name != "own":
      config.data.source = "tiny"
      tasks = list(glue_tasks.TINY)[: len(tasks)]
  _set_model(config, name, model + ",smoke" * smoke, tasks)
  return config


def _parse(variant: str) -> tuple[str, str, bool]:
  """Returns the names of variant and model, and whether it is a smoke run."""
  parts = [part for part in variant.split(",") if part]
  models = [part for part in parts if part in _MODELS]
  if len(models) > 1:
    raise UserError(
      f"several models in --config=...:{variant}; choose one of"
      f" {', '.join(_MODELS)}"
    )
  rest = ",".join(part for part in parts if part not in _MODELS)
  name, smoke = base.parse(rest, _VARIANTS, "cola")
  default = "small" if name in glue_tasks.TINY else "bytes"
  return name, (models or [default])[0], smoke


def _tasks(name: str) -> list[str]:
  return list(glue_tasks.GLUE) if name in _MULTITASK else [name]


def _set_model(
  config: ml_collections.ConfigDict,
  name: str,
  model: str,
  tasks: Sequence[str],
) -> None:
  """Sets the pretrained model, with a decoder for the tasks."""
  pretrained = masked_lm.get_config(model)
  config.data.tokenizer = pretrained.data.tokenizer
  config.model = pretrained.model
  decoder = pretrained.model.decoder.to_dict()
  query, first_token = _MULTITASK.get(name, ("task", "none"))
  if decoder["kind"] == "token":
    if name == "multitask_query":
      raise UserError(
        "a plain Transformer has no queries for the tasks; choose"
        f" multitask_shared_token or multitask_task_tokens for {model}"
      )
    query = "first_latent"
    first_token = "cls" if first_token == "none" else first_token
  config.data.first_token = first_token
  if first_token == "task":
    config.model.adapter.num_task_tokens = len(tasks)
  outputs = {task: _num_outputs(task) for task in tasks}
  config.model.decoder = {
    "kind": "multitask_classification",
    "outputs": outputs,
    "query": query,
    "num_hidden_channels": pretrained.model.adapter.num_channels,
    **{leaf: decoder[leaf] for leaf in _SHARED_LEAVES if leaf in decoder},
  }


def _num_outputs(task: str) -> int:
  return 0 if task == "own" else glue_tasks.TASKS[task].num_outputs


def _published(name: str, model: str) -> dict[str, Any]:
  """Returns the row of Table 14, or the part of a single task, from 0 to 1."""
  if name in _MULTITASK and model == "bytes":
    return tables.published(f"configs/glue.py:{name}")
  if name not in glue_tasks.GLUE:
    return {}
  row = tables.published(f"scripts.sweeps.glue --model={model}")
  part = {k: row[k] for k in row if k.split("_")[0] == name}
  return part and {**part, "source": row["source"]}


def published_average(model: str) -> float | None:
  """Returns the published average of eight single-task runs of a model.

  Args:
    model: name of a model variant; "" for the default.
  """
  row = tables.published(f"scripts.sweeps.glue --model={model or 'bytes'}")
  return row.get("average")


def _tiny(config: ml_collections.ConfigDict) -> None:
  """Sets a run of a few minutes on two CPU cores."""
  config.num_epochs = 3.0
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 5e-4


def _own_small(config: ml_collections.ConfigDict) -> None:
  """Sets a run whose length does not depend on the number of texts."""
  _tiny(config)
  config.num_epochs, config.num_steps = 0.0, 1500
  config.optimizer.warmup_steps = 50
  config.eval_every_epochs = config.checkpoint.every_epochs = 0.0
  config.eval_every_steps = config.checkpoint.every_steps = 250


def _smoke(config: ml_collections.ConfigDict) -> None:
  """Shortens the run, and drops the published metrics."""
  config.model = {"encoder": {}}  # Comes from the pretrained model's smoke run.
  base.smoke(config)
  config.eval_every_epochs = config.checkpoint.every_epochs = 0.0
  config.published = {}
