"""Exports a trained model: python -m scripts.export --workdir=RUN --out=FILE.

FILE is a `jax.export` artifact, which runs where only jax is installed.
FILE.json describes its inputs and outputs; with --separate_weights,
FILE.safetensors holds the weights, which the program then takes as an argument.
docs/using_the_models.md shows how to call it.

The model is that of the run in --workdir, or of --weights: any file or folder
of docs/weights.md, with the --config that prepares its inputs.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files as files_lib
from perceiver_jax.errors import UserError

# JAX is imported in functions, because --help need not wait for it.

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

launch.define_flags(config_required=False)
_WEIGHTS = flags.DEFINE_string(
  "weights", "", "File or folder of weights; give their --config, too."
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "latest", "Checkpoint of --workdir: latest, best, or a step."
)
_OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
_PLATFORM_NAMES = flags.DEFINE_list(
  "platforms",
  ["cpu", "cuda", "tpu"],
  f"Platforms that the program runs on, of {', '.join(_PLATFORMS)}.",
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 0, "Number of examples in a call; 0: any.", lower_bound=0
)
_SEPARATE_WEIGHTS = flags.DEFINE_bool(
  "separate_weights", False, "Write the weights to a file of their own."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing files.")


def main(argv: Sequence[str]) -> int:
  """Exports one model and prints the names and shapes of its arrays."""
  launch.no_arguments(argv)
  _check_platforms(_PLATFORM_NAMES.value)
  if importlib.util.find_spec("flatbuffers") is None:
    raise UserError("exporting needs flatbuffers: pip install -e '.[export]'")
  files = _files(files_lib.as_path(_OUT.value).expanduser())
  from scripts.export import artifact, subject

  chosen = subject.load(_WEIGHTS.value, _CHECKPOINT.value)
  exported = artifact.export_model(
    chosen,
    _PLATFORM_NAMES.value,
    batch_size=_BATCH_SIZE.value,
    separate_weights=_SEPARATE_WEIGHTS.value,
  )
  description = artifact.describe(exported, chosen, files)
  artifact.write(files, exported, description, chosen.weights)
  for kind in ("inputs", "outputs"):
    for name, array in description[kind].items():
      shape = ", ".join(map(str, array["shape"]))
      print(f"{kind[:-1]} {name}: {array['dtype']} [{shape}]")
  for path in files:
    if path:
      print(f"written: {path} ({files_lib.size(path):,} bytes)")
  return 0


def _check_platforms(names: Sequence[str]) -> None:
  if not names or not set(names) <= set(_PLATFORMS):
    raise UserError(
      f"--platforms={','.join(names)}: choose among {', '.join(_PLATFORMS)}"
    )


def _files(path: Path) -> "artifact.Files":
  """Returns the files to write, after checking that they can be.

  Raises:
    UserError: One exists already or can't be written, or they have one name.
  """
  from scripts.export import artifact

  if path.suffix in ("", ".json", ".safetensors"):
    raise UserError(
      f"--out={path}: give a name that ends in .jax, since files with the"
      " suffixes .json and .safetensors are written beside it"
    )
  files = artifact.Files.of(path, _SEPARATE_WEIGHTS.value)
  for each in filter(None, files):
    if each.exists() and not _OVERWRITE.value:
      raise UserError(f"{each} exists; give another --out, or --overwrite")
    outputs.check_writable(each, "another --out")
  return files


if __name__ == "__main__":
  launch.run(main)
