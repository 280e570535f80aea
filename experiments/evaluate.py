"""Evaluates a checkpoint of a run, or any weights.

  python -m experiments.evaluate --workdir=DIR --checkpoint=best
  python -m experiments.evaluate --weights=FILE --config=configs/imagenet.py \
    --config.data.source_args.tfds.data_dir=DIR --out=FILE.json

Prints the metrics on the held-out data of the config. Those of a checkpoint are
written to evaluation-STEP.json in the workdir; for data that was moved, add the
--config and --config.LEAF flags of the run's training, with the new place.
--weights takes a file released by DeepMind, the folder of a Hugging Face
checkpoint, a .safetensors file of this project, or the folder of a finished
run; its metrics are written to --out with the config, the weights and their
checksum.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import flag_errors, launch
from experiments.predictions import models, outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError

# JAX is imported in functions to keep --help and flag errors fast.


class _Subject(NamedTuple):
  """A model to evaluate.

  Attributes:
    name: name to print.
    config: config of the evaluation.
    task: the task.
    restored: the model with its parameters.
    facts: facts that identify the model, for the JSON file.
    out: JSON file to write; None for none.
  """

  name: str
  config: Any
  task: Any
  restored: Any
  facts: dict[str, Any]
  out: Path | None


def define_flags() -> None:
  """Defines the flags of this program."""
  launch.define_flags(config_required=False)
  flags.DEFINE_string(
    "checkpoint", "latest", "Checkpoint of --workdir: latest, best, or a step."
  )
  flags.DEFINE_string(
    "weights", None, "File or folder of weights, in place of --workdir."
  )
  flags.DEFINE_string(
    "out", None, "JSON file to write; default: evaluation-STEP.json of a run."
  )
  flags.DEFINE_string(
    "images", None, "Folder for images of some examples; default: none."
  )


def main(argv: Sequence[str]) -> int:
  """Evaluates one checkpoint, or weights."""
  launch.no_arguments(argv)
  _check_flags()
  import jax

  from perceiver_jax.training import evaluation

  launch.initialize_distributed()
  subject = _weights() if flags.FLAGS.weights else _checkpoint()
  is_first = jax.process_index() == 0
  with _moved_data_explained(subject.config):
    evaluated = evaluation.evaluate_task(
      subject.task,
      subject.config,
      subject.restored,
      show_progress=is_first and sys.stderr.isatty(),
    )
  if is_first:
    _report(subject, evaluated)
    if flags.FLAGS.images:
      folder = files.as_path(flags.FLAGS.images).expanduser()
      _draw(subject, folder, evaluated.means)
  return 0


def _check_flags() -> None:
  """Checks that there is one model, and that the output can be written.

  Raises:
    UserError: no or several models are given, or a path can't be written.
  """
  values = flags.FLAGS
  if values.weights:
    launch.config()
    models.check_flags()
  elif not values.workdir:
    raise UserError(
      "no model is given; give --workdir, the folder of a run, or --weights, a"
      " file or folder of weights, with --config"
    )
  if values.out:
    outputs.check_writable(
      files.as_path(values.out).expanduser(), "another --out"
    )
  if values.images:
    folder = files.as_path(values.images).expanduser()
    with outputs.writing(folder, "another --images"):
      folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _moved_data_explained(config: Any) -> Iterator[None]:
  """Adds to an error how to evaluate a run on data that was moved."""
  try:
    yield
  except UserError as error:
    from perceiver_jax.training import workdir

    leaves = [f"--config.{x}=PLACE" for x in workdir.missing_places(config)]
    if not leaves or flags.FLAGS.config is not None:
      raise
    raise UserError(
      f"{error}; if the data was moved, add the --config and --config.LEAF"
      f" flags of the run's training, with {' and '.join(leaves)} for its new"
      " place"
    ) from error


def _checkpoint() -> _Subject:
  """Returns a checkpoint of the run in --workdir."""
  from perceiver_jax.training import restore

  config, task, folder = launch.saved_run()
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  out = flags.FLAGS.out or folder / f"evaluation-{restored.step}.json"
  facts = {
    "workdir": folder,
    "step": restored.step,
    "published": dict(task.published),
  }
  name = f"step {restored.step:,} of {folder}"
  return _Subject(
    name, config, task, restored, facts, files.as_path(out).expanduser()
  )


def _weights() -> _Subject:
  """Returns the weights --weights, with the data of --config."""
  from ml_collections import config_flags

  from experiments import evaluate_weights

  path = files.as_path(flags.FLAGS.weights).expanduser()
  loaded = evaluate_weights.load(path, launch.config())
  file, _, variant = (flag_errors.config_file(sys.argv) or "").partition(":")
  facts = {
    "config": file,
    "variant": variant,
    "overrides": config_flags.get_override_values(flags.FLAGS["config"]),
    "weights": path,
    "sha256": evaluate_weights.sha256(path),
    "published": dict(loaded.published),
    "differences": loaded.differences,
  }
  name = "\n".join(
    [f"{path}", *(f"  differs: {line}" for line in loaded.differences)]
  )
  out = flags.FLAGS.out
  return _Subject(
    name,
    loaded.config,
    loaded.task,
    loaded.restored,
    facts,
    files.as_path(out).expanduser() if out else None,
  )


def _report(subject: _Subject, evaluated: Any) -> None:
  """Prints the metrics, and writes them with what was evaluated."""
  from perceiver_jax.training.logs import results

  metrics = results.flat_scalars(evaluated.means)
  published = subject.facts["published"]
  print(subject.name)
  width = max(map(len, metrics), default=0)
  for name, value in metrics.items():
    beside = f"  (published {published[name]:.4g})" if name in published else ""
    print(f"  {name:<{width}}  {value:.4f}{beside}")
  if subject.out is not None:
    with outputs.writing(subject.out, "another --out"):
      results.write_evaluation(
        subject.out,
        subject.config,
        subject.task,
        evaluated,
        subject.facts,
      )
    print(f"written to {subject.out}")


def _draw(subject: _Subject, folder: Path, means: dict[str, Any]) -> None:
  """Writes images of some examples."""
  from perceiver_jax.training.logs import results
  from perceiver_jax.viz import image_layout

  images = results.example_images(subject.task, subject.restored, means)
  with outputs.writing(folder, "another --images"):
    for name, image in images.items():
      path = folder / f"{name}.png"
      files.write_bytes(path, image_layout.png_bytes(image))
      print(path)


if __name__ == "__main__":
  define_flags()
  launch.run(main)
