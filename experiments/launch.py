"""Shared parts of the entry points: flags, error messages, exit status.

Exit status: 0 success; 1 the run failed; 2 wrong flags, config or data; 75 the
run stopped early (start it again to continue); 130 Ctrl-C.
"""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from experiments import flag_errors, processes
from perceiver_jax import files
from perceiver_jax.errors import DataTimeoutError, DivergedError, UserError

# The flags then belong to the entry point and are listed by its --help.
flags.disclaim_key_flags()

Main = Callable[[Sequence[str]], int | None]

_FAILED = 1
_WRONG_USE = 2
_INTERRUPTED = 130


def define_flags(*, config_required: bool) -> None:
  """Defines --config and --workdir.

  Args:
    config_required: if false, the config saved in the workdir is the default.
      This only changes the help text.
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
  """Returns the config given on the command line.

  Raises:
    UserError: --config is missing.
  """
  if flags.FLAGS.config is None:
    raise UserError(f"--config is missing; {flag_errors.choices()}")
  return flags.FLAGS.config


def workdir(*, takes_checkpoints: bool = False) -> Path:
  """Returns the folder of the run.

  Args:
    takes_checkpoints: Whether checkpoints are read or written there.

  Raises:
    UserError: --workdir is missing, its bucket or the home directory in it
      can't be found, or it can't hold checkpoints but must.
  """
  path = flags.FLAGS.workdir
  if not path:
    raise UserError("--workdir is missing; give the folder of the run")
  try:
    path.encode("utf-8")
  except UnicodeEncodeError as error:
    raise UserError(
      f"--workdir={path} is not UTF-8, which checkpoints need; give another"
      " path, or set PYTHONUTF8=1 if the locale has another encoding"
    ) from error
  if takes_checkpoints:
    files.check_takes_checkpoints(path, "--workdir")
  return files.as_path(_with_home(path, "--workdir"))


def no_arguments(argv: Sequence[str]) -> None:
  """Checks that only flags are on the command line.

  Raises:
    UserError: there is another argument, usually a flag without its dashes.
  """
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")


def initialize_distributed() -> None:
  """Connects to the other processes of a run with several processes.

  On a TPU slice with several hosts JAX finds them itself. Elsewhere set the
  environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
  JAX_PROCESS_ID.

  Raises:
    UserError: only some of these are set, or one is not a number.
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
  processes.watch()


def enable_compilation_cache(folder: Path) -> None:
  """Keeps compiled programs in a run's folder, so a restart compiles nothing.

  The environment variable JAX_COMPILATION_CACHE_DIR, if set, names another
  folder, or no cache if it is empty. Call before anything is compiled.
  """
  import jax

  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = str(folder / "compilation_cache")
    jax.config.update("jax_compilation_cache_dir", cache)


def saved_run(folder: Path | None = None) -> tuple[Any, Any, Path]:
  """Returns the config, task and folder of a run that was trained before.

  Args:
    folder: the folder of the run; by default --workdir.

  Raises:
    UserError: the folder holds no run, or --config differs from its config.
  """
  from configs import base
  from perceiver_jax.tasks import registry as tasks
  from perceiver_jax.training import config_checks
  from perceiver_jax.training import workdir as workdir_lib

  folder = folder or workdir()
  saved = workdir_lib.read_config(folder, "data", "model")
  if flags.FLAGS.config is not None:
    saved = tasks.complete_config(config())
    workdir_lib.check_config(folder, saved)
  metadata = workdir_lib.read_metadata(folder)
  try:
    # Runs of older versions lack some leaves. `update` checks the types.
    complete = base.run()
    complete.update(saved)
    config_checks.check_numbers(complete)
    return saved, tasks.make_task(saved, metadata), folder
  except UserError:
    raise
  # OverflowError: an integer that is too large for a float leaf.
  except (
    AttributeError, LookupError, OverflowError, TypeError, ValueError,
  ) as error:  # fmt: skip
    raise UserError(
      f"--workdir={folder}: its {workdir_lib.CONFIG_FILE} is not that of a run"
      f" ({type(error).__name__}: {error}); restore the file, or give another"
      " --workdir"
    ) from error


def run(main: Main) -> None:
  """Parses flags, calls `main`, and exits with its status."""
  # The names of files may have characters that the terminal's encoding lacks.
  sys.stdout.reconfigure(errors="backslashreplace")
  # JAX logs each kind of device that is missing on this machine.
  logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
  # Orbax raises the errors of its threads, and asyncio would log them again.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  # A shell that starts the program in the background may ignore Ctrl-C.
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _interrupt)
  sys.unraisablehook = _interrupt_again
  app.run(lambda argv: _exit(guarded(main, argv)), flags_parser=parse)


def guarded(main: Main, argv: Sequence[str]) -> int:
  """Calls `main`, and prints errors as one line on stderr.

  Returns:
    The exit status. One process of several ends instead.
  """
  try:
    return main(argv) or 0
  except UserError as error:
    status = _fail(str(error), _WRONG_USE)
  except DivergedError as error:
    status = _fail(str(error), _FAILED)
  except DataTimeoutError as error:
    status = _fail(str(error), processes.LOST)
    processes.leave(status)
    # Python would wait for the threads that hang.
    processes.exit_at_once(status)
  except KeyboardInterrupt:
    status = _fail("interrupted", _INTERRUPTED)
  except Exception as error:
    if reason := files.no_space(error):
      status = _fail(_full_disk(error, reason), _WRONG_USE)
      processes.leave(status)
      return status
    processes.wait_if_lost(error)
    if processes.watches():
      traceback.print_exc()
      processes.leave(_FAILED)
    raise
  processes.leave(status)
  return status


def parse(argv: Sequence[str]) -> Sequence[str]:
  """Parses flags, and prints errors as one line on stderr.

  Returns:
    The program name and arguments that are not flags.
  """
  try:
    if file := flag_errors.config_file(argv):
      path = _with_home(file, "--config")
      # The shell leaves the ~ of --config=~/x.py to the program.
      argv = [arg.replace(f"config={file}", f"config={path}") for arg in argv]
      # A task beside its config can be imported by its name.
      sys.path.append(str(Path(path.split(":")[0]).parent.absolute()))
    rest = flags.FLAGS(argv)
    # The config file is loaded on the first access to a leaf.
    if "config" in flags.FLAGS:
      getattr(flags.FLAGS.config, "task", "")
    return rest
  except SystemExit:  # absl exits with 1 after --help.
    sys.exit(0)
  except KeyboardInterrupt:
    sys.exit(_fail("interrupted", _INTERRUPTED))
  except Exception as error:
    sys.exit(_fail(flag_errors.explain(error, argv), _WRONG_USE))


def _exit(status: int) -> NoReturn:
  """Ends this process."""
  if status == _INTERRUPTED:
    # JAX can crash at Python's own end after an interrupted compilation.
    processes.exit_at_once(status)
  sys.exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
  """Raises KeyboardInterrupt, but ends this process while it imports a module.

  Raised in an extension module, such as those of JAX and NumPy, it can crash
  the process, fail the import in another way, or be ignored.
  """
  for each, _ in traceback.walk_stack(frame):
    if "importlib._bootstrap" in each.f_code.co_filename:
      processes.exit_at_once(_INTERRUPTED, "error: interrupted\n")
  signal.default_int_handler(number, frame)


def _interrupt_again(unraisable: Any) -> None:
  """Repeats an interrupt that came where Python only prints errors.

  JAX adds such a place, a callback of the garbage collector, and it is often
  there that Python handles a Ctrl-C.
  """
  if not issubclass(unraisable.exc_type, KeyboardInterrupt):
    sys.__unraisablehook__(unraisable)
    return
  # Later, since the callback has to return first.
  interrupt = (os.getpid(), signal.SIGINT)
  threading.Timer(0.1, os.kill, interrupt).start()


def _with_home(path: str, flag: str) -> str:
  """Returns the path of a flag with the home directory in place of ~.

  Raises:
    UserError: there is no such home directory.
  """
  if not path.startswith("~"):
    return path
  try:
    return str(Path(path).expanduser())
  except RuntimeError as error:
    raise UserError(
      f"{flag}={path}: the home directory of {path.split('/')[0]} is unknown;"
      " give the whole path"
    ) from error


def _number_in_environment(name: str) -> int:
  value = os.environ.get(name, "")
  if not value.isdecimal():
    raise UserError(
      f"JAX_COORDINATOR_ADDRESS is set and {name} is {value!r}; set it to a"
      " number, or unset both to run a single process"
    )
  return int(value)


def _full_disk(error: Exception, reason: str) -> str:
  path = getattr(error, "filename", None)
  what = f"{path!r} can't be written" if path else "a file can't be written"
  return f"{what}: {reason}; free some space, or give another place"


def _fail(message: str, status: int) -> int:
  line = " ".join(message.split())
  print(f"error: {line}", file=sys.stderr)
  return status
