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
    before = flagsaver.save_flag_values()
    path = f"scripts.{name}"
    if importlib.util.find_spec(path).submodule_search_locations:
      path += ".__main__"
    # Flags are defined when it is imported, and are gone afterwards.
    sys.modules.pop(path, None)
    out, err = io.StringIO(), io.StringIO()
    flags.FLAGS.unparse_flags()
    try:
      with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        module = importlib.import_module(path)
        argv = launch.parse([f"{name}.py", *map(str, arguments)])
        status = launch.guarded(module.main, argv)
    except SystemExit as end:
      status = end.code
    finally:
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
