"""Functions for timing, compiling and printing tables."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp

MIB = 2**20
_PEAK_SIZE = 2048


def median(fn: Callable[[], Any], repeats: int) -> float:
  """Returns the median seconds of a call, after one warm-up call."""
  times = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


def milliseconds(call: Callable[[], Any], repeats: int, platform: str) -> float:
  """Returns the median milliseconds of a call, after one that compiles it.

  On CPUs they are processor time over all cores, which other load on the
  machine hardly changes.
  """
  clock = time.process_time if platform == "cpu" else time.perf_counter
  jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    start = clock()
    jax.block_until_ready(call())
    times.append(clock() - start)
  return 1000 * statistics.median(times)


def compiled(fn: Any, *args: Any) -> tuple[Any, dict[str, float]]:
  """Compiles a jitted function for its arguments.

  Returns:
    The compiled function, and 'compile' in seconds, 'temporary' memory in
    bytes and 'flops' by XLA's count.
  """
  lowered = fn.lower(*args)
  start = time.perf_counter()
  executable = lowered.compile()
  seconds = time.perf_counter() - start
  memory = executable.memory_analysis()
  return executable, {
    "compile": seconds,
    "temporary": memory.temp_size_in_bytes,
    "flops": executable.cost_analysis().get("flops", 0.0),
  }


def matmul_peak(repeats: int) -> float:
  """Returns the operations per second of large float32 matrix products."""
  x = jnp.ones((_PEAK_SIZE, _PEAK_SIZE), jnp.float32)
  product = jax.jit(lambda x: x @ x)
  return 2 * _PEAK_SIZE**3 / median(lambda: product(x), repeats)


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Formats rows as a table with a header; missing values are '-'."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  cells = [names] + [[_text(row.get(n, "-")) for n in names] for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
  return "\n".join(
    "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True))
    for line in cells
  )


def _text(value: Any) -> str:
  return value if isinstance(value, str) else f"{value:,.4g}"
