"""Reads one file after another in a process of limited memory.

Each line of the standard input is a JSON list of a reader's name and a path;
each line of the output is a JSON object of what happened.
"""

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError
from scripts.fuzz import readers

MEMORY = 2 * 2**30  # Bytes that reading a file may take.


def main() -> None:
  """Reads files until the standard input ends."""
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # What a library prints is no answer.
  launch.define_flags(config_required=False)
  flags.FLAGS(["fuzz"])
  limited = False
  for line in sys.stdin:
    kind, path = json.loads(line)
    print(json.dumps(_read(kind, Path(path))), file=answers, flush=True)
    if not limited:
      # The first file has loaded the libraries.
      limit = _data_bytes() + MEMORY
      resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
      limited = True


def _read(kind: str, path: Path) -> dict[str, Any]:
  """Returns the outcome, its explanation, and the seconds it took."""
  start = time.process_time()
  try:
    readers.READERS[kind](path)
    outcome, detail = "read", ""
  except UserError as error:
    outcome, detail = "refused", str(error)
    if not " ".join(detail.split()).isprintable():
      outcome = "failed"
  except BaseException:
    outcome, detail = "failed", traceback.format_exc()
  seconds = time.process_time() - start
  return {"outcome": outcome, "detail": detail, "seconds": seconds}


def _data_bytes() -> int:
  """Returns the bytes of data that the process has now."""
  lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
  (line,) = (line for line in lines if line.startswith("VmData:"))
  return int(line.split()[1]) * 1024


if __name__ == "__main__":
  main()
