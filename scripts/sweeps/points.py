"""The runs of a sweep: their names and flags."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags as absl_flags
from ml_collections import config_flags

from experiments import flag_errors, launch
from perceiver_jax.errors import UserError
from scripts.sweeps import definitions

# Characters that make folders hard to use in a shell or are not allowed.
_IN_FOLDERS = str.maketrans({"/": "-", " ": "", "(": "", ")": "", "'": ""})


class Run(NamedTuple):
  """A run of a sweep.

  Attributes:
    name: Name of the run's workdir, from the leaves that differ.
    point: Leaves and values of the point.
    flags: Flags of `experiments.train`, without --workdir.
  """

  name: str
  point: Mapping[str, Any]
  flags: Sequence[str]


def runs(
  config: str, sweeps: Sequence[str], others: Sequence[str]
) -> list[Run]:
  """Returns the runs of a product of sweeps, whose flags are checked.

  Args:
    config: Value of --config: a file, with or without a variant.
    sweeps: Names of the file's sweeps; see `definitions.load`.
    others: Further flags of all runs.

  Raises:
    UserError: There is no such sweep, or a flag is wrong.
  """
  result = []
  for name, point in by_name(definitions.load(config, sweeps)).items():
    result.append(Run(name, point, [*flags(config, point), *others]))
    check_flags(result[-1].flags)
  return result


def check_flags(flags_of_run: Sequence[str]) -> ml_collections.ConfigDict:
  """Parses the flags of a run as `experiments.train` will.

  Returns:
    The config.

  Raises:
    UserError: An unknown variant or leaf, a value of another type, or a word
      that is no flag.
  """
  argv, values = ["train", *flags_of_run], absl_flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  absl_flags.DEFINE_integer("num_devices", 0, "", 0, flag_values=values)
  try:
    launch.no_arguments(values(argv))
    # The file is loaded on the first access to a leaf.
    getattr(values.config, "task", "")
    return values.config
  except Exception as error:
    raise UserError(flag_errors.explain(error, argv)) from error


def primary_metric(config: ml_collections.ConfigDict) -> tuple[str, str]:
  """Returns the metric that selects the best run, and "max" or "min"."""
  # Imports JAX, which takes seconds.
  from perceiver_jax.tasks import registry

  task = registry.task_class(str(config.task))
  return task.primary_metric, task.primary_mode


def flags(config: str, point: Mapping[str, Any]) -> list[str]:
  """Returns the flags of `experiments.train` for a point.

  Args:
    config: Value of --config: a file, with or without a variant.
    point: Values by leaf. Its `variant`, if it has one, takes the place of that
      of `config`; `smoke` remains.
  """
  file, _, variant = config.partition(":")
  leaves = dict(point)
  if "variant" in leaves:
    smoke = ["smoke"] if "smoke" in variant.split(",") else []
    config = f"{file}:{','.join([leaves.pop('variant'), *smoke])}"
  overrides = [f"--config.{leaf}={value}" for leaf, value in leaves.items()]
  return [f"--config={config}", *overrides]


def by_name(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Names points by their values of the leaves that differ between points.

  Leaves are named by their last parts, such as "num_latents=64", or in full
  if these are not unique.

  Raises:
    UserError: Two points are the same.
  """
  labels = leaf_labels(points)
  named: dict[str, dict[str, Any]] = {}
  for point in points:
    parts = [
      f"{label}={format_value(point[leaf])}"
      for leaf, label in labels.items()
      if leaf in point
    ]
    name = ",".join(parts).translate(_IN_FOLDERS) or "default"
    if name in named:
      raise UserError(f"the sweep has the point {name} twice; remove one")
    named[name] = dict(point)
  return named


def leaf_labels(points: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Returns short labels of the leaves that differ between points."""
  leaves = list(dict.fromkeys(leaf for point in points for leaf in point))
  missing = object()
  values = {
    leaf: [point.get(leaf, missing) for point in points] for leaf in leaves
  }
  varying = [x for x in leaves if any(v != values[x][0] for v in values[x])]
  last = [leaf.rpartition(".")[2] for leaf in varying or leaves]
  return {
    leaf: leaf if last.count(short) > 1 else short
    for leaf, short in zip(varying or leaves, last, strict=True)
  }


def format_value(value: Any) -> str:
  """Formats a value for names and tables; a tuple as 224x224."""
  if isinstance(value, tuple):
    return "x".join(map(format_value, value))
  return str(value)
