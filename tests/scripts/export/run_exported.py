"""Runs exported programs in a process that cannot import this project.

  python -I run_exported.py FOLDER NAME ...

Each FOLDER/NAME-inputs.npz is given to FOLDER/NAME.jax, with the weights in
FOLDER/NAME.safetensors if the description names them; the outputs are written
to FOLDER/NAME-outputs.npz.
"""

import json
import sys
from pathlib import Path

_BLOCKED = ("perceiver_jax", "haiku", "configs", "experiments", "scripts")


class _Blocker:
  """Finds no module of this project, wherever it is installed."""

  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in _BLOCKED:
      raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, _Blocker())
for module in _BLOCKED:
  try:
    __import__(module)
  except ImportError:
    continue
  sys.exit(f"{module} can be imported")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax import export  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402


def main():
  folder = Path(sys.argv[1])
  for name in sys.argv[2:]:
    description = json.loads((folder / f"{name}.json").read_text())
    program = (folder / description["program"]).read_bytes()
    call = jax.jit(export.deserialize(bytearray(program)).call)
    arguments = []
    if "weights" in description:
      arguments.append(load_file(folder / description["weights"]))
    inputs = dict(np.load(folder / f"{name}-inputs.npz"))
    outputs = call(*arguments, inputs)
    np.savez(folder / f"{name}-outputs.npz", **outputs)
  leaked = sorted(m for m in sys.modules if m.partition(".")[0] in _BLOCKED)
  if leaked:
    sys.exit(f"imported: {leaked}")


main()
