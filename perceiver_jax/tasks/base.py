"""What a run learns. The loop never knows which task it runs.

Shapes: b examples of one process's share of a batch.
"""

from collections.abc import Mapping
from typing import (
  Any,
  Protocol,
)

import grain
import ml_collections
import numpy as np

from perceiver_jax.errors import UserError
from perceiver_jax.models.ops.execution import Execution
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import sections

Batch = Mapping[str, Any]


def execution_of(config: ml_collections.ConfigDict) -> Execution:
  """Returns how a config wants its model to be computed.

  Raises:
    UserError: a leaf of `config.execution` is unknown or has a wrong value.
  """
  try:
    return Execution.from_choices(dict(config.get("execution", {})))
  except ValueError as error:
    raise UserError(f"config.{error}") from error


class Task(Protocol):
  """Model, objective, data and pictures of one experiment.

  Attributes:
    primary_metric: the metric of `eval_data` that says which model is best.
    primary_mode: "max" or "min".
    published: the paper's row under the metrics' names, with 'source'; empty
      where there is none.
  """

  primary_metric: str
  primary_mode: str
  published: Mapping[str, Any]

  def example(self) -> Batch:
    """One made-up example as a batch of 1: the shapes, without any data."""
    ...

  def metadata(self) -> dict[str, Any]:
    """What predictions need of the data, as JSON: the names of the classes."""
    ...

  def forward(
    self, batch: Batch, *, is_training: bool, return_attention: bool = False
  ) -> Any:
    """Runs the model: Haiku code, transformed in one place (`step.model_of`).

    In training, `batch["rng"]` holds one key an example [b, 2]: randomness
    drawn from it does not depend on the number of devices.
    """
    ...

  def loss(self, outputs: Any, batch: Batch) -> Metrics:
    """Training metrics; 'loss' is (sum over examples, number of examples)."""
    ...

  def metrics(self, outputs: Any, batch: Batch) -> Metrics:
    """Evaluation metrics; examples whose `batch["mask"]` is 0 don't count."""
    ...

  def scores(
    self, found: Mapping[str, Mapping[str, np.ndarray]]
  ) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Adds what is no mean over examples: correlations, averages of sets.

    Args:
      found: means of `metrics` by data set of `eval_data`, on the host.

    Returns:
      The same with more metrics, or with sets made of others.
    """
    ...

  def train_data(
    self, *, global_batch: int, process_index: int, process_count: int
  ) -> grain.IterDataset:
    """Endless batches; see `data.pipeline.train_dataset`."""
    ...

  def eval_data(
    self, *, global_batch: int, process_index: int, process_count: int
  ) -> dict[str, grain.IterDataset]:
    """One pass over each held-out set; see `data.pipeline.eval_dataset`."""
    ...

  def num_train_examples(self) -> int:
    """Examples in an epoch."""
    ...

  def pictures(self, outputs: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Returns images for TensorBoard and `images/`: uint8 [h, w, 3] by name."""
    ...

  def report(
    self, outputs: Any, batch: Batch, metrics: Mapping[str, np.ndarray]
  ) -> list[sections.Section]:
    """Returns the task's sections of the run report; see `viz.sections`.

    Args:
      outputs: of `forward(..., return_attention=True)`, on the host.
      batch: the examples of the outputs.
      metrics: of the evaluation, arrays included.
    """
    ...
