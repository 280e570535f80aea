import os
import re
import shutil
import subprocess
import sys

import jax
import pytest
import tiny_runs as runs
from absl import flags

from experiments import launch
from perceiver_jax.errors import DivergedError, UserError

PROGRAMS = ("train", "evaluate", "predict")


def program(name, *arguments, **environment):
  return subprocess.run(
    [sys.executable, "-m", f"experiments.{name}", *arguments],
    cwd=runs.ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=100,
  )


def raising(error):
  def main(argv):
    raise error

  return main


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_exits_with_status_0(name):
  done = program(name, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  assert f"python -m experiments.{name} " in done.stdout
  text = " ".join(done.stdout.split())
  for part in ("--config.LEAF=VALUE", "--workdir: Folder of the run."):
    assert part in text


@pytest.mark.parametrize("elsewhere", ["", "/elsewhere"])
def test_the_environment_chooses_the_compilation_cache(
  tmp_path, monkeypatch, elsewhere
):
  updates = {}
  monkeypatch.setattr(jax.config, "update", updates.__setitem__)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", elsewhere)
  launch.enable_compilation_cache(tmp_path)
  assert not updates  # JAX reads the variable itself.
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  launch.enable_compilation_cache(tmp_path)
  cache = str(tmp_path / "compilation_cache")
  assert updates == {"jax_compilation_cache_dir": cache}


@pytest.mark.slow
def test_a_second_start_of_a_run_compiles_nothing(tmp_path, monkeypatch):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

  def misses():
    """Returns the programs that a run of all steps compiles."""
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    done = program(
      *("train", "--config=configs/digits.py:smoke", f"--workdir={tmp_path}"),
      JAX_EXPLAIN_CACHE_MISSES="1",
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    assert done.returncode == 0, done.stderr
    return re.findall(
      "PERSISTENT COMPILATION CACHE MISS for '(.*?)'", done.stderr
    )

  assert "jit_eval_step" in misses()
  assert misses() == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_unknown_flag_is_one_line_on_stderr(name):
  done = program(name, "--workdirs=x")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith("error: Unknown command line flag 'workdirs'")
  assert done.stderr.count("\n") == 1


def test_an_unknown_leaf_is_named():
  done = program(
    *("train", "--config=configs/digits.py", "--workdir=x"),
    "--config.batchsize=3",
  )
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith("error: --config.batchsize: no 'batchsize'")
  assert done.stderr.count("\n") == 1
  assert not (runs.ROOT / "x").exists()


def test_entry_points_do_not_import_jax_before_parsing_flags():
  code = """
import sys
from experiments import (
  evaluate,
  train,
)
sys.exit("jax" in sys.modules)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=runs.ROOT, timeout=100
  )
  assert done.returncode == 0


@pytest.mark.parametrize(
  ("error", "status", "line"),
  [
    (UserError("a\n b"), 2, "error: a b\n"),
    (DivergedError("loss is nan"), 1, "error: loss is nan\n"),
    (KeyboardInterrupt(), 130, "error: interrupted\n"),
  ],
)
def test_user_errors_become_one_line_and_an_exit_status(
  capsys, error, status, line
):
  assert launch.guarded(raising(error), []) == status
  assert capsys.readouterr() == ("", line)


# A program that is interrupted, and crashes if Python ends in its own way.
_INTERRUPTED = """
import atexit, gc, os, signal, sys, time
from experiments import launch

def interrupt(*_):
  gc.callbacks.clear()
  signal.raise_signal(signal.SIGINT)

def main(argv):
  atexit.register(os.abort)
  if argv[1] == "import":
    try:
      import interrupted
    except BaseException:
      time.sleep(60)
  if argv[1] == "gc":
    gc.callbacks.append(interrupt)
    gc.collect()
    time.sleep(60)
  interrupt()

signal.signal(signal.SIGINT, signal.default_int_handler)
launch.run(main)
"""


@pytest.mark.parametrize("place", ["main", "gc", "import"])
def test_an_interrupt_anywhere_ends_the_program_at_once(place, tmp_path):
  (tmp_path / "interrupted.py").write_text(
    "import signal; signal.raise_signal(signal.SIGINT)"
  )
  done = subprocess.run(
    [sys.executable, "-c", _INTERRUPTED, place],
    cwd=runs.ROOT, capture_output=True, text=True, timeout=50,
    env=os.environ | {"PYTHONPATH": str(tmp_path)},
  )  # fmt: skip
  assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_an_interrupt_while_the_config_is_loaded_is_one_line(tmp_path):
  config = tmp_path / "config.py"
  config.write_text("raise KeyboardInterrupt")
  done = program("train", f"--config={config}", f"--workdir={tmp_path}")
  assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
  "error", [ValueError("x"), OSError("x"), KeyError("x")]
)
def test_other_errors_keep_their_traceback(error):
  with pytest.raises(type(error)):
    launch.guarded(raising(error), [])


@pytest.mark.parametrize("status", [None, 0, 75])
def test_the_exit_status_is_that_of_main(status):
  assert launch.guarded(lambda argv: status, []) == (status or 0)


def test_arguments_that_are_not_flags_are_refused():
  launch.no_arguments(["train.py"])
  with pytest.raises(UserError, match="'seed=3'; flags start with --"):
    launch.no_arguments(["train.py", "seed=3"])


@pytest.fixture
def initialize_calls(monkeypatch):
  """Records the arguments of `jax.distributed.initialize`."""
  calls = []
  monkeypatch.setattr(jax.distributed, "initialize", lambda *a: calls.append(a))
  for name in (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "TPU_WORKER_HOSTNAMES",
  ):
    monkeypatch.delenv(name, raising=False)
  return calls


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, []),
    ({"TPU_WORKER_HOSTNAMES": "a"}, []),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, [()]),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
      },
      [("a:1", 2, 0)],
    ),
  ],
)
def test_distributed_jax_is_initialized_if_there_are_several_processes(
  initialize_calls, monkeypatch, environment, expected
):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  launch.initialize_distributed()
  assert initialize_calls == expected


@pytest.mark.parametrize(
  ("count", "number", "named"),
  [
    (None, "0", "JAX_NUM_PROCESSES"),
    ("two", "0", "JAX_NUM_PROCESSES"),
    ("2", None, "JAX_PROCESS_ID"),
    ("2", "-1", "JAX_PROCESS_ID"),
  ],
)
def test_an_incomplete_address_is_an_error(
  initialize_calls, monkeypatch, count, number, named
):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
  for name, value in (("NUM_PROCESSES", count), ("PROCESS_ID", number)):
    if value is not None:
      monkeypatch.setenv(f"JAX_{name}", value)
  with pytest.raises(UserError, match=f"{named} is .*; set it to a number"):
    launch.initialize_distributed()
  assert initialize_calls == []


def test_the_home_directory_is_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setattr(flags, "FLAGS", type("F", (), {"workdir": "~/run"}))
  assert launch.workdir() == tmp_path / "run"


def test_a_config_in_the_home_directory_is_found(monkeypatch, tmp_path):
  (tmp_path / "mine.py").write_text(
    "from configs import digits\nget_config = digits.get_config"
  )
  done = program(
    *("train", "--config=~/mine.py:smoke", "--config.num_steps=-1"),
    f"--workdir={tmp_path / 'run'}",
    HOME=str(tmp_path),
  )
  assert "config.num_steps is -1" in done.stderr


@pytest.mark.parametrize("flag", ["workdir", "config"])
def test_an_unknown_home_directory_is_refused(flag):
  values = {"config": "configs/digits.py", "workdir": "x"}
  values[flag] = "~nouser/x.py"
  done = program("train", *(f"--{k}={v}" for k, v in values.items()))
  assert done.returncode == 2
  assert done.stderr.startswith(
    f"error: --{flag}=~nouser/x.py: the home directory of ~nouser is unknown"
  )


def test_a_workdir_that_is_not_utf8_is_refused(monkeypatch, tmp_path):
  folder = f"{tmp_path}/\udce9"
  monkeypatch.setattr(flags, "FLAGS", type("F", (), {"workdir": folder}))
  with pytest.raises(UserError, match="is not UTF-8, which checkpoints"):
    launch.workdir()
