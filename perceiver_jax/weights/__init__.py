"""Loads and saves model weights.

weights = perceiver_jax.weights.load("optical_flow_checkpoint.pystate")
model = perceiver_jax.weights.transform(weights.spec)
out, _ = model.apply(weights.params, weights.state, None, frames)
perceiver_jax.weights.save("flow.safetensors", weights)
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perceiver_jax import files
from perceiver_jax.errors import UserError
from perceiver_jax.weights import safetensors_file
from perceiver_jax.weights.deepmind import files as deepmind_files
from perceiver_jax.weights.huggingface import checkpoint as huggingface
from perceiver_jax.weights.model import Weights, transform
from perceiver_jax.weights.safetensors_file import save

__all__ = ["EXPORT", "Weights", "load", "save", "save_huggingface",
           "transform"]  # fmt: skip

# Name of the weights file in the folder of a finished run.
EXPORT = "model.safetensors"

_PICKLES = (".pystate", ".pickle", ".pkl")


def load(
  path: str | os.PathLike,
  name: str = "",
  spec: Mapping[str, Any] | None = None,
) -> Weights:
  """Loads weights from any supported file or folder.

  Args:
    path: A file released by DeepMind (.pystate, .pickle), a .safetensors file
      of this project, the folder of a finished run, or the folder of a Hugging
      Face checkpoint.
    name: Name in `models.zoo` of the model of a DeepMind file; "" identifies
      the model by its shapes.
    spec: Spec of the model of a DeepMind file that is none of the released
      ones. Whether the parameters fit it is not checked.

  Raises:
    UserError: The path is missing, damaged or not of a supported format, or a
      name is given for another than a DeepMind file.
  """
  path = files.as_path(path).expanduser()
  if not path.exists():
    raise UserError(f"no weights at {str(path)!r}")
  if path.suffix in _PICKLES and not path.is_dir():
    return deepmind_files.load(path, name, spec)
  if name:
    raise UserError(
      f"the name {name!r} is given for {path}, and only files released by"
      f" DeepMind ({', '.join(_PICKLES)}) take one; leave it out"
    )
  if path.is_dir():
    if (path / "checkpoints").is_dir():
      return _load_run(path)
    return Weights(*huggingface.load(path))
  if path.suffix == ".safetensors":
    return safetensors_file.load(path)
  raise UserError(
    f"{path} has an unknown format: give a file released by DeepMind"
    f" ({', '.join(_PICKLES)}), a .safetensors file of this project, the folder"
    " of a run, or the folder of a Hugging Face checkpoint"
  )


def save_huggingface(folder: str | os.PathLike, weights: Weights) -> None:
  """Saves a folder that Hugging Face's transformers can load.

  Raises:
    UserError: transformers has no such model, or the folder can't be written.
  """
  huggingface.save(folder, *weights)


def _load_run(folder: Path) -> Weights:
  path = folder / EXPORT
  if not path.exists():
    raise UserError(
      f"{folder} holds a run that is not finished: there is no {EXPORT}; train"
      " it to its end first"
    )
  return safetensors_file.load(path)
