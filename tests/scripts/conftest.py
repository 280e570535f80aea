"""Fixtures that call scripts in this process."""

import contextlib
import importlib.util
import io
import sys

import pytest
from absl import flags
from absl.testing import flagsaver
from entry_points import Done, assert_refused

from experiments import launch


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
