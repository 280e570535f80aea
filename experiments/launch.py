"""What the entry points share: flags, and errors in one line.

Exit status: 0 done; 1 the run failed; 2 something given was wrong; 75 stopped
early with everything saved (run it again to go on); 130 Ctrl-C.
"""

import logging
import os
import sys
from collections.abc import (
  Callable,
  Sequence,
)
from pathlib import Path
from typing import Any

import ml_collections
from absl import (
  app,
  flags,
)
from ml_collections import config_flags

from experiments import flag_errors
from perceiver_jax.errors import (
  DivergedError,
  UserError,
)

# The flags belong to the entry point that defines them, whose --help shows
# them.
flags.disclaim_key_flags()

Main = Callable[[Sequence[str]], int | None]

_FAILED = 1
_WRONG_USE = 2
_INTERRUPTED = 130


def define_flags(*, config_required: bool) -> None:
  """Defines --config and --workdir.

  Args:
    config_required: whether a run can't be without --config; where it is not,
      the workdir's own config is the default.
  """
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment: configs/NAME.py, or configs/NAME.py:VARIANT, or with ,smoke"
    " at the end for a run of seconds. Set any leaf with --config.LEAF=VALUE."
    + (" Required." if config_required else " Default: that of the workdir."),
  )
  flags.DEFINE_string("workdir", None, "Folder of the run.")


def config() -> ml_collections.ConfigDict:
  """The config of the command line.

  Raises:
    UserError: there is none.
  """
  if flags.FLAGS.config is None:
    raise UserError(f"--config is missing; {flag_errors.choices()}")
  return flags.FLAGS.config


def workdir() -> Path:
  """The folder of the run.

  Raises:
    UserError: none is given, or it is not on a local disk.
  """
  given = flags.FLAGS.workdir
  if not given:
    raise UserError("--workdir is missing; give the folder of the run")
  if "://" in given:
    raise UserError(
      f"--workdir={given} is not a folder of this machine; mount the bucket"
      " and give the folder it is mounted on"
    )
  return Path(given).expanduser()


def no_arguments(argv: Sequence[str]) -> None:
  """Refuses what is left on the command line after the flags.

  Raises:
    UserError: something is left: most often a flag without its dashes.
  """
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")


def initialize_distributed() -> None:
  """Joins the other processes if this is one of several.

  On a slice of several TPU hosts JAX finds them by itself; elsewhere say where
  they are with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

  Raises:
    UserError: some of these are set, and others missing or no numbers.
  """
  import jax

  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address:
    count = _number_in_environment("JAX_NUM_PROCESSES")
    jax.distributed.initialize(
      address, count, _number_in_environment("JAX_PROCESS_ID")
    )
  elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
    jax.distributed.initialize()


def saved_run() -> tuple[Any, Any, Path]:
  """Config, task and folder of a run that was trained before.

  Raises:
    UserError: the workdir holds no run, or --config is of another one.
  """
  from perceiver_jax.tasks import registry as tasks
  from perceiver_jax.training import workdir as workdir_lib

  folder = workdir()
  saved = workdir_lib.read_config(folder)
  if flags.FLAGS.config is not None:
    workdir_lib.check_config(folder, config())
    saved = config()
  task = tasks.make_task(saved, workdir_lib.read_metadata(folder))
  return saved, task, folder


def run(main: Main) -> None:
  """Parses flags, calls `main`, and turns errors into one line and a status."""
  # JAX notes each kind of device that the machine has not.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
  app.run(lambda argv: sys.exit(guarded(main, argv)), flags_parser=parse)


def guarded(main: Main, argv: Sequence[str]) -> int:
  """Calls `main`; what a user can mend is one line on stderr.

  Returns:
    The exit status.
  """
  try:
    return main(argv) or 0
  except UserError as error:
    return _fail(str(error), _WRONG_USE)
  except DivergedError as error:
    return _fail(str(error), _FAILED)
  except KeyboardInterrupt:
    return _fail("interrupted", _INTERRUPTED)


def parse(argv: Sequence[str]) -> Sequence[str]:
  """Parses flags; a mistake is one line instead of a page of help.

  Returns:
    What is left of `argv` when the flags are taken out.
  """
  try:
    rest = flags.FLAGS(argv)
    # A file that can't be read is noticed only when a leaf is.
    if "config" in flags.FLAGS:
      getattr(flags.FLAGS.config, "task", "")
    return rest
  except SystemExit:  # --help has said what it had to: that is no failure.
    sys.exit(0)
  except Exception as error:
    sys.exit(_fail(flag_errors.explain(error, argv), _WRONG_USE))


def _number_in_environment(name: str) -> int:
  value = os.environ.get(name, "")
  if not value.isdecimal():
    raise UserError(
      f"JAX_COORDINATOR_ADDRESS is set and {name} is {value!r}; set it to a"
      " number, or unset both to run alone"
    )
  return int(value)


def _fail(message: str, status: int) -> int:
  line = " ".join(message.split())
  print(f"error: {line}", file=sys.stderr)
  return status
