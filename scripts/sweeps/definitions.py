"""The sweeps that a config file defines, and their products."""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments import flag_errors
from perceiver_jax.errors import UserError
from scripts.sweeps import hyper

_PREFIX = "sweep_"
_SEARCH = "search_"


def load(config: str, names: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the points of sweeps, multiplied: values by leaf.

  Args:
    config: Value of --config: a file, with or without a variant.
    names: NAMEs of the file's generators `sweep_NAME`; "sweep" is `sweep()`,
      and "hyper" is `get_hyper(h)`. The last one varies fastest.

  Raises:
    UserError: There is no such file or sweep, it has no points, or two sweeps
      set the same leaf.
  """
  module = _import(config)
  known = _sweeps(module)
  if not known:
    raise UserError(
      f"{module.__file__} defines no sweep; add a generator sweep_NAME() of"
      ' points, such as {"optimizer.learning_rate": 1e-3}'
    )
  sweeps = []
  for name in names:
    if name not in known:
      raise UserError(
        f"--sweep={','.join(names)}: {flag_errors.closest(name, known)}"
        f"{module.__file__} has {', '.join(sorted(known))}"
      )
    points = [read_point(point) for point in known[name]()]
    if not points:
      raise UserError(f"sweep_{name}() of {module.__file__} yields no point")
    sweeps.append(points)
  return hyper.product(sweeps)


def read_point(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a point whose lists are tuples, as they are in configs."""
  return {leaf: _with_tuples(value) for leaf, value in leaves.items()}


def load_search(config: str, name: str) -> Callable[[Any], Mapping[str, Any]]:
  """Returns the function `search_NAME(trial)` of a config file.

  Raises:
    UserError: There is no such file or function.
  """
  module = _import(config)
  known = {
    key.removeprefix(_SEARCH): value
    for key, value in vars(module).items()
    if key.startswith(_SEARCH)
  }
  if name not in known:
    raise UserError(
      f"--sweep={name} with --search: {flag_errors.closest(name, known)}"
      f"{module.__file__} has {', '.join(sorted(known)) or 'no search'}; add"
      f" a function search_{name or 'NAME'}(trial) that returns a point"
    )
  return known[name]


def _with_tuples(value: Any) -> Any:
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _sweeps(module: ModuleType) -> dict[str, Callable[[], Iterable[Any]]]:
  """Returns the generators of a config file by name."""
  found = {
    name.removeprefix(_PREFIX): value
    for name, value in vars(module).items()
    if name.startswith(_PREFIX)
  }
  if hasattr(module, "sweep"):
    found["sweep"] = module.sweep
  if hasattr(module, "get_hyper"):
    found["hyper"] = lambda: module.get_hyper(hyper)
  return found


def _import(config: str) -> ModuleType:
  """Imports a config file.

  Raises:
    UserError: There is none, or it can't be imported.
  """
  path = config.split(":")[0]
  if not Path(path).is_file():
    raise UserError(
      f"--config={config}: there is no file {path!r}; {flag_errors.choices()}"
    )
  spec = importlib.util.spec_from_file_location("sweep_config", path)
  if spec is None or spec.loader is None:
    raise UserError(f"--config={path} is no Python file; name one")
  module = importlib.util.module_from_spec(spec)
  module.__file__ = path  # As it was given, for messages.
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UserError(
      f"--config={path} can't be loaded: {type(error).__name__}: {error}"
    ) from error
  return module
