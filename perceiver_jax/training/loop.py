"""The training loop shared by all tasks.

A run that was stopped or killed resumes from its newest checkpoint, and its
final state is bitwise identical to that of an uninterrupted run.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import ml_collections
from jax.experimental import multihost_utils

from perceiver_jax.training import (
  config_checks,
  evaluation,
  initialize_from,
  interrupts,
  intervals,
  optimizer_sharding,
  train_program,
  workdir,
)
from perceiver_jax.training import step as step_lib
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer
from perceiver_jax.training.logs import process_stats, results, run_summary
from perceiver_jax.training.logs.metrics_accumulator import MetricsAccumulator
from perceiver_jax.training.logs.process_log import ProcessLog
from perceiver_jax.training.logs.profiler import Profiler
from perceiver_jax.training.logs.run_log import RunLog
from perceiver_jax.training.logs.wall_time import WallTimer
from perceiver_jax.training.step import TrainState

if TYPE_CHECKING:
  from perceiver_jax.tasks.base import Task


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
    self._mesh = step_lib.make_mesh(num_devices)
    step_lib.check_batch_size(
      config.batch_size, self._mesh.size, config.num_microbatches
    )
    examples = task.num_train_examples()
    self._metadata = {**task.metadata(), workdir.NUM_EXAMPLES: examples}
    self._num_steps = config_checks.num_steps(config, examples)
    self._epoch = examples / config.batch_size  # In steps.
    self._program = train_program.from_config(
      config, task, self._mesh, self._num_steps
    )
    self._to_step_shapes = optimizer_sharding.reshape_to(
      optimizer_sharding.pmap_shapes(self._program.state)
    )
    self._to_checkpoint_shapes = optimizer_sharding.reshape_to(
      self._program.state
    )
    self._eval_step = evaluation.make_eval_step(
      self._program.model,
      task,
      self._mesh,
      num_microbatches=config.num_microbatches,
    )
    self._weights = initialize_from.load(config, folder)
    share = {
      "global_batch": config.batch_size,
      "process_index": jax.process_index(),
      "process_count": jax.process_count(),
    }
    self._data = iter(task.train_dataset(**share))
    self._eval_data = task.eval_datasets(**share)

  def run(self) -> Outcome:
    """Trains until the last step or an interrupt.

    Raises:
      UserError: the folder can't be written to or is in use by another run, or
        a checkpoint is unusable.
      DivergedError: the loss or the gradient is not finite.
    """
    with contextlib.ExitStack() as stack:
      self._check_lock = lambda: None
      if jax.process_index() == 0:
        self._check_lock = stack.enter_context(workdir.locked(self._folder))
      if jax.process_count() > 1:
        # No other process writes before the first has the lock.
        multihost_utils.sync_global_devices("workdir locked")
      stack.enter_context(workdir.full_disk_explained(self._folder))
      return self._run_in_folder()

  def _run_in_folder(self) -> Outcome:
    stop = interrupts.Interrupts(self._config.max_seconds)
    workdir.check_metadata(self._folder, self._metadata)
    if jax.process_index() == 0:
      # Another run may have started there since the constructor.
      workdir.check_config(self._folder, self._config)
      workdir.write(self._folder, self._config, self._metadata)
    settings = self._config.checkpoint
    self._checkpoints = Checkpointer(
      self._folder / workdir.CHECKPOINTS,
      keep_latest=settings.keep_latest,
      keep_best=settings.keep_best,
      best_metric=self._task.primary_metric,
      best_mode=self._task.primary_mode,
    )
    self._process_log = ProcessLog(self._folder)
    self._profiler = Profiler(self._folder, self._config.log)
    try:
      with stop.handled(), self._profiler.handled(), self._process_log:
        return self._run(stop)
    finally:
      self._data.close()
      self._checkpoints.close()

  def _run(self, stop: interrupts.Interrupts) -> Outcome:
    state, extras, origin = self._restore_or_initialize()
    start = int(state.step)
    if start < self._num_steps and jax.process_index() == 0:
      workdir.write_versions(self._folder)
    self._evaluation = {}
    self._timer = WallTimer(extras.get("seconds"))
    self._log = RunLog(
      self._folder, self._config, self._num_steps, start, self._timer
    )
    self._process_stats = process_stats.ProcessStats()
    self._process_log.doing = self._timer.current
    self._process_log.step = start
    self._profiler.say = self._log.say
    try:
      state = self._to_step_shapes(state)
      compiled = self._compile(state) if start < self._num_steps else None
      summary = run_summary.summarize(
        self._config,
        self._task,
        self._program.model,
        self._program.state,
        self._mesh,
      )
      seconds = self._timer.totals().get("compile", 0.0)
      self._log.say(
        run_summary.text(summary, self._num_steps, start, compiled, seconds)
        + origin
      )
      self._accumulator = MetricsAccumulator(
        extras.get("interval", {}),
        step_lib.replicated(self._mesh),
        self._timer,
        batch_size=self._config.batch_size,
        flops_per_step=summary.flops_per_step,
        peak_flops=summary.peak_flops,
        rates=self._task.rates,
      )
      state, stopped = self._train(state, start, compiled, stop)
      return self._stop(state, stopped) if stopped else self._finish(state)
    finally:
      self._log.close()

  def _restore_or_initialize(self) -> tuple[TrainState, dict[str, Any], str]:
    """Returns a state, the extras saved with it, and a note on its weights."""
    restored = self._checkpoints.restore_latest(self._program.state, self._data)
    if restored is not None:
      return restored.state, restored.extras, ""
    shardings = jax.tree.map(lambda x: x.sharding, self._program.state)
    state = jax.jit(self._program.init, out_shardings=shardings)(
      self._task.dummy_batch()
    )
    if self._weights is None:
      return state, {}, ""
    state, report = initialize_from.initialize_state(
      state, self._weights, self._config.model
    )
    origin = f"\n  started from {self._config.init_from}\n{report.text()}"
    return state, {}, origin

  def _compile(self, state: TrainState) -> Any:
    """Compiles the step ahead of time to report its cost before training."""
    with self._timer.section("compile"):
      # With several processes, pmap can only be lowered with concrete arrays.
      batch = step_lib.dummy_train_batch(
        self._task.dummy_batch(), self._config.batch_size, self._mesh
      )
      return self._program.step.lower(state, batch).compile()

  def _train(
    self,
    state: TrainState,
    start: int,
    compiled: Any,
    stop: interrupts.Interrupts,
  ) -> tuple[TrainState, str]:
    """Returns the last state, and the reason for stopping early or ""."""
    ahead = step_lib.num_steps_ahead()
    for step in range(start + 1, self._num_steps + 1):
      with self._profiler.step(step, self._accumulator.wait):
        with self._timer.section("data"):
          batch = step_lib.place_train_batch(next(self._data), self._mesh)
        with self._timer.section("step"):
          state, metrics = compiled(state, batch)
          self._accumulator.add(metrics)
          self._accumulator.wait(ahead)
      self._process_log.step = step
      self._log.step()
      self._end_interval(step, state)
      if step < self._num_steps and (reason := stop.reason(step)):
        return state, reason
    return state, ""

  def _end_interval(self, step: int, state: TrainState) -> None:
    """Logs, evaluates and saves if the respective interval ends here."""
    due = intervals.due(self._config, step, self._num_steps, self._epoch)
    self._evaluation = {}
    if any(due):
      self._check_lock()
      self._accumulator.check_finite(step)
    if due.log:
      means, speed = self._accumulator.take()
      means["learning_rate"] = float(self._program.schedule(step - 1))
      self._log.training(step, means, speed, self._compare(speed))
    if due.evaluate:
      self._evaluation = self._evaluate(state)
      self._log.evaluation(step, results.flat_scalars(self._evaluation))
    if due.save:
      self._save(step, state)

  def _compare(self, speed: dict[str, float]) -> process_stats.Comparison:
    """Compares the processes, of which any may request a profile."""
    compared = self._process_stats.compare(speed, self._profiler.is_requested)
    self._profiler.agree(compared.profile)
    self._process_log.measured = {**speed, **process_stats.memory()}
    return compared

  def _evaluate(self, state: TrainState) -> results.Evaluation:
    with self._timer.section("evaluate"):
      means = evaluation.evaluate_all(
        self._eval_step,
        state,
        self._eval_data,
        self._mesh,
        show_progress=self._log.shows_progress,
      )
    self._check_lock()  # An evaluation may take minutes.
    return self._task.finalize_metrics(means)

  def _save(self, step: int, state: TrainState) -> None:
    self._check_lock()
    with self._timer.section("checkpoint"):
      extras = {
        "seconds": self._timer.totals(),
        "interval": self._accumulator.stored(),
      }
      metrics = results.flat_scalars(self._evaluation)
      self._log.sync()
      self._checkpoints.save(
        step, self._to_checkpoint_shapes(state), self._data, extras, metrics
      )

  def _stop(self, state: TrainState, reason: str) -> Outcome:
    """Saves a checkpoint and prints how to resume."""
    step = int(state.step)
    self._accumulator.check_finite(step)
    self._save(step, state)
    self._checkpoints.wait()
    self._log.say(
      f"{reason} at step {step:,}, which is saved: run the same command to"
      " resume"
    )
    return Outcome(reason, step, {})

  def _finish(self, state: TrainState) -> Outcome:
    """Writes the results and the report, and exports the weights."""
    # A run that was already complete has logged its metrics.
    final = self._evaluation or self._evaluate(state)
    self._checkpoints.wait()
    if jax.process_index() != 0:
      return Outcome("", self._num_steps, {})
    self._log.sync()  # The report reads the metrics.
    written = results.write(
      self._folder,
      self._config,
      self._task,
      self._program.model,
      state,
      final,
      self._log,
      best_step=self._checkpoints.best_step() or self._num_steps,
      seconds=self._timer.totals(),
    )
    return Outcome("", self._num_steps, written)
