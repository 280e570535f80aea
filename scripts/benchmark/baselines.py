"""Times a Perceiver in PyTorch, in a separate process of the benchmark.

Reads a request (see `Request`) as JSON from standard input and writes the
figures as JSON to standard output. It imports only torch and the requested
package, since torch.compile fails when Haiku is in the same process. Weights
are random; only time and memory are compared. `scripts.benchmark --help` lists
the packages to install.
"""

import ctypes
import gc
import importlib
import json
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

_PROCESS = pathlib.Path("/proc/self")
_KIB_PER_MIB = 1024


class Request(NamedTuple):
  """Specifies a model and its measurements.

  Attributes:
    package: "transformers" or "perceiver_pytorch".
    architecture: Name of the model's class.
    config: Leaves of its PerceiverConfig, or arguments of the class.
    shape: The raw input's shape in perceiver_jax, batch first.
    is_text: Whether the input is tokens [B, M], without padding.
    is_compiled: Whether to use torch.compile.
    train: Whether to time a train step too.
    repeats: Number of timed calls.
  """

  package: str
  architecture: str
  config: dict[str, Any]
  shape: list[int]
  is_text: bool
  is_compiled: bool
  train: bool
  repeats: int


def main() -> None:
  """Reads a request, measures and prints the figures."""
  request = Request(**json.load(sys.stdin))
  torch.manual_seed(0)
  model = _model(request)
  inputs = _inputs(request)
  run = torch.compile(model) if request.is_compiled else model

  def forward():
    with torch.no_grad():
      run(**inputs)

  def step():
    out = run(**inputs)
    (getattr(out, "logits", out) ** 2).mean().backward()
    with torch.no_grad():
      for parameter in model.parameters():
        if parameter.grad is not None:
          parameter -= 1e-3 * parameter.grad
          parameter.grad = None

  figures = _time(forward, request.repeats, "")
  if request.train:
    model.train()
    figures |= _time(step, request.repeats, " step")
  print(json.dumps(figures))


def _time(
  fn: Callable[[], None], repeats: int, suffix: str
) -> dict[str, float]:
  """Measures compile time, the median time of a call, and its peak memory.

  Compile time is the first call's time beyond the median. Memory is the peak
  of the process during a call minus what it held before, which is closest to
  XLA's temporary memory.
  """
  times = []
  for i in range(repeats + 1):
    if i == repeats:
      before = _reset_peak()
    start = time.perf_counter()
    fn()
    times.append(time.perf_counter() - start)
  median = statistics.median(times[1:])
  name = suffix.strip() or "forward"
  figures = {f"compile{suffix}": max(times[0] - median, 0.0), name: median}
  if before:
    figures[f"{name} MiB"] = (_kib("VmHWM") - before) / _KIB_PER_MIB
  return figures


def _reset_peak() -> int:
  """Resets the peak memory; returns the KiB in use, or 0 if unknown."""
  gc.collect()
  try:
    # Free memory counts as used unless it is returned to the system.
    ctypes.CDLL(None).malloc_trim(0)
    (_PROCESS / "clear_refs").write_text("5")
    return _kib("VmRSS")
  except (AttributeError, OSError):  # Not on Linux.
    return 0


def _kib(name: str) -> int:
  status = (_PROCESS / "status").read_text()
  return int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])


def _model(request: Request) -> nn.Module:
  package = importlib.import_module(request.package)
  if request.package == "perceiver_pytorch":
    # The package's own MLP is gated and always four times as wide.
    package.perceiver_pytorch.FeedForward = _mlp
    return getattr(package, request.architecture)(**request.config).eval()
  config = package.PerceiverConfig(
    **request.config, attention_probs_dropout_prob=0.0
  )
  return getattr(package, request.architecture)(config).eval()


def _mlp(dim: int, dropout: float = 0.0) -> nn.Module:
  """Returns the papers' MLP: Linear, GELU, Linear, with widening factor 1."""
  del dropout
  return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))


def _inputs(request: Request) -> dict[str, torch.Tensor]:
  if request.is_text:
    tokens = torch.randint(6, 262, request.shape)
    return {"inputs": tokens, "attention_mask": torch.ones_like(tokens)}
  x = torch.rand(request.shape) * 2 - 1
  if request.package == "perceiver_pytorch":
    return {"data": x}
  if x.ndim == 4:
    return {"inputs": x.permute(0, 3, 1, 2)}
  return {"inputs": _flow_patches(x)}


def _flow_patches(frames: torch.Tensor) -> torch.Tensor:
  """Returns the 3 x 3 patches of each frame, channels first."""
  batch, pair, height, width, channels = frames.shape
  x = frames.permute(0, 1, 4, 2, 3).reshape(-1, channels, height, width)
  x = torch.nn.functional.unfold(x, 3, padding=1)
  return x.reshape(batch, pair, -1, height, width)


if __name__ == "__main__":
  main()
