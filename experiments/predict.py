"""Predicts: python -m experiments.predict --workdir=DIR picture.png ...

Prints the likeliest classes of each of your pictures and saves it with a map
of where the model looked. Needs no data set, only the workdir of a run.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError


def main(argv: Sequence[str]) -> int:
  """Classifies the pictures named on the command line."""
  from perceiver_jax.training import restore

  paths = [Path(p).expanduser() for p in [*argv[1:], *flags.FLAGS.images]]
  if not paths:
    raise UserError(
      "no picture given; name image files after the flags, or in --images"
    )
  config, task, folder = launch.saved_run()
  # All are read before the first is shown: a wrong name stops it at once.
  pixels = [task.read(path) for path in paths]
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  params, net_state = restore.local_params(restored.state)
  apply = jax.jit(
    lambda batch: restored.model.apply(
      params, net_state, None, batch, False, return_attention=True
    )[0]
  )
  output = Path(flags.FLAGS.output or folder / "predictions").expanduser()
  for path, image in zip(paths, pixels, strict=True):
    batch = task.batch_of([image])
    (found,) = task.predictions(jax.device_get(apply(batch)), batch)
    show(path, found.probabilities, task.class_names)
    print(f"  {save(output, path, image, found.overlay)}")
  return 0


def show(path: Path, probabilities: np.ndarray, names: Sequence[str]) -> None:
  """Prints the likeliest classes, each with a bar."""
  print(path)
  best = np.argsort(-probabilities)[: flags.FLAGS.top]
  width = max(len(names[label]) for label in best)
  for label in best:
    bar = "#" * round(20 * probabilities[label])
    print(f"  {names[label]:<{width}}  {probabilities[label]:6.1%}  {bar}")


def save(
  folder: Path, path: Path, image: np.ndarray, overlay: np.ndarray
) -> Path:
  """Writes what the model saw beside where it looked.

  Args:
    folder: made if missing.
    path: of the user's picture, for the name.
    image: float32 [H, W, C] in [-1, 1].
    overlay: uint8 [h, w, 3].

  Returns:
    The file; an earlier one of the same name is kept.

  Raises:
    UserError: the folder can't be written to.
  """
  from perceiver_jax.viz import attention_maps

  seen = np.round((image + 1) * 127.5).clip(0, 255).astype(np.uint8)
  sheet = attention_maps.contact_sheet(
    [seen, overlay], ["input", "attention"], 2
  )
  target = folder / f"{path.stem}-attention.png"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while target.exists():
      number += 1
      target = folder / f"{path.stem}-attention-{number}.png"
    target.write_bytes(attention_maps.png_bytes(sheet))
  except OSError as error:
    raise UserError(
      f"{folder} can't be written to ({error.strerror}); give another --output"
    ) from error
  return target


if __name__ == "__main__":
  launch.define_flags(config_required=False)
  flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
  flags.DEFINE_list("images", [], "Pictures, separated by commas.")
  flags.DEFINE_integer("top", 3, "Classes to show.", lower_bound=1)
  flags.DEFINE_string("output", "", "Folder; default: WORKDIR/predictions.")
  launch.run(main)
