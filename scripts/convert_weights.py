"""Converts weights: python -m scripts.convert_weights SOURCE TARGET.

SOURCE is a file released by DeepMind (.pystate, .pickle), a .safetensors file
of this project, or the folder of a finished run or of a Hugging Face
checkpoint. TARGET is a .safetensors file of this project or, with
--to=huggingface, a folder that transformers loads.
"""

from collections.abc import Sequence

from absl import flags

from experiments import launch
from perceiver_jax import files
from perceiver_jax.errors import UserError

_TO = flags.DEFINE_enum(
  "to", "safetensors", ["safetensors", "huggingface"], "Format to write."
)
_NAME = flags.DEFINE_string(
  "name", "", "Zoo model of a released file; default: found by its shapes."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace TARGET.")


def main(argv: Sequence[str]) -> int:
  """Converts one checkpoint and prints its size."""
  from perceiver_jax import weights
  from perceiver_jax.models import zoo
  from perceiver_jax.weights import model

  if len(argv) != 3:
    raise UserError(
      f"give SOURCE and TARGET after the flags; got {len(argv) - 1} paths"
    )
  source, target = (files.as_path(p).expanduser() for p in argv[1:])
  if target.exists() and not _OVERWRITE.value:
    raise UserError(f"{target} exists; give another TARGET, or --overwrite")
  if _NAME.value and _NAME.value not in zoo.MODELS:
    choices = ", ".join(zoo.MODELS)
    raise UserError(f"--name={_NAME.value}: choose one of {choices}")
  loaded = weights.load(source, _NAME.value)
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"{target.parent} can't be created ({error.strerror}); give another"
      " TARGET"
    ) from error
  if _TO.value == "huggingface":
    weights.save_huggingface(target, loaded)
  else:
    weights.save(target, loaded)
  sizes = [leaf.size for leaf in model.flatten(loaded.params).values()]
  print(f"{source}: {sum(sizes):,} parameters in {len(sizes)} arrays")
  print(f"written to {target}")
  return 0


if __name__ == "__main__":
  launch.run(main)
