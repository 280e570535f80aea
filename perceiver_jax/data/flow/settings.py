"""Makes settings from the leaves of a section of a config."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from perceiver_jax.checks import check_leaf
from perceiver_jax.errors import UserError


def make(kind: type, section: str, leaves: Mapping[str, Any]) -> Any:
  """Makes settings, which are finite numbers or pairs of them.

  Args:
    kind: a `NamedTuple`. Its defaults tell which settings are pairs and which
      are whole numbers; names that end in "share" are those of shares.
    section: name of the section, without "config.".
    leaves: values of some of the settings.

  Raises:
    UserError: a leaf is unknown, or is no such number.
  """
  unknown = sorted(set(leaves) - set(kind._fields))
  if unknown:
    raise UserError(
      f"config.{section} has no {', '.join(unknown)}; choose from"
      f" {', '.join(kind._fields)}"
    )
  made = kind(**leaves)
  for name, default in kind._field_defaults.items():
    value = getattr(made, name)
    if name.endswith("share"):
      allowed = "a share from 0 to 1"
      is_valid = _are_numbers(value, default) and 0 <= value <= 1
    else:
      allowed = f"finite numbers as in {default}"
      is_valid = _are_numbers(value, default)
    check_leaf(f"{section}.{name}", value, is_valid, allowed)
  return made


def _are_numbers(value: Any, default: Any) -> bool:
  """Returns whether a value is a finite number, or a pair, like the default."""
  if isinstance(default, tuple):
    return (
      isinstance(value, (tuple, list))
      and len(value) == len(default)
      and all(map(_are_numbers, value, default))
    )
  kind = numbers.Integral if isinstance(default, int) else numbers.Real
  return isinstance(value, kind) and math.isfinite(value)
