"""GLUE: classification and regression of texts (IO, section 4.1).

Shapes: b examples, M tokens, P maximum outputs of a task, S examples of the
largest held-out set.
"""

import functools
from collections.abc import Mapping
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp

from perceiver_jax import checks
from perceiver_jax.data.core import mixture
from perceiver_jax.data.core.source import Example, Source, check_class_names
from perceiver_jax.data.text import (
  byte_tokenizer,
  glue_examples,
  glue_tasks,
  tokenizers,
)
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import glue_metrics
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.tasks.own_data import glue_config
from perceiver_jax.tasks.shared import glue_texts
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections


class Glue(base.Task):
  """Classification and regression of texts, for one GLUE task or several.

  The tasks are those with an output in `config.model.decoder.outputs`.

  Args:
    config: config with the sections `model` (see `models.zoo.build`) and `data`
      of `configs/glue.py`.
    metadata: metadata of a run, which describes a custom task; if None, the
      description is read from the data.

  Raises:
    UserError: there is no task, or the token before a text is invalid.
  """

  primary_metric = "glue/average"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config)
    self._data = config.data
    self._length = config.model.adapter.max_length
    checks.check_leaf_choice(
      "data.first_token", self._data.first_token, glue_texts.FIRST_TOKENS
    )
    self._own = (metadata or {}).get("own", {})
    outputs = config.model.decoder.outputs.to_dict()
    # In the order in which the decoder numbers them.
    self._outputs = {name: n for name, n in sorted(outputs.items()) if n}
    temperature = self._data.sampling_temperature
    checks.check_leaf(
      "data.sampling_temperature",
      temperature,
      temperature >= 1,
      "1, which draws tasks in proportion to their examples, or more, up to"
      " inf, which draws all equally often",
    )
    if not self._outputs:
      raise UserError(
        "no task of config.model.decoder.outputs has an output; give one at"
        " least 1"
      )
    self._check_task_tokens()
    self.published = self._published()

  @classmethod
  def complete_config(
    cls, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Returns the config with the splits and classes of the user's texts."""
    return glue_config.complete(config)

  @functools.cached_property
  def tasks(self) -> dict[str, glue_tasks.Task]:
    """Returns the tasks by name, in the decoder's order.

    Raises:
      UserError: a task is unknown, or has a different number of outputs.
    """
    tasks = {name: self._task(name) for name in self._outputs}
    for name, task in tasks.items():
      if task.num_outputs != self._outputs[name]:
        raise UserError(
          f"config.model.decoder.outputs.{name} is {self._outputs[name]}, but"
          f" the task has {task.num_outputs}; make them equal"
        )
    return tasks

  def _task(self, name: str) -> glue_tasks.Task:
    if name != glue_examples.OWN:
      known = (*glue_tasks.TASKS, glue_examples.OWN)
      checks.check_choice(name, known, "task", "GLUE")
      return glue_tasks.TASKS[name]
    if self._own:
      return glue_tasks.task_from_dict(self._own)
    return glue_examples.task_from_files(self._data.source_args.files.data_dir)

  @functools.cached_property
  def texts(self) -> glue_texts.GlueTexts:
    """Returns the conversion of texts to tokens and of outputs to answers.

    Raises:
      UserError: the tokenizer can't be read, or does not match the model.
    """
    size = self._config.model.adapter.vocab_size
    tokenizer = tokenizers.tokenizer_for_model(self._data.tokenizer, size)
    first_token = self._data.first_token
    return glue_texts.GlueTexts(
      self.tasks, tokenizer, self._length, first_token
    )

  def dummy_batch(self) -> Batch:
    """Returns one empty text."""
    return {
      "tokens": np.full((1, self._length), byte_tokenizer.PAD, np.int32),
      "label": np.zeros(1, np.float32),
      "task": np.zeros(1, np.int32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  def describe_model(self) -> base.ModelDescription:
    """Describes the tokens and the outputs."""
    return self.texts.describe_model(self._data.tokenizer)

  def metadata(self) -> dict[str, Any]:
    """Returns the tokenizer, and the custom task if there is one."""
    metadata: dict[str, Any] = {"tokenizer": self._data.tokenizer}
    if glue_examples.OWN in self._outputs:
      metadata["own"] = self.tasks[glue_examples.OWN]._asdict()
    return metadata

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns logits, or the score first, [b, P] of each example's task."""
    return self.build_model()(
      batch["tokens"],
      is_training=is_training,
      input_mask=jnp.asarray(batch["tokens"] != byte_tokenizer.PAD),
      queries=batch["task"],
      return_attention=return_attention,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns cross-entropy or squared error, and accuracy of classes."""
    ones = jnp.ones(batch["label"].shape, jnp.float32)
    losses = self._losses(outputs, batch)
    metrics = {"loss": metrics_lib.weighted(losses, ones)}
    if any(task.classes for task in self.tasks.values()):
      correct = _answers(outputs.logits) == batch["label"]
      has_class = 1 - self._is_score(batch)
      metrics["accuracy"] = metrics_lib.weighted(correct, has_class)
    return metrics

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the mean loss, and predictions, labels and counts, each [S].

    From these, `finalize_metrics` computes the metrics that are not means.
    """
    mask = batch["mask"]
    predictions = jnp.where(
      self._is_score(batch) > 0, outputs.logits[:, 0], _answers(outputs.logits)
    )
    columns = {
      "predictions": predictions * mask,
      "labels": batch["label"] * mask,
      "counts": mask,
    }
    # Each example has its own index, so summing over batches concatenates.
    fill = lambda x: (
      jnp.zeros(self.num_eval_examples()).at[batch["index"]].add(x)
    )
    losses = self._losses(outputs, batch)
    return {
      "loss": metrics_lib.weighted(losses, mask),
      **{name: (fill(x), mask.sum()) for name, x in columns.items()},
    }

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, dict[str, Any]]:
    """Computes the tasks' metrics on each held-out set, and their average."""
    finalized, main = {}, {}
    for name, means in metrics.items():
      counts = means["counts"] > 0
      labels = means["labels"][counts]
      predictions = means["predictions"][counts]
      names = self.tasks[_task_of(name)].metrics
      values = {
        metric: glue_metrics.METRICS[metric](labels, predictions)
        for metric in names
      }
      finalized[name] = {"loss": means["loss"], **values}
      main[name] = values[names[0]]
    return {**finalized, "glue": {"average": glue_metrics.glue_average(main)}}

  def source(self, split: str) -> Source:
    """Returns the training examples of all tasks; see `eval_sources`."""
    if split != "train":
      raise ValueError(f"split {split!r}: each task has its own evaluation set")
    return self._train_source

  def num_eval_examples(self) -> int:
    """Returns the number of examples of the largest evaluation set."""
    return max(map(len, self._eval_sources.values()))

  def eval_sources(self) -> dict[str, glue_examples.WithTaskId]:
    """Returns the evaluation sets: "cola", "mnli_matched" and so on."""
    return self._eval_sources

  def test_data(
    self, name: str, examples: Source, *, global_batch: int
  ) -> grain.IterDataset:
    """Returns one pass over examples of a task, with their `number`.

    Args:
      name: name of a task of this run.
      examples: see `data.text.glue_examples`.
      global_batch: number of examples in a batch.
    """
    tagged = glue_examples.WithTaskId(examples, self._number(name))
    return self.eval_dataset(tagged, global_batch=global_batch)

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns held-out texts with predictions."""
    del metrics
    rows = zip(
      batch["tokens"], batch["label"], batch["task"],
      np.asarray(outputs.logits), strict=True,
    )  # fmt: skip
    return [sections.text_samples([self.texts.sample(*row) for row in rows])]

  def _number(self, name: str) -> int:
    return list(self._outputs).index(name)

  def _losses(self, outputs: perceiver.Outputs, batch: Batch) -> jax.Array:
    logits, is_score = outputs.logits, self._is_score(batch)
    # The label of a regression is no class; its cross-entropy is not used.
    classes = jnp.where(is_score > 0, 0, batch["label"]).astype(jnp.int32)
    return jnp.where(
      is_score > 0,
      jnp.square(logits[:, 0] - batch["label"]),
      optax.softmax_cross_entropy_with_integer_labels(logits, classes),
    )

  def _is_score(self, batch: Batch) -> jax.Array:
    """Returns an array [b] that is 1 where the label is a score."""
    scored = [float(not task.classes) for task in self.tasks.values()]
    return jnp.asarray(scored)[batch["task"]]

  def _check_task_tokens(self) -> None:
    has = self._config.model.adapter.get("num_task_tokens", 0)
    needs = len(self._outputs) if self._data.first_token == "task" else 0
    if has != needs:
      raise UserError(
        f"config.model.adapter.num_task_tokens is {has}, but {needs} are needed"
        f" for config.data.first_token={self._data.first_token} and"
        f" {len(self._outputs)} tasks; make them equal"
      )

  def _published(self) -> dict[str, Any]:
    row = self._config.get("published", {}).to_dict()
    published: dict[str, Any] = {}
    # The published average is over all tasks, so all of them are required.
    tasks = {_task_of(name) for name in row} - {"source", "average"}
    for name, value in row.items():
      if name == "source":
        published[name] = value
      elif name == "average" and tasks == self._outputs.keys():
        published["glue/average"] = value
      elif _task_of(name) in self._outputs:
        metric = glue_tasks.TASKS[_task_of(name)].metrics[0]
        published[f"{name}/{metric}"] = value
    return published

  def _examples(self, name: str, split: str) -> glue_examples.WithTaskId:
    data = self._data
    arguments = data.source_args.to_dict().get(data.source, {})
    source = glue_examples.make_examples(
      data.source, task=name, split=split, **arguments
    )
    # Those of a user's own texts may have changed since a run.
    check_class_names(self.tasks[name].classes, source.class_names, "the data")
    return glue_examples.WithTaskId(source, self._number(name))

  @functools.cached_property
  def _train_source(self) -> Source:
    parts = {
      name: self._examples(name, self._data.train_split) for name in self.tasks
    }
    exponent = 1 / self._data.sampling_temperature
    weights = {name: len(part) ** exponent for name, part in parts.items()}
    return mixture.Mixture(parts, weights)

  @functools.cached_property
  def _eval_sources(self) -> dict[str, glue_examples.WithTaskId]:
    sources = {
      name + part: self._examples(name, self._data.eval_split + part)
      for name, task in self.tasks.items()
      for part in task.parts
    }
    for name, source in sources.items():
      if source[0]["label"] == glue_examples.UNKNOWN:
        raise UserError(
          f"{name!r} has no labels in split {self._data.eval_split!r}; those of"
          " GLUE's test sets are not published; set"
          " config.data.eval_split=validation, and predict with python -m"
          " scripts.evaluation.submit_glue, or python -m experiments.predict"
          " classify-text"
        )
    return sources

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Converts texts to tokens."""
    tokens = {
      "tokens": self.texts.tokens(example["task"], example["texts"]),
      "label": np.float32(example["label"]),
      "task": np.int32(example["task"]),
    }
    if rng is None:
      tokens["number"] = np.int32(example["number"])
    return tokens


def _answers(logits: jax.Array) -> jax.Array:
  return logits.argmax(-1).astype(jnp.float32)


def _task_of(name: str) -> str:
  """Returns the name of the task of an evaluation set."""
  for part in ("_matched", "_mismatched"):
    name = name.removesuffix(part)
  return name
