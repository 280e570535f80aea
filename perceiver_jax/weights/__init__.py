"""Published checkpoints, and our own, as weights of our models.

weights = perceiver_jax.weights.load("optical_flow_checkpoint.pystate")
model = perceiver_jax.weights.transformed(weights.spec)
out, _ = model.apply(weights.params, weights.state, None, frames)
perceiver_jax.weights.save("flow.safetensors", weights)
"""

import os
from pathlib import Path

from perceiver_jax.errors import UserError
from perceiver_jax.weights import safetensors_file
from perceiver_jax.weights.deepmind import files as deepmind_files
from perceiver_jax.weights.huggingface import checkpoint as huggingface
from perceiver_jax.weights.model import (
  Weights,
  transformed,
)
from perceiver_jax.weights.safetensors_file import save

__all__ = ["EXPORT", "Weights", "load", "save", "save_huggingface",
           "transformed"]  # fmt: skip

# What a finished run leaves in its folder.
EXPORT = "model.safetensors"

_PICKLES = (".pystate", ".pickle", ".pkl")


def load(path: str | os.PathLike, name: str = "") -> Weights:
  """Reads weights of any kind this project knows.

  Args:
    path: A file the authors released (.pystate, .pickle), a file of ours
      (.safetensors), the folder of a run of ours, or the folder of a Hugging
      Face checkpoint.
    name: Which model of `models.zoo` a released file is of; "" tells it by
      the shapes.

  Raises:
    UserError: It is missing, damaged or of no such kind.
  """
  path = Path(path).expanduser()
  if not path.exists():
    raise UserError(f"no weights at {str(path)!r}")
  if path.is_dir():
    if (path / "checkpoints").is_dir():
      return _from_run(path)
    return Weights(*huggingface.load(path))
  if path.suffix in _PICKLES:
    return deepmind_files.load(path, name)
  if path.suffix == ".safetensors":
    return safetensors_file.load(path)
  raise UserError(
    f"{path} is of no known kind: give a file the authors released"
    f" ({', '.join(_PICKLES)}), a .safetensors file of this project, the folder"
    " of a run, or the folder of a Hugging Face checkpoint"
  )


def save_huggingface(folder: str | os.PathLike, weights: Weights) -> None:
  """Writes a folder that Hugging Face's transformers reads.

  Raises:
    UserError: Their classes have no such model, or it can't be written.
  """
  huggingface.save(folder, *weights)


def _from_run(folder: Path) -> Weights:
  path = folder / EXPORT
  if not path.exists():
    raise UserError(
      f"{folder} holds a run that is not finished: there is no {EXPORT}; train"
      " it to its end first"
    )
  return safetensors_file.load(path)
