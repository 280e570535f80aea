"""Reads costs out of the text of a module that XLA compiled for TPUs.

XLA writes its own estimate of the cycles of every fusion into the text. A loop
is counted as often as its condition says. Asynchronous copies and collectives
have no estimate, so the sum is a lower bound. All of this is a model of the
compiler, not a measurement.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_COMPUTATION = re.compile(r"(?:ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) "
  r"(?P<opcode>[\w\-]+)\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")
_BITS = {"pred": 8, "bf16": 16}  # Other types end with their number of bits.
# Instructions that only name or group values.
_NO_WORK = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant")


class Operation(NamedTuple):
  """An instruction of the compiled program and how often it runs.

  Attributes:
    name: Its name in the module.
    opcode: Such as "fusion" or "all-reduce".
    scope: The JAX operation it comes from, with its Haiku modules.
    cycles: XLA's estimate of one execution; 0 if it has none.
    flops: Operations of the products in one execution.
    hbm_bytes: Bytes of one execution's operands and results in main memory.
    count: Number of executions in a step.
  """

  name: str
  opcode: str
  scope: str
  cycles: int
  flops: int
  hbm_bytes: int
  count: int


def operations(text: str) -> list[Operation]:
  """Returns the operations of a compiled module, those of loops included."""
  computations, entry = _computations(text)
  return list(_visit(entry, 1, computations))


def has_open_loops(text: str) -> bool:
  """Returns whether a loop's number of iterations depends on data."""
  computations, _ = _computations(text)
  conditions = re.findall(r" while\(.*condition=%([\w.\-]+)", text)
  return any(_trip_count(computations[name]) is None for name in conditions)


def collective_bytes(program: list[Operation], text: str) -> dict[str, int]:
  """Returns the bytes that each kind of collective moves in a step."""
  sizes = {
    match["name"]: _num_bytes(match["type"])
    for line in text.splitlines()
    if (match := _INSTRUCTION.match(line))
  }
  totals: collections.Counter[str] = collections.Counter()
  for each in program:
    kind = each.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      totals[kind] += sizes[each.name] * each.count
  return dict(totals)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the instructions of each computation, and the entry's name."""
  computations: dict[str, list[str]] = {}
  lines: list[str] | None = None
  entry = ""
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      lines = computations[match[1]] = []
      entry = match[1] if line.startswith("ENTRY") else entry
    elif line.startswith("}"):
      lines = None
    elif lines is not None:
      lines.append(line)
  if not entry:
    raise ValueError("the text has no entry computation: is it an HLO module?")
  return computations, entry


def _visit(
  name: str, count: int, computations: dict[str, list[str]]
) -> Iterator[Operation]:
  types: dict[str, str] = {}
  for line in computations[name]:
    match = _INSTRUCTION.match(line)
    if match is None:
      continue
    types[match["name"]] = match["type"]
    if match["opcode"] in _NO_WORK:
      continue
    if match["opcode"] in ("while", "call", "conditional"):
      times = 1
      if match["opcode"] == "while":
        condition = re.search(r"condition=%([\w.\-]+)", line)[1]
        times = _trip_count(computations[condition]) or 1
      for inner in _called(match["rest"]):
        yield from _visit(inner, count * times, computations)
    else:
      yield _operation(match, count, types, computations)


def _called(rest: str) -> list[str]:
  names = re.findall(r"(?:body|to_apply)=%([\w.\-]+)", rest)
  for branches in re.findall(r"branch_computations=\{([^}]*)\}", rest):
    names += re.findall(r"%([\w.\-]+)", branches)
  return names


def _operation(match, count, types, computations) -> Operation:
  rest = match["rest"]
  cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
  scope = re.search(r'op_name="([^"]*)"', rest)
  operands = re.findall(r"%([\w.\-]+)", match["operands"])
  flops = _product_flops(match, types)
  if inner := re.search(r"calls=%([\w.\-]+)", rest):
    flops += _computation_flops(inner[1], computations)
  return Operation(
    match["name"],
    match["opcode"],
    scope[1] if scope else "",
    int(cycles[1]) if cycles else 0,
    flops,
    sum(_num_bytes(t, hbm_only=True) for t in (
      match["type"], *(types.get(operand, "") for operand in operands)
    )),
    count,
  )  # fmt: skip


def _computation_flops(name: str, computations: dict[str, list[str]]) -> int:
  types: dict[str, str] = {}
  total = 0
  for line in computations[name]:
    if match := _INSTRUCTION.match(line):
      types[match["name"]] = match["type"]
      total += _product_flops(match, types)
      if inner := re.search(r"calls=%([\w.\-]+)", match["rest"]):
        total += _computation_flops(inner[1], computations)
  return total


def _product_flops(match: re.Match, types: dict[str, str]) -> int:
  """Counts a convolution, which is how a TPU computes all products."""
  if match["opcode"] != "convolution":
    return 0
  labels = re.search(r"dim_labels=\w+_(\w+)->", match["rest"])[1]
  kernel = re.findall(r"%([\w.\-]+)", match["operands"])[1]
  sizes = _sizes(types[kernel])
  contracted = math.prod(
    size for label, size in zip(labels, sizes, strict=True) if label != "o"
  )
  return 2 * math.prod(_sizes(match["type"])) * contracted


def _trip_count(condition: list[str]) -> int | None:
  """Returns the constant that a loop counter is compared with, if any."""
  for line in condition:
    if match := re.search(r"= s32\[\]\S* constant\((\d+)\)", line):
      return int(match[1])
  return None


def _sizes(array: str) -> tuple[int, ...]:
  dims = _ARRAY.search(array)[2]
  return tuple(int(size) for size in dims.split(",") if size)


def _num_bytes(types: str, hbm_only: bool = False) -> int:
  total = 0
  for dtype, dims, layout in _ARRAY.findall(types):
    if hbm_only and "S(1)" in layout:  # In vector memory.
      continue
    digits = re.search(r"\d+$", dtype)
    bits = _BITS.get(dtype) or (int(digits[0]) if digits else 32)
    total += bits * math.prod(int(n) for n in dims.split(",") if n) // 8
  return total
