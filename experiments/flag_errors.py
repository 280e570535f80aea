"""One-line explanations of errors on the command line."""

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

import configs
from perceiver_jax.errors import UserError

_LEAF = re.compile(r"--?(?:no)?config\.([^=]+)")
_FILE = re.compile(r"--?config(?:=(.*))?$")


def explain(error: Exception, argv: Sequence[str]) -> str:
  """Returns one line on why the flags could not be parsed.

  Args:
    error: error from parsing the flags.
    argv: the command line.
  """
  causes = list(_causes(error))
  user_errors = [str(e) for e in causes if isinstance(e, UserError)]
  if user_errors:
    return user_errors[-1]
  file = config_file(argv)
  if file is None and any(map(_LEAF.match, argv)):
    return "--config.LEAF is given without --config; give --config=FILE first"
  path = (file or "").split(":")[0]
  if file is not None and not Path(path).is_file():
    return f"--config={file}: there is no file {path!r}; {choices()}"
  if isinstance(error, flags.Error) and "Traceback" not in str(error):
    return f"{error}; --help lists the flags"
  if isinstance(error, LookupError | AttributeError) and (
    unknown := _unknown_leaf(file, argv)
  ):
    return unknown
  return f"--config={file} can't be loaded: {_with_location(causes[-1])}"


def config_file(argv: Sequence[str]) -> str | None:
  """Returns the value of --config with its variant; None if missing."""
  for argument, following in zip(argv, [*argv[1:], ""], strict=True):
    if match := _FILE.match(argument):
      return following if match[1] is None else match[1]
  return None


def choices() -> str:
  """Lists the configs to choose from, as the end of an error message."""
  folder = Path(configs.__file__).parent
  names = sorted(
    f"configs/{path.name}"
    for path in folder.glob("*.py")
    if "def get_config" in path.read_text(encoding="utf-8")
  )
  return f"give one of {', '.join(names)}, or a file of your own"


def closest(name: str, known: Iterable[str]) -> str:
  """Asks for the known name that is most like `name`; "" if none is."""
  close = difflib.get_close_matches(name, list(known), 1)
  return f"did you mean {close[0]!r}? " if close else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
  """Yields the error, its cause, and so on."""
  cause: BaseException | None = error
  while cause is not None:
    yield cause
    cause = cause.__cause__ or cause.__context__


def _unknown_leaf(file: str | None, argv: Sequence[str]) -> str:
  """Explains the first --config.LEAF that does not exist, or returns ""."""
  try:
    config = config_flags.config_flags.ConfigFileFlagParser("c").parse(file)
  except (LookupError, AttributeError):
    return ""  # The config file itself raises an error.
  for leaf in (match[1] for match in map(_LEAF.match, argv) if match):
    section: Any = config
    for depth, name in enumerate(leaf.split(".")):
      known = sorted(section.keys()) if hasattr(section, "keys") else []
      if name not in known:
        return _no_leaf(leaf, depth, name, known)
      section = section[name]
  return ""


def _no_leaf(leaf: str, depth: int, name: str, known: Sequence[str]) -> str:
  where = ".".join(["config", *leaf.split(".")[:depth]])
  hint = closest(name, known)
  names = ", ".join(known) or "nothing"
  return f"--config.{leaf}: no {name!r} in {where}; {hint}it has {names}"


def _with_location(error: BaseException) -> str:
  frames = traceback.extract_tb(error.__traceback__)[-1:]
  # The message of a SyntaxError already includes the location.
  if isinstance(error, SyntaxError):
    frames = []
  where = f" ({frames[0].filename}, line {frames[0].lineno})" if frames else ""
  return f"{type(error).__name__}: {error}{where}"
