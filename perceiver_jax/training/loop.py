"""The training loop shared by all tasks.

A run's folder holds config.json, versions.json, task.json, metrics.jsonl,
checkpoints/, images/, tensorboard/ and, at the end, results.json,
report.html and model.safetensors. A run that was stopped or killed
resumes from its newest checkpoint, and its final state is bitwise identical to
that of an uninterrupted run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import ml_collections

from perceiver_jax.errors import UserError
from perceiver_jax.training import (
  config_checks,
  evaluation,
  initialize_from,
  interrupts,
  optimizers,
  workdir,
)
from perceiver_jax.training import step as step_lib
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer
from perceiver_jax.training.logs import metric_writers, results, run_summary
from perceiver_jax.training.logs.console import Console
from perceiver_jax.training.logs.metrics_accumulator import MetricsAccumulator
from perceiver_jax.training.logs.wall_time import WallTimer, format_seconds
from perceiver_jax.training.step import TrainState

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task

# Number of steps that may be queued on the device. This overlaps the transfer
# of the next batch with computation; a longer queue only uses more memory.
_STEPS_AHEAD = 2


class Outcome(NamedTuple):
  """The outcome of a run.

  Attributes:
    stopped: reason for stopping early (see `interrupts`), or "".
    step: number of steps taken.
    results: contents of results.json, or {} if stopped early.
  """

  stopped: str
  step: int
  results: dict[str, Any]


class Trainer:
  """Trains a model on a task.

  The constructor validates the config, data and folder, and writes nothing.

  Args:
    config: config of the run; see `docs/architecture.md`.
    task: the task to train on.
    folder: folder of the run.
    num_devices: number of devices to use; 0 for all.

  Raises:
    UserError: the config, the data or the folder is invalid.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    task: "Task",
    folder: Path,
    num_devices: int = 0,
  ):
    workdir.check_config(folder, config)
    config_checks.check_numbers(config)
    self._config, self._task, self._folder = config, task, folder
    if num_devices and jax.process_count() > 1:
      raise UserError(
        f"--num_devices is {num_devices}; leave it out where several processes"
        " train together: they use all their devices"
      )
    self._mesh = step_lib.make_mesh(num_devices)
    step_lib.check_batch_size(
      config.batch_size, self._mesh.size, config.num_microbatches
    )
    examples = task.num_train_examples()
    self._num_steps = config_checks.num_steps(config, examples)
    self._epoch = examples / config.batch_size  # In steps.
    optimizer, self._schedule = optimizers.from_config(
      config.optimizer, self._num_steps, config.batch_size
    )
    self._model = step_lib.model_of(task, config.precision)
    self._init = step_lib.make_init(
      self._model, optimizer, config.seed, use_ema=bool(config.ema_decay)
    )
    self._abstract = step_lib.abstract_state(
      self._init, task.dummy_batch(), self._mesh
    )
    self._step_fn = step_lib.make_train_step(
      self._model,
      task,
      optimizer,
      self._mesh,
      num_microbatches=config.num_microbatches,
      ema_decay=config.ema_decay,
    )
    self._eval_step = evaluation.make_eval_step(self._model, task, self._mesh)
    self._weights = initialize_from.load(config, folder)
    self._data, self._eval_data = self._open_data()
    self._is_first = jax.process_index() == 0
    # Queued steps can time out in collectives on simulated CPU devices.
    self._ahead = 0 if jax.default_backend() == "cpu" else _STEPS_AHEAD

  def run(self) -> Outcome:
    """Trains until the last step or an interrupt.

    Raises:
      UserError: the folder can't be written to, or a checkpoint is unusable.
      DivergedError: the loss or the gradient is not finite.
    """
    stop = interrupts.Interrupts(self._config.max_seconds)
    workdir.check_metadata(self._folder, self._task.metadata())
    if self._is_first:
      workdir.write(self._folder, self._config, self._task.metadata())
    settings = self._config.checkpoint
    self._checkpoints = Checkpointer(
      self._folder / workdir.CHECKPOINTS,
      keep_latest=settings.keep_latest,
      keep_best=settings.keep_best,
      best_metric=self._task.primary_metric,
      best_mode=self._task.primary_mode,
    )
    try:
      with stop.handled():
        return self._run(stop)
    finally:
      self._data.close()
      self._checkpoints.close()

  def _run(self, stop: interrupts.Interrupts) -> Outcome:
    self._initialization = None
    state, start, extras = self._restore()
    self._timer = WallTimer(extras.get("seconds"))
    self._evaluation = None
    self._writers = self._make_writers(start)
    compiled = self._compile(state) if start < self._num_steps else None
    facts = run_summary.summarize(
      self._config, self._task, self._model, self._abstract, self._mesh
    )
    self._accumulator = MetricsAccumulator(
      extras.get("interval", {}),
      step_lib.replicated(self._mesh),
      self._timer,
      batch_size=self._config.batch_size,
      flops_per_step=facts.flops_per_step,
      peak_flops=facts.peak_flops,
    )
    self._console = Console(self._num_steps, start, enabled=self._is_first)
    self._console.say(
      run_summary.text(
        facts,
        self._num_steps,
        start,
        compiled,
        self._timer.totals().get("compile", 0.0),
      )
    )
    if self._initialization is not None:
      self._console.say(f"  started from {self._config.init_from}")
      self._console.say(self._initialization.text())
    try:
      state, stopped = self._steps(state, start, compiled, stop)
      if stopped:
        return self._stop(state, stopped)
      return self._finish(state)
    finally:
      self._console.close()
      with workdir.writing(self._folder):
        self._writers.close()

  def _restore(self) -> tuple[TrainState, int, dict[str, Any]]:
    """Returns the restored or initial state, its step and its extras."""
    restored = self._checkpoints.restore_latest(self._abstract, self._data)
    if restored is not None:
      return restored.state, restored.step, restored.extras
    init = jax.jit(self._init, out_shardings=step_lib.replicated(self._mesh))
    state = init(self._task.dummy_batch())
    if self._weights is not None:
      state, self._initialization = initialize_from.initialize_state(
        state, self._weights, self._config.model
      )
    return state, 0, {}

  def _compile(self, state: TrainState) -> Any:
    """Compiles the step ahead of time to report its cost before training."""
    batch = step_lib.abstract_train_batch(
      self._task.dummy_batch(), self._config.batch_size, self._mesh
    )
    with self._timer.section("compile"):
      # With several processes, pmap can only be lowered with concrete arrays.
      zeros = jax.tree.map(step_lib.zeros, batch)
      return self._step_fn.lower(state, zeros).compile()

  def _steps(
    self,
    state: TrainState,
    start: int,
    compiled: Any,
    stop: interrupts.Interrupts,
  ) -> tuple[TrainState, str]:
    """Runs the remaining steps.

    Returns:
      The final state, and the reason for stopping early or "".
    """
    for step in range(start + 1, self._num_steps + 1):
      with self._timer.section("data"):
        batch = step_lib.place_train_batch(next(self._data), self._mesh)
      with self._timer.section("step"):
        state, metrics = compiled(state, batch)
        self._accumulator.add(metrics)
        self._accumulator.wait(self._ahead)
      self._console.step()
      self._end_interval(step, start, state)
      if step < self._num_steps and (why := stop.reason(step)):
        return state, why
    return state, ""

  def _end_interval(self, step: int, start: int, state: TrainState) -> None:
    """Logs, evaluates and saves if the respective interval ends here."""
    config, last = self._config, step == self._num_steps
    logs = last or self._is_due(step, config.log.every_steps)
    evaluates = last or self._is_due(
      step, config.eval_every_steps, config.eval_every_epochs
    )
    saves = last or self._is_due(
      step, config.checkpoint.every_steps, config.checkpoint.every_epochs
    )
    if logs or evaluates or saves:
      self._check_finite(step)
    if logs:
      self._log(step, start)
    if evaluates:
      self._evaluate(step, state)
    if saves:
      self._save(step, state)

  def _is_due(self, step: int, steps: int, epochs: float = 0.0) -> bool:
    """Returns whether an interval of steps or epochs ends with this step."""
    ended = lambda at: int(at / (epochs * self._epoch)) if epochs else 0
    return bool(steps and step % steps == 0) or ended(step) > ended(step - 1)

  def _check_finite(self, step: int) -> None:
    # This waits for queued steps, so count the time as step time.
    with self._timer.section("step"):
      self._accumulator.check_finite(step)

  def _log(self, step: int, start: int) -> None:
    values = self._accumulator.take()
    values["learning_rate"] = float(self._schedule(step - 1))
    pace = self._accumulator.pace()
    if "tokens" in values:  # Mean number of tokens per example.
      rate = values["tokens"] * pace["examples_per_second"]
      pace["tokens_per_second"] = rate
    self._write(
      step,
      {f"train/{name}": value for name, value in values.items()}
      | {f"speed/{name}": value for name, value in pace.items()},
    )
    eta = format_seconds(self._timer.eta(step, self._num_steps, start))
    self._console.interval(step, values | pace, eta)

  def _evaluate(self, step: int, state: TrainState) -> None:
    self._measure(step, state)
    scores = results.flat_scalars(self._evaluation[1])
    self._write(step, scores)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
    self._console.say(f"step {step:,}: {shown}")

  def _measure(self, step: int, state: TrainState) -> None:
    with self._timer.section("evaluate"):
      found = evaluation.evaluate_all(
        self._eval_step,
        state,
        self._eval_data,
        self._mesh,
        show_progress=self._console.draws,
      )
    self._evaluation = step, self._task.finalize_metrics(found)

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    with workdir.writing(self._folder):
      self._writers.scalars(step, values)

  def _save(self, step: int, state: TrainState) -> None:
    with self._timer.section("checkpoint"):
      measured = self._evaluation and self._evaluation[0] == step
      self._checkpoints.save(
        step,
        state,
        self._data,
        {
          "seconds": self._timer.totals(),
          "interval": self._accumulator.stored(),
        },
        results.flat_scalars(self._evaluation[1]) if measured else {},
      )

  def _stop(self, state: TrainState, why: str) -> Outcome:
    """Saves a checkpoint and prints how to resume."""
    step = int(state.step)
    self._check_finite(step)
    self._save(step, state)
    self._checkpoints.wait()
    self._console.say(
      f"{why} at step {step:,}, which is saved: run the same command to go on"
    )
    return Outcome(why, step, {})

  def _finish(self, state: TrainState) -> Outcome:
    """Writes the results and the report, and exports the weights."""
    if self._evaluation is None:
      # The restored run was already complete, so its metrics are logged.
      self._measure(self._num_steps, state)
    self._checkpoints.wait()
    best = self._checkpoints.best_step()
    facts = {
      "steps": self._num_steps,
      "epochs": round(self._num_steps / self._epoch, 2),
      "best_step": self._num_steps if best is None else best,
      "train_seconds": round(sum(self._timer.totals().values()), 1),
      "seconds": self._timer.totals(),
    }
    found = {}
    if self._is_first:
      initialize_from.export(self._folder, self._config, state)
      with workdir.writing(self._folder):
        found = results.write(
          self._folder,
          self._config,
          self._task,
          self._model,
          state,
          self._evaluation[1],
          facts,
          self._writers,
        )
    return Outcome("", self._num_steps, found)

  def _make_writers(self, start: int) -> metric_writers.MetricWriters:
    log = self._config.log
    with workdir.writing(self._folder):
      return metric_writers.MetricWriters(
        self._folder,
        resume_step=start,
        tensorboard=log.tensorboard,
        wandb_project=log.wandb_project,
        run_name=self._folder.name,
        config=self._config.to_dict(),
        enabled=self._is_first,
      )

  def _open_data(self) -> tuple[Any, dict[str, Any]]:
    """Returns the training iterator and evaluation data of this process."""
    shard = {
      "process_index": jax.process_index(),
      "process_count": jax.process_count(),
    }
    train = self._task.train_dataset(
      global_batch=self._config.batch_size, **shard
    )
    evals = self._task.eval_datasets(
      global_batch=self._config.batch_size, **shard
    )
    return iter(train), evals
