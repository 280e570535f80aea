"""Searches over hyperparameters with Optuna, which proposes the points."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.predictions import outputs
from perceiver_jax.errors import UserError
from scripts.sweeps import definitions, points, runs

SAMPLERS = ("tpe", "random")
_POINT = "point"


class Search:
  """A study of Optuna in the folder of a sweep, which can be resumed.

  Args:
    out: Folder of the sweep; the study is in its `search.log`.
    sampler: One of `SAMPLERS`.
    trials: Number of runs in all.
    seed: Seed of the sampler.
    propose: `search_NAME(trial)` of a config file, which returns a point.
    config: Value of --config.
    others: Further flags of all runs.

  Raises:
    UserError: Optuna is not installed, can't propose a first point, or `out`
      can't be written.
  """

  def __init__(
    self,
    out: Path,
    sampler: str,
    trials: int,
    seed: int,
    propose: Callable[[Any], Mapping[str, Any]],
    config: str,
    others: Sequence[str],
  ):
    try:
      import optuna
      from optuna.storages import journal
    except ImportError as error:
      raise UserError(
        "--search needs Optuna: pip install -e '.[search]'"
      ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    self._optuna, self._out, self._trials = optuna, out, trials
    self._propose, self._config, self._others = propose, config, others
    # The metric and its direction are those of the task of a first point.
    study = optuna.create_study()
    first = points.check_flags(self._flags(self._point(study.ask())))
    self.metric, self._mode = points.primary_metric(first)
    with outputs.writing(out, "another --out"):
      out.mkdir(parents=True, exist_ok=True)
    backend = journal.JournalFileBackend(str(out / "search.log"))
    self._study = optuna.create_study(
      storage=optuna.storages.JournalStorage(backend),
      study_name="sweep",
      load_if_exists=True,
      direction="maximize" if self._mode == "max" else "minimize",
    )
    self._sampler = {
      "tpe": optuna.samplers.TPESampler,
      "random": optuna.samplers.RandomSampler,
    }[sampler]
    self._seed = seed

  def pending(self) -> list[points.Run]:
    """Returns the runs that were started and have not ended."""
    return [
      self._run(trial.number, _read(trial.user_attrs[_POINT]))
      for trial in self._study.get_trials(deepcopy=False)
      if not trial.state.is_finished() and _POINT in trial.user_attrs
    ]

  def more(self) -> points.Run | None:
    """Returns the run of another point; None after the last one."""
    count = len(self._study.get_trials(deepcopy=False))
    if count >= self._trials:
      return None
    # A search that is resumed proposes what it would have otherwise, and no
    # point again.
    self._study.sampler = self._sampler(seed=self._seed + 1_000_003 * count)
    trial = self._study.ask()
    point = self._point(trial)
    trial.set_user_attr(_POINT, json.dumps(point))
    run = self._run(trial.number, point)
    points.check_flags(run.flags)
    runs.check_same(self._out / run.name, run.flags)
    return run

  def ended(self, run: points.Run, status: int) -> None:
    """Tells Optuna the metric of a run, or that it failed."""
    if status in runs.STOPPED:
      return
    number = int(run.name.rpartition("=")[2])
    failed = self._optuna.trial.TrialState.FAIL
    if status:
      self._study.tell(number, state=failed, skip_if_finished=True)
      return
    value = runs.results(self._out / run.name)["metrics"].get(self.metric)
    if value is None:
      self._study.tell(number, state=failed, skip_if_finished=True)
    else:
      self._study.tell(number, value, skip_if_finished=True)

  def runs(self) -> list[tuple[points.Run, int | None]]:
    """Returns all runs in their order, with their statuses so far."""
    result = []
    complete = self._optuna.trial.TrialState.COMPLETE
    for trial in self._study.get_trials(deepcopy=False):
      if _POINT in trial.user_attrs:
        point = _read(trial.user_attrs[_POINT])
        status = None
        if trial.state.is_finished():
          status = 0 if trial.state == complete else 1
        result.append((self._run(trial.number, point), status))
    return result

  def _run(self, number: int, point: Mapping[str, Any]) -> points.Run:
    return points.Run(f"trial={number}", point, self._flags(point))

  def _flags(self, point: Mapping[str, Any]) -> list[str]:
    return [*points.flags(self._config, point), *self._others]

  def _point(self, trial: Any) -> dict[str, Any]:
    """Returns the point that a config file makes of a trial.

    Raises:
      UserError: It raises an error, or returns no mapping of leaves.
    """
    try:
      # As it will be read back when the search is resumed.
      return _read(json.dumps(dict(self._propose(trial))))
    except Exception as error:
      raise UserError(
        f"{self._propose.__name__}() of {self._config.split(':')[0]} fails:"
        f" {type(error).__name__}: {error}"
      ) from error


def _read(text: str) -> dict[str, Any]:
  """Returns a point that is stored as JSON, which has no tuples."""
  return definitions.read_point(json.loads(text))
