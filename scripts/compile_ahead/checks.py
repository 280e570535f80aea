"""Checks of a compiled step: what would make it slow or large on a pod."""

import collections
import re
from collections.abc import Collection, Mapping
from typing import Any

from scripts.compile_ahead import hlo

_TRANSFERS = ("infeed", "outfeed", "send", "recv")
# Custom calls that move data to the host or call it.
_HOST_CALL = re.compile(
  r'custom_call_target="([^"]*(?:[Hh]ost|callback)[^"]*)"'
)
_HOST_MEMORY = re.compile(r"\{[^{}]*S\(5\)[^{}]*\}")
_DYNAMIC = re.compile(r"\[(?:\d+,)*<=\d|dynamic-reshape\(|PadToStatic")


def count(text: str, collectives: Collection[str]) -> dict[str, int]:
  """Counts what a step should not have.

  Args:
    text: The compiled module.
    collectives: Kinds of collectives that are expected, such as "all-reduce".

  Returns:
    Numbers of transfers to or from the host, of values in float64, of other
    collectives, and of dynamic shapes.
  """
  opcodes = collections.Counter(
    each.opcode.removesuffix("-start") for each in hlo.operations(text)
  )
  transfers = sum(opcodes[name] for name in _TRANSFERS)
  others = [name for name in hlo.COLLECTIVES if name not in collectives]
  return {
    "host transfer": transfers
    + len(_HOST_CALL.findall(text))
    + len(_HOST_MEMORY.findall(text)),
    "float64": len(re.findall(r"\b(?:f64|c128)\[", text)),
    "unexpected collective": sum(opcodes[name] for name in others),
    "dynamic shape": len(_DYNAMIC.findall(text)),
  }


def num_donated(text: str) -> int:
  """Returns the number of arguments whose memory the results reuse."""
  header = text.partition("\n")[0]
  return len(re.findall(r"(?:may|must)-alias\)", header))


def num_to_donate(text: str, num_state: int, num_batch: int) -> int:
  """Returns how many arguments have to be donated at least.

  JAX drops arguments that a program does not read: a state's averages of batch
  norms, which the step computes anew from its sums, or indices of examples.

  Args:
    text: The compiled module.
    num_state: Number of arrays of the state.
    num_batch: Number of arrays of the batch.
  """
  entry = text.partition("\nENTRY ")[2].partition("\n}")[0]
  num_arguments = len(re.findall(r" parameter\(\d+\)", entry))
  return min(num_state, num_arguments - num_batch)


def wrong(checked: Mapping[str, Any]) -> str:
  """Describes what is wrong with a program; "" if nothing is.

  Args:
    checked: Results of `count` ("counts") and `num_donated` ("donated"), and
      the number of arguments that should be donated ("expected"); 0 for a
      program that keeps its arguments.
  """
  counts, donated = checked["counts"], checked["donated"]
  found = [f"{number} x {name}" for name, number in counts.items() if number]
  missing, expected = checked["expected"] - donated, checked["expected"]
  if missing > 0:
    found.append(f"{missing} of {expected} state arrays not donated")
  return ", ".join(found)


def line(checked: Mapping[str, Any]) -> str:
  """Formats the checks for a terminal; see `wrong`."""
  if found := wrong(checked):
    return f"WRONG: {found}"
  donated = checked["donated"]
  state = f"{donated} state arrays donated, " if checked["expected"] else ""
  return f"{state}no {', no '.join(checked['counts'])}"
