"""Checks of choices and ranges in configs and arguments."""

import math
from collections.abc import Iterable
from typing import Any

from perceiver_jax.errors import UserError


def check_choice(
  given: str, allowed: Iterable[str], kind: str, owner: str
) -> None:
  """Checks that `given` is one of the choices.

  Args:
    given: the choice made.
    allowed: the possible choices.
    kind: kind of choice, such as "split".
    owner: data set or config that the choice belongs to, such as "digits".

  Raises:
    UserError: `given` is none of them.
  """
  allowed = tuple(allowed)
  if given not in allowed:
    raise UserError(
      f"unknown {kind} {given!r} for {owner}; choose one of: "
      + ", ".join(allowed)
    )


def check_leaf(leaf: str, given: Any, is_valid: bool, allowed: str) -> None:
  """Checks a leaf of the config.

  Args:
    leaf: name of the leaf, without "config.".
    given: its value.
    is_valid: whether the value is allowed.
    allowed: description of the allowed values, such as "1 or more".

  Raises:
    UserError: the value is not allowed.
  """
  if not is_valid:
    raise UserError(f"config.{leaf} is {given}; give {allowed}")


def check_leaf_choice(leaf: str, given: str, allowed: Iterable[str]) -> None:
  """Checks that a leaf of the config is one of the choices.

  Raises:
    UserError: it is none of them.
  """
  allowed = tuple(allowed)
  if given not in allowed:
    raise UserError(
      f"config.{leaf} is {given!r}; choose one of " + ", ".join(allowed)
    )


def check_fractions(leaf: str, *given: float) -> None:
  """Checks that a leaf of the config has fractions of the run.

  Raises:
    UserError: a number is outside 0 to 1.
  """
  for fraction in given:
    if not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
      raise UserError(
        f"config.{leaf} has {fraction!r}; give fractions of the run, from 0 to"
        " 1"
      )


def check_not_negative(leaf: str, given: float) -> None:
  """Checks that a leaf of the config is 0 (off) or a finite positive number.

  Raises:
    UserError: it is negative or not finite.
  """
  check_leaf(
    leaf,
    given,
    0 <= given < math.inf,
    "0 to turn it off, or a positive number",
  )
