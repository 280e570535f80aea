"""What the entry points share: flags, and errors in one line.

Exit status: 0 done; 1 the run failed; 2 something given was wrong; 75 stopped
early with everything saved (run it again to go on); 130 Ctrl-C.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from perceiver_jax.errors import DivergedError, UserError

_FAILED = 1
_WRONG_USE = 2


def define_flags(*, config_required: bool) -> None:
  """Defines --config and --workdir.

  Args:
    config_required: whether a run can't be without --config; where it is not,
      the workdir's own config is the default.
  """
  config_flags.DEFINE_config_file(
    "config",
    None if config_required else "",
    "Experiment: configs/NAME.py, or configs/NAME.py:VARIANT, or with ,smoke"
    " at the end for a run of seconds. Set any leaf with --config.LEAF=VALUE."
    + ("" if config_required else " Default: the config of the workdir."),
  )
  flags.DEFINE_string("workdir", None, "Folder of the run.")
  flags.mark_flag_as_required("workdir")
  if config_required:
    flags.mark_flag_as_required("config")


def workdir() -> Path:
  """The folder of the run."""
  return Path(flags.FLAGS.workdir).expanduser()


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
  """
  import jax

  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address:
    jax.distributed.initialize(
      address,
      int(os.environ["JAX_NUM_PROCESSES"]),
      int(os.environ["JAX_PROCESS_ID"]),
    )
  elif "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
    jax.distributed.initialize()


def saved_run() -> tuple[Any, Any, Path]:
  """Config, task and folder of a run that was trained before.

  Raises:
    UserError: the workdir holds no run, or --config is of another one.
  """
  from experiments import tasks
  from perceiver_jax.training import workdir as workdir_lib

  folder = workdir()
  config = workdir_lib.read_config(folder)
  if flags.FLAGS["config"].present and flags.FLAGS.config is not None:
    workdir_lib.check_config(folder, flags.FLAGS.config)
    config = flags.FLAGS.config
  task = tasks.make_task(config, workdir_lib.read_metadata(folder))
  return config, task, folder


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Parses flags, calls `main`, and turns errors into one line and a status."""
  app.run(lambda argv: sys.exit(_guarded(main, argv)), flags_parser=_parse)


def _guarded(
  main: Callable[[Sequence[str]], int | None], argv: Sequence[str]
) -> int:
  try:
    return main(argv) or 0
  except UserError as error:
    return _fail(str(error), _WRONG_USE)
  except DivergedError as error:
    return _fail(str(error), _FAILED)
  except KeyboardInterrupt:
    return _fail("interrupted before there was anything to save", 130)


def _parse(argv: Sequence[str]) -> Sequence[str]:
  """Parses flags; a mistake is one line instead of a page of help."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(_fail(f"{error}; --help lists the flags", _WRONG_USE))
  except (UserError, AttributeError, KeyError, TypeError, ValueError) as error:
    sys.exit(_fail(_reason(error), _WRONG_USE))
  except (OSError, ImportError, SyntaxError) as error:
    sys.exit(_fail(f"--config can't be loaded: {error}", _WRONG_USE))


def _reason(error: Exception) -> str:
  cause = error
  while cause is not None:
    if isinstance(cause, UserError):
      return str(cause)
    cause = cause.__cause__ or cause.__context__
  return str(error)


def _fail(message: str, status: int) -> int:
  line = " ".join(message.split())
  print(f"error: {line}", file=sys.stderr)
  return status
