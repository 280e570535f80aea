r"""Prints the heartbeat and the last log lines of every process of a run.

  python -m scripts.logs --workdir=runs/imagenet --lines=5

shows at which step each process is, what it does, and how long ago it last
wrote. A process writes its heartbeat every 10 seconds; one that is killed, or
whose host is lost, becomes silent. docs/reliability.md describes the files.

Exit status: 0; 1 if a process has failed or become silent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import launch
from perceiver_jax.training.logs import process_log
from perceiver_jax.training.logs.wall_time import format_seconds

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_LINES = flags.DEFINE_integer("lines", 10, "Lines of each log.", 0)

_FAILED = 1
# Writing to a bucket may take a while.
_SILENT_SECONDS = 4 * process_log.INTERVAL
# Measurements, and how they are shown.
_MEASURED = {
  "step_seconds": "{:.3g} s a step",
  "data_wait_percent": "{:.0f}% waiting for data",
  "host_gb": "{:.1f} GB",
  "device_gb": "{:.1f} GB on a device",
}


def main(argv: Sequence[str]) -> int:
  """Prints all heartbeats and logs."""
  launch.no_arguments(argv)
  folder = launch.workdir()
  heartbeats = _latest(process_log.read_heartbeats(folder))
  for heartbeat in heartbeats:
    print(_text(heartbeat))
    lines = process_log.read_log(folder, heartbeat["process"])
    for line in lines[max(len(lines) - _LINES.value, 0) :]:
      print(f"  {_printable(line)}")
  return _FAILED if any(map(_is_lost, heartbeats)) else 0


def _latest(heartbeats: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """Leaves out those of an earlier start with more processes."""
  count = min(heartbeats, key=lambda h: h["age"])["num_processes"]
  return [h for h in heartbeats if h["process"] < count]


def _text(heartbeat: Mapping[str, Any]) -> str:
  """Returns one line on a process."""
  doing, age = heartbeat["doing"], format_seconds(heartbeat["age"])
  if doing in (process_log.ENDED, process_log.FAILED):
    state = f"{doing} {age} ago"
  elif _is_lost(heartbeat):
    state = f"SILENT for {age}, last in {doing or 'the loop'}"
  else:
    state = f"in {doing or 'the loop'}, {age} ago"
  measured = [
    shown.format(heartbeat[name])
    for name, shown in _MEASURED.items()
    if isinstance(heartbeat.get(name), float)
  ]
  parts = [f"step {heartbeat['step']:,}", state, *measured]
  about = process_log.describe(heartbeat)
  return _printable(f"{about}: {', '.join(parts)}")


def _is_lost(heartbeat: Mapping[str, Any]) -> bool:
  """Returns whether a process has failed or is silent."""
  if heartbeat["doing"] in (process_log.ENDED, process_log.FAILED):
    return heartbeat["doing"] == process_log.FAILED
  return heartbeat["age"] > _SILENT_SECONDS


def _printable(line: str) -> str:
  """Returns a line without characters that control a terminal."""
  replaced = "\N{REPLACEMENT CHARACTER}"
  return "".join(c if c.isprintable() else replaced for c in line)


if __name__ == "__main__":
  launch.run(main)
