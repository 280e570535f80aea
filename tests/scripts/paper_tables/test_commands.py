"""The printed commands run with their programs' own flags."""

import contextlib
import importlib
import importlib.util
import io
import pathlib
import re
import sys
import types

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import launch, predict
from perceiver_jax.models.published import tables
from scripts.benchmark import published
from scripts.paper_tables import page
from scripts.sweeps import runs

_ROOT = pathlib.Path(__file__).parents[3]
_MISSING = re.compile("no such|not exist|holds no|no weights at")
_STOPPED = runs.STOPPED[0]
_COMMANDS = list(
  dict.fromkeys(
    command.removeprefix("or ")
    for row in tables.rows()
    for command in page.commands_of(row)
  )
)


@contextlib.contextmanager
def _parsed(program, *arguments):
  """Yields a program's module and what is left of its parsed arguments."""
  spec = importlib.util.find_spec(program)
  program += ".__main__" if spec.submodule_search_locations else ""
  before, argv = flagsaver.save_flag_values(), sys.argv
  sys.argv = [program, *arguments]
  # A script defines its flags when it is imported; they are removed below.
  for name in (program, "config_config"):
    sys.modules.pop(name, None)
  flags.FLAGS.unparse_flags()
  try:
    module = importlib.import_module(program)
    if program.startswith("experiments."):
      module.define_flags()
    yield module, launch.parse(sys.argv)
  finally:
    sys.argv = argv
    flagsaver.restore_flag_values(before)
    flags.FLAGS.mark_as_parsed()


def _check_train(module, rest):
  launch.no_arguments(rest)
  assert launch.config().task
  assert launch.workdir()


def _check_predict(module, rest):
  assert rest[1] in predict.COMMANDS
  _check_ends_at_missing_files(module, rest)


def _check_ends_at_missing_files(module, rest):
  """Checks that only its files, which are missing, keep it from running."""
  error = io.StringIO()
  with contextlib.redirect_stderr(error):
    assert launch.guarded(module.main, rest) == 2
  files = (flags.FLAGS.weights or flags.FLAGS.workdir, *rest[2:])
  assert any(file in error.getvalue() for file in files), error.getvalue()
  assert _MISSING.search(error.getvalue()), error.getvalue()


def _check_sweep(module, rest):
  assert launch.guarded(module.main, rest) == _STOPPED


def _check_glue_sweep(module, rest):
  assert flags.FLAGS.init_from.startswith("runs/masked_lm_")
  with pytest.raises(SystemExit) as end:
    module.main(rest)
  assert end.value.code == _STOPPED


def _check_benchmark(module, rest):
  launch.no_arguments(rest)
  assert flags.FLAGS.published
  assert set(flags.FLAGS.models) <= set(published.choices())


_CHECKS = {
  "experiments.train": _check_train,
  "experiments.evaluate": _check_ends_at_missing_files,
  "experiments.predict": _check_predict,
  "scripts.sweep": _check_sweep,
  "scripts.sweeps.glue": _check_glue_sweep,
  "scripts.benchmark": _check_benchmark,
}


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_printed_command_runs(command, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").symlink_to(_ROOT / "configs")
  # A sweep stops at its first run.
  process = types.SimpleNamespace(poll=lambda: _STOPPED)
  monkeypatch.setattr(runs, "start", lambda *_: process)
  python, module_flag, program, *arguments = command.split()
  assert (python, module_flag) == ("python", "-m")
  with _parsed(program, *arguments) as (module, rest):
    _CHECKS[program](module, rest)


def test_a_run_has_a_folder_of_its_own():
  folders = {}
  for command in _COMMANDS:
    words = command.split()
    config = next((w for w in words if w.startswith("--config=")), "")
    for word in words:
      if "experiments.train" in words and word.startswith("--workdir="):
        assert folders.setdefault(word, config) == config
