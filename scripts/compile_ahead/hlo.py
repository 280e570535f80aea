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

import numpy as np

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
_NO_WORK_CALL = re.compile(
  r'custom_call_target="(AllocateBuffer|ConcatBitcast)"'
)


class Operation(NamedTuple):
  """An instruction of the compiled program and how often it runs.

  Attributes:
    name: Its name in the module.
    opcode: Such as "fusion" or "all-reduce".
    scope: The JAX operation it comes from, with its Haiku modules. Copies that
      XLA adds to a loop have the scope of the loop.
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
  return list(_visit(entry, 1, "", computations))


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
  name: str, count: int, scope: str, computations: dict[str, list[str]]
) -> Iterator[Operation]:
  types: dict[str, str] = {}
  for line in computations[name]:
    match = _INSTRUCTION.match(line)
    if match is None:
      continue
    types[match["name"]] = match["type"]
    if match["opcode"] in _NO_WORK or _NO_WORK_CALL.search(match["rest"]):
      continue
    named = re.search(r'op_name="([^"]*)"', match["rest"])
    own_scope = named[1] if named else scope
    if match["opcode"] in ("while", "call", "conditional"):
      times = 1
      if match["opcode"] == "while":
        condition = re.search(r"condition=%([\w.\-]+)", line)[1]
        times = _trip_count(computations[condition]) or 1
      for inner in _called(match["rest"]):
        yield from _visit(inner, count * times, own_scope, computations)
    else:
      yield _operation(match, count, own_scope, types, computations)


def _called(rest: str) -> list[str]:
  names = re.findall(r"(?:body|to_apply)=%([\w.\-]+)", rest)
  for branches in re.findall(r"branch_computations=\{([^}]*)\}", rest):
    names += re.findall(r"%([\w.\-]+)", branches)
  return names


def _operation(match, count, scope, types, computations) -> Operation:
  rest = match["rest"]
  cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
  flops = _product_flops(match, types)
  inner = re.search(r"calls=%([\w.\-]+)", rest)
  body = computations[inner[1]] if inner else []
  if inner:
    flops += _computation_flops(inner[1], computations)
  return Operation(
    match["name"],
    match["opcode"],
    scope,
    int(cycles[1]) if cycles else 0,
    flops,
    _hbm_bytes(match, types, body),
    count,
  )


def _hbm_bytes(match: re.Match, types: dict[str, str], body: list[str]) -> int:
  """Counts the bytes of operands and results in main memory.

  A fusion that slices an operand reads only the slice, and one that updates a
  slice writes only that, in place.

  Args:
    match: The instruction.
    types: Types of the values before it.
    body: Instructions of its fused computation, if it is a fusion.
  """
  if match["opcode"].endswith("-done"):
    return 0  # Counted where it started.
  if match["opcode"] == "copy-start":  # Its type names both ends.
    return _num_bytes(match["type"], hbm_only=True)
  if match["opcode"] == "slice-start":  # Its type names the whole operand.
    return _num_bytes(match["type"].split(")}), ")[1])
  operands = [types.get(name, "") for name in _names(match["operands"])]
  sizes = [_num_bytes(each, hbm_only=True) for each in operands]
  result = _num_bytes(match["type"], hbm_only=True)
  inner = [m for line in body if (m := _INSTRUCTION.match(line))]
  inner_types = {m["name"]: m["type"] for m in inner}
  sources: dict[str, int] = {}  # Number of the parameter behind a name.
  slices: dict[int, list[int]] = collections.defaultdict(list)
  for m in inner:
    if m["opcode"] == "parameter":
      sources[m["name"]] = int(m["operands"])
      continue
    for position, name in enumerate(_names(m["operands"])):
      source = sources.get(name)
      if source is None:
        continue
      if m["opcode"] == "bitcast":
        sources[m["name"]] = source
      elif position == 0 and m["opcode"] == "dynamic-slice":
        slices[source].append(_num_bytes(m["type"]))
      elif position == 0 and m["opcode"] == "dynamic-update-slice":
        update = inner_types[_names(m["operands"])[1]]
        slices[source].append(0)
        result -= sizes[source] - _num_bytes(update)
      else:  # Read as a whole.
        slices[source].append(sizes[source])
  for source, parts in slices.items():
    sizes[source] = min(sizes[source], sum(parts))
  return max(result, 0) + sum(sizes)


def _names(operands: str) -> list[str]:
  return re.findall(r"%([\w.\-]+)", operands)


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
  """Counts a convolution, which is how a TPU computes all products.

  The batch dimensions of a batched product are spatial ones, dilated so that
  each output position meets one input position; only products of real inputs
  count.
  """
  if match["opcode"] != "convolution":
    return 0
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", match["rest"])
  lhs, kernel, out = labels.groups()
  names = _names(match["operands"])
  sizes = [
    dict(zip(dims, _sizes(array), strict=True))
    for dims, array in (
      (lhs, types[names[0]]),
      (kernel, types[names[1]]),
      (out, match["type"]),
    )
  ]
  products = sizes[2]["b"] * sizes[2]["f"] * sizes[1]["i"]
  spatial = sorted(label for label in kernel if label.isdigit())
  for position, label in enumerate(spatial):
    window = _window(match["rest"], position)
    products *= _num_products(*(each[label] for each in sizes), **window)
  return 2 * products


def _window(rest: str, position: int) -> dict[str, int]:
  """Returns the fields of a convolution's window in one dimension."""
  window = re.search(r"window=\{([^}]*)\}", rest)
  fields = dict(f.split("=") for f in window[1].split()) if window else {}

  def field(name: str, default: str) -> int:
    values = fields[name].split("x") if name in fields else [default]
    # Padding is "low_high"; only the low one moves the window.
    return int(values[position % len(values)].split("_")[0])

  return {
    "stride": field("stride", "1"),
    "padding": field("pad", "0"),
    "lhs_dilation": field("lhs_dilate", "1"),
    "rhs_dilation": field("rhs_dilate", "1"),
  }


def _num_products(
  num_inputs: int,
  size: int,
  num_outputs: int,
  stride: int,
  padding: int,
  lhs_dilation: int,
  rhs_dilation: int,
) -> int:
  """Counts the pairs of outputs and window elements that meet an input."""
  # Output o and element e meet at o * stride - offset, where there is an input
  # if that is a multiple of the dilation: for one o in every `period`.
  offset = padding - np.arange(size) * rhs_dilation
  divisor = math.gcd(stride, lhs_dilation)
  offset = offset[offset % divisor == 0]
  period = lhs_dilation // divisor
  first = offset // divisor * pow(stride // divisor, -1, period) % period
  least = np.maximum(-(-offset // stride), 0)
  most = (offset + num_inputs * lhs_dilation - 1) // stride
  most = np.minimum(most, num_outputs - 1)
  counts = (most - first) // period - (least - 1 - first) // period
  return int(np.maximum(counts, 0).sum())


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
