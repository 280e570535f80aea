"""The figures of a compiled program, and their table."""

import collections
import re
from typing import Any

from perceiver_jax.training.logs.run_summary import human
from scripts.compile_ahead import checks, hlo
from scripts.compile_ahead.chips import Chip
from scripts.compile_ahead.program import Compiled, Lowered

_NUM_COSTLIEST = 10


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
      " set config.num_microbatches (or --fit) or config.execution.remat=full"
      " for training, or a smaller config.batch_size",
    ])  # fmt: skip
  memory = result["memory"]
  inner = ", ".join(f"{human(n, 'B')} {name}" for name, n in memory.items())
  total = human(sum(memory.values()), "B")
  lines.append(f"  memory        {total} of {hbm} a device ({inner})")
  checked = result["checks"]
  lines.append(
    "  checks        "
    + checks.line(checked["counts"], checked["donated"], checked["expected"])
  )
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
  lines += ["", f"  {'part':<44}{'ms':>9}{'products':>10}{'memory':>9}  bound"]
  for name, part in result["parts"].items():
    products, memory_time = part["flops_seconds"], part["hbm_seconds"]
    bound = "compute" if products > memory_time else "memory"
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
  """Returns the part of the model, and the pass, of an operation."""
  backward = "transpose(" in scope
  path = re.sub(r"\w+\(|\)", "", scope).split("/")
  if "perceiver" not in path:
    return "optimizer and metrics"
  modules = path[path.index("perceiver") + 1 :][:2]
  return "/".join(modules) + (" (backward)" if backward else "")


def _short(scope: str) -> str:
  path = [p for p in re.sub(r"\w+\(|\)", "", scope).split("/") if p]
  skipped = ("_fun", "shard_map", "while", "body", "closed_call", "checkpoint")
  return "/".join(p for p in path if p not in skipped)[-70:]
