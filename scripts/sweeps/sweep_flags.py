"""Defines the flags that several programs on sweeps have."""

from absl import flags

# The flags then belong to the program and are listed by its --help.
flags.disclaim_key_flags()


def define_config() -> flags.FlagHolder[str | None]:
  """Defines --config as the name of a file, which is loaded for each run."""
  return flags.DEFINE_string(
    "config",
    None,
    "Config file with its variant, configs/NAME.py:VARIANT. Set leaves of all"
    " runs after --, as in `-- --config.LEAF=VALUE`.",
  )


def define_sweep() -> flags.FlagHolder[list[str]]:
  """Defines --sweep, the names of sweeps in the config file."""
  return flags.DEFINE_list(
    "sweep",
    [],
    "NAMEs of sweep_NAME()s in the config file, separated by commas, which are"
    " multiplied.",
  )


def define_parallel() -> flags.FlagHolder[int]:
  """Defines --parallel, the number of runs at the same time."""
  return flags.DEFINE_integer(
    "parallel",
    1,
    "Runs of a sweep at the same time, which share this machine's GPUs and"
    " cores.",
    1,
  )
