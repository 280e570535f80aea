"""Fixtures that call programs in this process, and a finished run."""

import contextlib
import fcntl
import importlib
import importlib.util
import io
import json
import os
import shutil
import sys
from typing import NamedTuple

import pytest
import tiny_runs as runs
from absl import flags
from absl.testing import flagsaver

from experiments import launch

SMOKE = f"--config={runs.ROOT / 'configs' / 'digits.py'}:smoke"


class Done(NamedTuple):
  """Exit status and output of a program."""

  status: int
  out: str
  err: str


def assert_refused(done, parts, status=2):
  """Asserts that a program ended with one error line that has all `parts`."""
  assert done.status == status, done
  (line,) = done.err.splitlines()
  assert line.startswith("error: ")
  assert "Traceback" not in line
  for part in parts:
    assert part in line, (part, line)


def _call(name, *arguments):
  module = importlib.import_module(f"experiments.{name}")
  before, argv = flagsaver.save_flag_values(), sys.argv
  # `config_flags` reads the overrides of a config from `sys.argv`.
  sys.argv = [f"{name}.py", *map(str, arguments)]
  out, err = io.StringIO(), io.StringIO()
  flags.FLAGS.unparse_flags()
  # A new process would not have imported a config before.
  sys.modules.pop("config_config", None)
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      module.define_flags()
      status = launch.guarded(module.main, launch.parse(sys.argv))
  except SystemExit as end:
    status = end.code
  finally:
    sys.argv = argv
    flagsaver.restore_flag_values(before)
    flags.FLAGS.mark_as_parsed()
  return Done(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def call():
  """Returns a function that calls an entry point: call("train", "--a=b")."""
  return _call


@pytest.fixture(scope="session")
def smoke_flag():
  """Returns the --config flag of the digits' smoke variant."""
  return SMOKE


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory, compiling_once):
  """Returns folder and `Done` of a run of the smoke config; do not write.

  The processes of pytest-xdist share one run, which the first of them trains.
  """
  base = tmp_path_factory.getbasetemp()
  base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
  folder, output = base / "trained", base / "trained.json"
  with (base / "trained.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not output.exists():
      shutil.rmtree(folder, ignore_errors=True)  # Of a run that failed.
      with compiling_once():
        done = _call("train", f"--workdir={folder}", SMOKE, "--num_devices=1")
      assert done.status == 0, done.err
      output.write_text(json.dumps(done))
  return folder, Done(*json.loads(output.read_text()))


@pytest.fixture
def trained(trained_once, tmp_path):
  """Returns a copy of the folder of a finished run."""
  return shutil.copytree(trained_once[0], tmp_path / "trained")


@pytest.fixture
def refuses(call):
  """Returns a function that checks the error line of a refused call."""

  def refuses(name, *arguments, parts, status=2):
    done = call(name, *arguments)
    assert_refused(done, parts, status)
    return done

  return refuses


@pytest.fixture(scope="session")
def script():
  """Returns a function that calls a script: script("convert_weights", "a")."""

  def call(name, *arguments):
    before, argv = flagsaver.save_flag_values(), sys.argv
    # Configs read their overrides from here.
    sys.argv = [f"{name}.py", *map(str, arguments)]
    path = f"scripts.{name}"
    if importlib.util.find_spec(path).submodule_search_locations:
      path += ".__main__"
    # A script defines its flags when it is imported; they are removed below.
    sys.modules.pop(path, None)
    # A new process has no config loaded, not even another one.
    sys.modules.pop("config_config", None)
    out, err = io.StringIO(), io.StringIO()
    flags.FLAGS.unparse_flags()
    try:
      with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        module = importlib.import_module(path)
        status = launch.guarded(module.main, launch.parse(sys.argv))
    except SystemExit as end:
      status = end.code
    finally:
      sys.argv = argv
      flagsaver.restore_flag_values(before)
      flags.FLAGS.mark_as_parsed()
    return Done(status, out.getvalue(), err.getvalue())

  return call


@pytest.fixture
def refused(script):
  """Returns a function that checks the error line of a refused script."""

  def refused(name, *arguments, parts):
    done = script(name, *arguments)
    assert_refused(done, parts)
    return done

  return refused
