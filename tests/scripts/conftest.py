"""Scripts called in this process."""

import contextlib
import importlib.util
import io
import sys
from typing import NamedTuple

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import launch


class Done(NamedTuple):
  """What a script left behind: exit status, stdout, stderr."""

  status: int
  out: str
  err: str


@pytest.fixture(scope="session")
def script():
  """script("convert_weights", "a", "b") as a shell would; returns `Done`."""

  def call(name, *arguments):
    before, argv = flagsaver.save_flag_values(), sys.argv
    # Configs read their overrides from here.
    sys.argv = [f"{name}.py", *map(str, arguments)]
    path = f"scripts.{name}"
    if importlib.util.find_spec(path).submodule_search_locations:
      path += ".__main__"
    # Flags are defined when it is imported, and are gone afterwards.
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
  """Checks that a script ends with one line which has all `parts`."""

  def refused(name, *arguments, parts):
    done = script(name, *arguments)
    assert done.status == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
      assert part in line, (part, line)
    return done

  return refused
