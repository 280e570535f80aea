"""Predicts: python -m experiments.predict COMMAND --weights=FILE INPUT ...

  classify IMAGE ...     the most likely classes, and the attention
  attention INPUT ...    attention maps of single latents over images, clips or
                         texts, as the model takes them
  classify-clip CLIP ... the labels of sounds and videos, of an AudioSet model
  classify-points FILE ... the most likely classes of meshes or point clouds
  classify-text TEXT ... predictions of a GLUE run for texts or pairs of texts
  fill-mask TEXT ...     predictions of a language model for [MASK], or --mask
  generate --prompt=TEXT a text, or another sequence of tokens, continued by an
                         autoregressive model
  flow FIRST SECOND      optical flow of two images; or of a VIDEO
  command FILE ...       the next command in StarCraft II, for observations
  autoencode CLIP ...    a video with audio, reconstructed

The model is that of --weights: a file released by DeepMind (.pystate, .pickle),
a .safetensors file, or the folder of a run or of a Hugging Face checkpoint; or
that of the run in --workdir. The default command is classify.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments import flag_errors, launch
from experiments.predictions import flow_model, models
from perceiver_jax.errors import UserError

# Command to module of `experiments.predictions`.
COMMANDS = {
  "classify": "classify",
  "attention": "attention",
  "classify-clip": "classify_clip",
  "classify-points": "classify_points",
  "classify-text": "classify_text",
  "fill-mask": "fill_mask",
  "generate": "generate",
  "flow": "flow",
  "command": "command",
  "autoencode": "autoencode",
}


def define_flags() -> None:
  """Defines the flags of all commands."""
  launch.define_flags(config_required=False)
  flags.DEFINE_string("weights", "", "File or folder of weights.")
  flags.DEFINE_string(
    "checkpoint", "latest", "Checkpoint of --workdir: latest, best, or a step."
  )
  flags.DEFINE_integer(
    "top", 5, "Number of predictions to show.", lower_bound=1
  )
  flags.DEFINE_float(
    "threshold",
    None,
    "classify, of a model of several labels per image, and classify-clip:"
    " print all labels of at least this probability. Default of a run on"
    " images: 0.5.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_string(
    "output", "", "Folder; default: WORKDIR/predictions or predictions."
  )
  flags.DEFINE_string("labels", "", "File of class names, one per line.")
  flags.DEFINE_integer(
    "image_size",
    224,
    "classify and attention, of --weights other than a run's folder: pixels.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "num_points",
    2048,
    "classify-points, of --weights: points to take of each object.",
    lower_bound=1,
  )
  flags.DEFINE_string(
    "task", "", "classify-text and attention: task, if the run has several."
  )
  flags.DEFINE_string("mask", "", "fill-mask: words of the text to mask.")
  flags.DEFINE_string(
    "tokenizer",
    "",
    "fill-mask, generate and attention, of --weights on subwords: its .model"
    " file.",
  )
  _define_generate_flags()
  flow_model.define_tiling_flags()
  flags.DEFINE_list(
    "latents", [], "attention: indices of latents; default: 8, evenly spaced."
  )
  flags.DEFINE_integer(
    "head", None, "attention: a head; default: the mean over all.",
    lower_bound=0,
  )  # fmt: skip
  flags.DEFINE_bool(
    "softmax",
    None,
    "attention: show weights, after the softmax (default for texts), or logits"
    " (default for images and clips).",
  )
  flags.DEFINE_float(
    "start", 0.0, "attention and autoencode: seconds.", lower_bound=0.0
  )
  flags.DEFINE_integer(
    "parts", 128, "autoencode: parts to decode in.", lower_bound=1
  )


def _define_generate_flags() -> None:
  flags.DEFINE_string(
    "prompt",
    "",
    "generate: the text to continue; of models of other tokens, a file of ids"
    " (.npy, .npz, .json or .jsonl).",
  )
  flags.DEFINE_integer(
    "num_tokens",
    None,
    "generate: number of tokens. Default: 256, or the rest of an image.",
    lower_bound=1,
  )
  flags.DEFINE_integer(
    "num_samples", 1, "generate: number of sequences.", lower_bound=1
  )
  flags.DEFINE_float(
    "temperature",
    1.0,
    "generate: divides the logits; 0 takes the most likely tokens.",
  )
  flags.DEFINE_float(
    "top_p",
    1.0,
    "generate: sample from the fewest most likely tokens that have this"
    " probability together.",
  )
  # JAX takes seeds modulo 2**32.
  flags.DEFINE_integer(
    "seed", 0, "generate: seed of the samples.", lower_bound=0,
    upper_bound=2**32 - 1,
  )  # fmt: skip
  flags.DEFINE_bool(
    "cache",
    True,
    "generate: keep keys and values; --nocache encodes the whole sequence for"
    " each token, with the same result.",
  )


def main(argv: Sequence[str]) -> int:
  """Runs the command named by the first argument."""
  models.check_flags()
  arguments = list(argv[1:])
  command = "classify"
  if arguments and arguments[0] in COMMANDS:
    command = arguments.pop(0)
  elif arguments:
    _check_no_command(arguments[0])
  # Imported here because it imports JAX, which is slow: --help and errors in
  # flags need not wait.
  name = f"experiments.predictions.{COMMANDS[command]}"
  importlib.import_module(name).run(arguments)
  return 0


def _check_no_command(image: str) -> None:
  """Checks that an image is not a mistyped command.

  Raises:
    UserError: It is like a command, and there is no such file.
  """
  hint = flag_errors.closest(image, COMMANDS)
  if hint and not Path(image).exists():
    raise UserError(
      f"there is no command or file {image!r}; {hint}--help lists the commands"
    )


if __name__ == "__main__":
  define_flags()
  launch.run(main)
