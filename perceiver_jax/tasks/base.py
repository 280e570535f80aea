"""Base class of tasks.

Shapes: b examples in one process's share of a batch.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import grain
import ml_collections
import numpy as np

from perceiver_jax.data.core import pipeline
from perceiver_jax.data.core.source import Batch, Example, Source
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver, zoo
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections


class Benchmark(Protocol):
  """A data set that is evaluated otherwise than in batches."""

  def __len__(self) -> int: ...

  def evaluate(self, *, show_progress: bool = False) -> dict[str, float]:
    """Returns the metrics, the same in all processes."""

  def images(self) -> dict[str, np.ndarray]:
    """Returns images of examples, uint8 [h, w, 3], by name."""


class ModelDescription(NamedTuple):
  """Describes the arrays of a model to those who use it without this code.

  Attributes:
    inputs: The entries of a batch that `forward` reads in evaluation, each with
      its meaning, units and scaling.
    outputs: The logits, each with its meaning: the arrays of a mapping by name,
      or a single array as "logits".
  """

  inputs: Mapping[str, str]
  outputs: Mapping[str, str]


class Task(abc.ABC):
  """Data, model, loss and metrics of an experiment.

  A task has to define `dummy_batch`, `source`, `preprocess`, `forward`, `loss`
  and `metrics`; everything else has a default.

  Args:
    config: Config of the run.
    metadata: Stored result of `metadata()`; if None, the data is read.

  Attributes:
    primary_metric: The evaluation metric that selects the best model.
    primary_mode: "max" or "min".
    eval_unit: Name of what an evaluation counts as examples.
    rates: Names of training metrics to log per second, with the name of each
      rate, such as {"tokens": "tokens_per_second"}.
    published: The paper's results by name of metric, with "source"; empty if
      there are none.
    execution: Settings for computing the model.

  Raises:
    UserError: The config does not match the data or the model.
  """

  primary_metric = "eval/accuracy"
  primary_mode = "max"
  eval_unit = "examples"
  rates: ClassVar[Mapping[str, str]] = {}

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    del metadata
    self._config = config
    row = config.get("published", {})
    self.published = {
      name if name == "source" else f"eval/{name}": row[name] for name in row
    }
    try:
      self.execution = Execution.from_choices(dict(config.get("execution", {})))
    except ValueError as error:
      raise UserError(f"config.{error}") from error

  @classmethod
  def complete_config(
    cls, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Returns the config with the leaves that it leaves to the data.

    Raises:
      UserError: The data can't be opened.
    """
    return config

  @abc.abstractmethod
  def dummy_batch(self) -> Batch:
    """Returns a batch of one dummy example, for its shapes and types."""

  def dummy_eval_batch(self) -> Batch:
    """Returns the same without what only training batches have."""
    return self.dummy_batch()

  @abc.abstractmethod
  def source(self, split: str) -> Source:
    """Returns the examples of a split, "train" or "eval"."""

  @abc.abstractmethod
  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Converts an example of a source to one of a batch, on the host.

    Args:
      example: An example of `source`.
      rng: Random generator of augmentations; None in evaluation.
    """

  def prepare_batch(self, batch: Batch) -> Batch:
    """Transforms a training batch on the device, for example by MixUp.

    `batch["rng"]` holds one key per example [b, 2], so that randomness drawn
    from it does not depend on the number of devices.
    """
    return batch

  @abc.abstractmethod
  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> Any:
    """Runs the model: Haiku code that `training.step.model_of` transforms."""

  @abc.abstractmethod
  def loss(self, outputs: Any, batch: Batch) -> Metrics:
    """Returns training metrics; "loss" is differentiated.

    All are pairs (sum over examples, number of examples).
    """

  @abc.abstractmethod
  def metrics(self, outputs: Any, batch: Batch) -> Metrics:
    """Returns evaluation metrics; `batch["mask"]` is 0 for padding."""

  def finalize_metrics(
    self, metrics: Mapping[str, Mapping[str, np.ndarray]]
  ) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Adds metrics that are not means over examples, such as correlations.

    Args:
      metrics: Means of `metrics`, by evaluation set, on the host.
    """
    return metrics

  def build_model(
    self, spec: dict[str, Any] | None = None
  ) -> perceiver.Perceiver:
    """Builds the model of the config, or of another spec."""
    return zoo.build(spec or self._config.model.to_dict(), self.execution)

  def num_train_examples(self) -> int:
    """Returns the number of examples of an epoch."""
    return len(self.source("train"))

  def num_eval_examples(self) -> int:
    """Returns the number of examples of the evaluation split."""
    return len(self.source("eval"))

  def eval_sources(self) -> dict[str, Source]:
    """Returns the evaluation sets by name."""
    return {"eval": self.source("eval")}

  def train_dataset(
    self, *, global_batch: int, **options: Any
  ) -> grain.IterDataset:
    """Returns endless, shuffled batches; see `data.core.pipeline`.

    Args:
      global_batch: Examples in a batch over all processes.
      **options: Other arguments of `pipeline.train_dataset`.
    """
    return pipeline.train_dataset(
      self.source("train"),
      global_batch=global_batch,
      seed=self._config.seed,
      num_workers=self._config.data.get("num_workers", 0),
      max_seconds=self._config.get("data_timeout_seconds", 0.0),
      **{"transform": self.preprocess, **options},
    )

  def eval_datasets(
    self, *, global_batch: int, **shard: int
  ) -> dict[str, grain.IterDataset]:
    """Returns one pass over each evaluation set, by name."""
    return {
      name: self.eval_dataset(source, global_batch=global_batch, **shard)
      for name, source in self.eval_sources().items()
    }

  def eval_dataset(
    self, source: Source, *, global_batch: int, **shard: int
  ) -> grain.IterDataset:
    """Returns one ordered pass over a source."""
    return pipeline.eval_dataset(
      source,
      global_batch=global_batch,
      transform=lambda example: self.preprocess(example, None),
      num_workers=self._config.data.get("num_workers", 0),
      max_seconds=self._config.get("data_timeout_seconds", 0.0),
      **shard,
    )

  def benchmarks(self, predict: Callable[[Batch], Any]) -> dict[str, Benchmark]:
    """Returns data sets to evaluate on in place of `eval_datasets`, by name.

    Training does not use them; `experiments.evaluate` does if there are any.

    Args:
      predict: Returns the outputs of `forward` for a batch of any size.
    """
    del predict
    return {}

  def sample_indices(self, metrics: Mapping[str, np.ndarray]) -> Sequence[int]:
    """Returns the held-out examples to show in the report.

    Args:
      metrics: Means of the evaluation of the first evaluation set.

    Returns:
      Positions in that set, the most important first; none for its first ones.
    """
    del metrics
    return ()

  def metadata(self) -> dict[str, Any]:
    """Returns data needed for predictions, such as names of classes."""
    return {}

  def describe_model(self) -> ModelDescription:
    """Describes inputs and outputs, which `scripts.export` needs."""
    return ModelDescription({}, {})

  def summary_images(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Returns images of held-out examples, uint8 [h, w, 3], by name."""
    del outputs, batch
    return {}

  def report_sections(
    self, outputs: Any, batch: Batch, metrics: Mapping[str, np.ndarray]
  ) -> list[sections.Section]:
    """Returns the task's sections of the run report; see `viz.sections`.

    Args:
      outputs: Result of `forward(..., return_attention="logits")`, on the
        host.
      batch: The corresponding held-out examples; see `sample_indices`.
      metrics: Means of the evaluation, including arrays.
    """
    del outputs, batch, metrics
    return []
