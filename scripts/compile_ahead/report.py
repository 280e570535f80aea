"""The figures of a compiled program, and their table."""

import collections
import re
from typing import Any

from perceiver_jax.training.logs.run_summary import human
from scripts.compile_ahead import checks, hlo
from scripts.compile_ahead.chips import Chip
from scripts.compile_ahead.program import Compiled, Lowered

_NUM_COSTLIEST = 10
# Parts of less than this share of the time and of both bounds share a line.
_MIN_SHARE = 0.005
# Names in a scope that are no Haiku modules.
_NO_MODULES = (
  "while", "body", "closed_call", "checkpoint", "rematted_computation",
  "shard_map", "_fun", "",
)  # fmt: skip
_PROJECTIONS = ("query", "key", "value", "output", "keys_values")


def figures(
  lowered: Lowered, compiled: Compiled, chip: Chip, num_devices: int
) -> dict[str, Any]:
  """Returns the figures of a program, JSON-able.

  Times are those of one device, in seconds. There are none where the compiler
  estimates no cycles, as XLA does for GPUs.
  """
  result: dict[str, Any] = {
    "compile_seconds": round(compiled.seconds, 1),
    "compile_cpu_seconds": round(compiled.cpu_seconds, 1),
    "num_parameters": lowered.num_parameters,
    "attention": lowered.attention,
    "hbm_bytes": int(chip.hbm_bytes),
    "peak_flops": chip.flops,
    "hbm_bandwidth": chip.bandwidth,
    "exceeds_by": compiled.exceeds_by,
    "memory": compiled.memory,
  }
  if not compiled.text:
    return result
  program = hlo.operations(compiled.text)
  seconds = sum(x.cycles * x.count for x in program) / chip.clock
  opcodes = collections.Counter()
  for each in program:
    opcodes[each.opcode] += 1
  costliest = sorted(program, key=lambda x: -x.cycles * x.count)
  result |= {
    "checks": {
      "counts": checks.count(compiled.text, lowered.collectives),
      "donated": checks.num_donated(compiled.text),
      "expected": checks.num_to_donate(
        compiled.text, lowered.num_donated, lowered.num_batch
      ),
    },
    "operations": dict(opcodes.most_common()),
    "collective_bytes": hlo.collective_bytes(program, compiled.text),
  }
  if not seconds:
    return result
  if lowered.train_flops:
    ideal = lowered.train_flops / num_devices / chip.flops
    result["estimated_mfu"] = ideal / seconds
  return result | {
    "estimated_seconds": seconds,
    "has_open_loops": hlo.has_open_loops(compiled.text),
    "parts": parts(program, chip),
    "costliest": [
      {
        "name": x.name,
        "scope": x.scope,
        "seconds": x.cycles * x.count / chip.clock,
        "count": x.count,
      }
      for x in costliest[:_NUM_COSTLIEST]
    ],
  }


def text(result: dict[str, Any]) -> str:
  """Formats the figures for a terminal."""
  lines = [
    f"  compiled in   {result['compile_seconds']:.1f} s"
    f" ({result['compile_cpu_seconds']:.1f} s of processor time)"
  ]
  lines += [f"  attention     {', '.join(result['attention'])}"]
  hbm = human(result["hbm_bytes"], "B")
  if result["exceeds_by"]:
    missing = human(result["exceeds_by"], "B")
    return "\n".join([
      *lines,
      f"  memory        does not fit: {missing} more than the {hbm} there is;"
      " raise config.num_microbatches (--fit tries), set"
      " config.execution.remat=full for training, or lower config.batch_size",
    ])  # fmt: skip
  memory = result["memory"]
  inner = ", ".join(f"{human(n, 'B')} {name}" for name, n in memory.items())
  total = human(sum(memory.values()), "B")
  lines.append(f"  memory        {total} of {hbm} a device ({inner})")
  lines.append(f"  checks        {checks.line(result['checks'])}")
  bytes_moved = result["collective_bytes"].items()
  collectives = ", ".join(f"{name} {human(n, 'B')}" for name, n in bytes_moved)
  lines.append(f"  collectives   {collectives or 'none'}")
  counts = ", ".join(
    f"{n} {name}" for name, n in list(result["operations"].items())[:8]
  )
  operations = f"  operations    {counts}"
  if "estimated_seconds" not in result:
    lines.append(
      "  estimated     no time: the compiler estimates none for this device"
    )
    return "\n".join([*lines, operations])
  mfu = ""
  if "estimated_mfu" in result:
    mfu = f", MFU {result['estimated_mfu']:.1%}"
  lines.append(
    f"  estimated     {1e3 * result['estimated_seconds']:.1f} ms{mfu} (a model"
    " of the compiler, not a measurement)"
  )
  if result["has_open_loops"]:
    lines.append("                loops that depend on data count once")
  lines += [
    f"  bounds        products at {human(result['peak_flops'], 'FLOP/s')},"
    f" memory at {human(result['hbm_bandwidth'], 'B/s')}",
    "",
    f"  {'part':<44}{'ms':>9}{'products':>10}{'memory':>9}  bound",
  ]
  for name, part in _without_small(result["parts"]).items():
    products, memory_time = part["flops_seconds"], part["hbm_seconds"]
    bound = "compute" if products > memory_time else "memory"
    if max(products, memory_time) < _MIN_SHARE * part["seconds"]:
      bound = "neither"
    lines.append(
      f"  {name:<44}{1e3 * part['seconds']:>9.2f}{1e3 * products:>10.2f}"
      f"{1e3 * memory_time:>9.2f}  {bound}"
    )
  lines += ["", "  costliest operations"]
  lines += [
    f"  {1e3 * x['seconds']:>9.2f} ms  {x['count']:>4} x {x['name']}"
    f"  {_short(x['scope'])}"
    for x in result["costliest"]
  ]
  return "\n".join([*lines, "", operations])


def parts(program: list[hlo.Operation], chip: Chip) -> dict[str, Any]:
  """Sums estimated time, and the least time of products and memory, by part."""
  sums: dict[str, dict[str, float]] = {}
  for each in program:
    part = sums.setdefault(
      part_of(each.scope),
      {"seconds": 0.0, "flops_seconds": 0.0, "hbm_seconds": 0.0},
    )
    part["seconds"] += each.cycles * each.count / chip.clock
    part["flops_seconds"] += each.flops * each.count / chip.flops
    part["hbm_seconds"] += each.hbm_bytes * each.count / chip.bandwidth
  return dict(sorted(sums.items(), key=lambda item: -item[1]["seconds"]))


def part_of(scope: str) -> str:
  """Returns the part of the model, and the pass, of an operation.

  A part is a module of the encoder, decoder or adapter, with "attention",
  "projections", "mlp" or "norms" for what it consists of. "scan" is what moves
  in and out of the stacked arrays of a loop over layers.
  """
  backward = "transpose(" in scope
  path = _path(scope)
  if not path:
    return "copies without a name"
  if "perceiver" not in path:
    return "optimizer and metrics"
  modules = path[path.index("perceiver") + 1 :]
  part = [*modules[:2], _kind(modules[2:], "while" in scope)]
  return "/".join(filter(None, part)) + (" (backward)" if backward else "")


def _kind(path: list[str], in_loop: bool) -> str:
  """Returns what an operation of a module does; "" if that is not known."""
  if any(name.startswith("dot_product_attention") for name in path):
    return "attention"
  if "mlp" in path:
    return "mlp"
  if any(name.endswith("norm") for name in path):
    return "norms"
  if any(name in _PROJECTIONS for name in path):
    return "projections"
  if in_loop and not any(name.endswith("_attend") for name in path):
    return "scan"
  return ""


def _without_small(
  parts: dict[str, dict[str, float]],
) -> dict[str, dict[str, float]]:
  """Returns the parts, with one for the sum of all small ones."""
  names = ("seconds", "flops_seconds", "hbm_seconds")
  totals = {name: sum(x[name] for x in parts.values()) for name in names}
  result, small = {}, dict.fromkeys(names, 0.0)
  for part, values in parts.items():
    if any(values[name] > _MIN_SHARE * totals[name] for name in names):
      result[part] = values
    else:
      small = {name: small[name] + values[name] for name in names}
  return result | {"smaller parts": small}


def _path(scope: str) -> list[str]:
  """Returns the Haiku modules and the JAX operation of a scope."""
  names = re.sub(r"\w+\(|\)", "", scope).split("/")
  return [name for name in names if name not in _NO_MODULES]


def _short(scope: str) -> str:
  return "/".join(_path(scope))[-70:]
