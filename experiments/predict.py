"""Predicts: python -m experiments.predict COMMAND --weights=FILE INPUT ...

  classify PICTURE ...   likeliest classes, and where the model looked
  classify-text TEXT ... what a GLUE run says of texts, or of pairs of them
  fill-mask TEXT ...     what a language model puts for [MASK], or --mask
  flow FIRST SECOND      where each pixel moves between two images; or VIDEO
  autoencode CLIP ...    a video with sound, reconstructed

The model is that of --weights: a file the authors released (.pystate, .pickle),
a .safetensors file or the folder of a Hugging Face checkpoint; or that of the
run in --workdir. Without a command, pictures are classified.
"""

import importlib
from collections.abc import Sequence

from absl import flags

from experiments import launch
from experiments.predictions import flow_model

# Modules of `experiments.predictions`.
COMMANDS = {
  "classify": "classify",
  "classify-text": "classify_text",
  "fill-mask": "fill_mask",
  "flow": "flow",
  "autoencode": "autoencode",
}


def define_flags() -> None:
  """Defines the flags of this program."""
  launch.define_flags(config_required=False)
  flags.DEFINE_string("weights", "", "File or folder of weights.")
  flags.DEFINE_string(
    "checkpoint",
    "latest",
    "classify, classify-text and flow, of --workdir: latest, best, or a step.",
  )
  flags.DEFINE_integer("top", 5, "Guesses to show.", lower_bound=1)
  flags.DEFINE_string(
    "output", "", "Folder; default: WORKDIR/predictions or predictions."
  )
  flags.DEFINE_string("labels", "", "File with the name of a class a line.")
  flags.DEFINE_integer(
    "image_size", 224, "classify, of --weights: pixels.", lower_bound=1
  )
  flags.DEFINE_string("task", "", "classify-text: which, if there are several.")
  flags.DEFINE_string("mask", "", "fill-mask: words of the text to hide.")
  flags.DEFINE_string(
    "tokenizer", "", "fill-mask, of --weights on pieces: its .model file."
  )
  flow_model.define_flags_of_tiles()
  flags.DEFINE_float("start", 0.0, "autoencode: seconds.", lower_bound=0.0)
  flags.DEFINE_integer(
    "parts", 128, "autoencode: parts to decode in.", lower_bound=1
  )


def main(argv: Sequence[str]) -> int:
  """Runs the command that comes first."""
  arguments = list(argv[1:])
  command = "classify"
  if arguments and arguments[0] in COMMANDS:
    command = arguments.pop(0)
  # Imported late: --help and a mistyped flag should not wait for JAX.
  name = f"experiments.predictions.{COMMANDS[command]}"
  importlib.import_module(name).run(arguments)
  return 0


if __name__ == "__main__":
  define_flags()
  launch.run(main)
