"""Logs a run to the console, to files and to the chosen trackers."""

from collections.abc import Mapping
from pathlib import Path

import jax
import ml_collections
import numpy as np

from perceiver_jax.training import workdir
from perceiver_jax.training.logs import process_stats
from perceiver_jax.training.logs.console import Console
from perceiver_jax.training.logs.metric_writers import MetricWriters
from perceiver_jax.training.logs.wall_time import WallTimer, format_seconds


class RunLog:
  """The log of a run; only the first process prints and writes metrics.

  Args:
    folder: the run's workdir.
    config: config of the run.
    num_steps: number of steps in the whole run.
    start: step from which the run resumes; 0 for a new run.
    timer: the run's timer, for the remaining time.

  Raises:
    UserError: from the constructor and every method, if the folder can't be
      written to.
  """

  def __init__(
    self,
    folder: Path,
    config: ml_collections.ConfigDict,
    num_steps: int,
    start: int,
    timer: WallTimer,
  ):
    self._folder, self._timer = folder, timer
    self._num_steps, self._start = num_steps, start
    enabled = jax.process_index() == 0
    with workdir.writing(folder):
      self._writers = MetricWriters(
        folder,
        resume_step=start,
        tensorboard=config.log.tensorboard,
        wandb_project=config.log.wandb_project,
        run_name=folder.name,
        config=config.to_dict(),
        enabled=enabled,
      )
    self._console = Console(num_steps, start, enabled=enabled)

  @property
  def shows_progress(self) -> bool:
    """Returns whether progress bars can be drawn."""
    return self._console.draws

  def say(self, text: str) -> None:
    """Prints text."""
    self._console.say(text)

  def step(self) -> None:
    """Counts a step in the progress bar."""
    self._console.step()

  def training(
    self,
    step: int,
    means: Mapping[str, float],
    speed: Mapping[str, float],
    processes: process_stats.Comparison,
  ) -> None:
    """Logs an interval that ends at `step`.

    Args:
      step: number of steps taken.
      means: means of the metrics.
      speed: speed of this process.
      processes: comparison with the others.
    """
    parts = {
      "train": means,
      "speed": {**speed, **processes.speed},
      "memory": processes.memory,
    }
    self._write(step, {
      f"{part}/{name}": value
      for part, values in parts.items()
      for name, value in values.items()
    })  # fmt: skip
    eta = self._timer.eta(step, self._num_steps, self._start)
    self._console.interval(
      step, {**means, **speed}, format_seconds(eta), processes.text
    )

  def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs the metrics of an evaluation, by 'data set/metric'."""
    self._write(step, metrics)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    self._console.say(f"step {step:,}: {shown}")

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes a uint8 image, [h, w], [h, w, 1] or [h, w, 3] (RGB)."""
    with workdir.writing(self._folder):
      self._writers.image(step, name, image)

  def sync(self) -> None:
    """Uploads metrics that a bucket lacks; call it before a checkpoint."""
    with workdir.writing(self._folder):
      self._writers.sync()

  def close(self) -> None:
    """Ends the progress bar and closes all files."""
    self._console.close()
    with workdir.writing(self._folder):
      self._writers.close()

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    with workdir.writing(self._folder):
      self._writers.scalars(step, values)
