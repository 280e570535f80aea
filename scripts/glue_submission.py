r"""Predictions on GLUE's test sets, as the leaderboard takes them: a zip.

  python -m scripts.glue_submission --out=submission.zip runs/cola runs/mnli ...

The folders are runs of configs/glue.py, of one task or of several; a later one
takes the place of an earlier one's tasks. Each predicts the test sets of its
tasks with its best checkpoint, from where it read its training data; a run of
MNLI also the diagnostic set, AX.

The leaderboard (https://gluebenchmark.com) wants a file for every task. WNLI,
which the paper leaves out, is filled with its more frequent class if there is
no run of it; another task without a run is an error, unless --partial.
"""

import os
import sys
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from tqdm import tqdm

from experiments import glue as glue_task
from experiments import launch, tasks
from perceiver_jax.data import glue, glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.training import restore, workdir

_OUT = flags.DEFINE_string("out", "submission.zip", "The zip to write.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "best", "Of each run: latest, best, or a step."
)
_PARTIAL = flags.DEFINE_bool(
  "partial", False, "Write the zip though tasks have no run."
)
_BATCH = flags.DEFINE_integer(
  "batch_size", 32, "Texts at a time.", lower_bound=1
)

# Task and split of each file of a submission.
_FILES = {
  **{f"{task.folder}.tsv": (name, "test")
     for name, task in glue_tasks.GLUE.items() if name != "mnli"},
  "MNLI-m.tsv": ("mnli", "test_matched"),
  "MNLI-mm.tsv": ("mnli", "test_mismatched"),
  "AX.tsv": ("ax", "test"),
  "WNLI.tsv": ("wnli", "test"),
}  # fmt: skip
_HEAD = "index\tprediction"
_WNLI = [_HEAD, *(f"{i}\t0" for i in range(146))]


class _Run(NamedTuple):
  """A run that predicts.

  Attributes:
    task: of the run.
    data: `config.data`.
    predict: a batch to the model's outputs.
  """

  task: glue_task.Glue
  data: Any
  predict: Callable[[Any], Any]


def main(argv: Sequence[str]) -> None:
  """Predicts and writes the zip."""
  if len(argv) < 2:
    raise UserError("no run is given; name folders of runs of configs/glue.py")
  runs = [_open(Path(name).expanduser()) for name in argv[1:]]
  owners = {name: run for run in runs for name in run.task.tasks}
  if "mnli" in owners:
    owners["ax"] = owners["mnli"]
  wanted = {name for name, _ in _FILES.values()} - {"wnli"}
  missing = sorted(wanted - owners.keys())
  if missing and not _PARTIAL.value:
    raise UserError(
      f"no run is about {', '.join(missing)}; name one of each, or give"
      " --partial"
    )
  contents = {
    file: _lines(owners[name], name, split)
    for file, (name, split) in _FILES.items()
    if name in owners
  }
  _write(Path(_OUT.value).expanduser(), {"WNLI.tsv": _WNLI, **contents})
  print(f"{len(contents)} files of predictions: {_OUT.value}")


def _open(folder: Path) -> _Run:
  """The run in a folder, with the parameters of the asked checkpoint."""
  config = workdir.read_config(folder)
  task = tasks.make_task(config, workdir.read_metadata(folder))
  if not isinstance(task, glue_task.Glue):
    raise UserError(f"{folder} holds a run of {config.task!r}, not of glue")
  restored = restore.restore(config, task, folder, _CHECKPOINT.value)
  return _Run(task, config.data, restore.predictor(restored))


def _lines(run: _Run, name: str, split: str) -> list[str]:
  """A file of the submission, in the order of the examples' numbers."""
  arguments = run.data.source_args.to_dict().get(run.data.source, {})
  examples = glue.make_examples(
    run.data.source, task=name, split=split, **arguments
  )
  # The diagnostic set is for a model of MNLI.
  answering = "mnli" if name == "ax" else name
  task, found = run.task.tasks[answering], {}
  batches = run.task.test_data(answering, examples, global_batch=_BATCH.value)
  bar = tqdm(batches, f"{name} {split}", batches.num_batches(), leave=False,
             disable=not sys.stderr.isatty())  # fmt: skip
  for batch in bar:
    outputs = run.predict(batch).logits
    for number, row in zip(batch["number"], outputs, strict=True):
      answer, _ = run.task.texts.answer(answering, row)
      if task.classes:
        answer = task.labels[task.classes.index(answer)]
      found[int(number)] = answer
  return [_HEAD, *(f"{number}\t{found[number]}" for number in sorted(found))]


def _write(path: Path, contents: Mapping[str, Sequence[str]]) -> None:
  """Writes the whole zip or nothing."""
  partial = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
  try:
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
      for name, lines in contents.items():
        archive.writestr(name, "\n".join(lines) + "\n")
    os.replace(partial, path)
  except OSError as error:
    raise UserError(f"{path} can't be written ({error.strerror})") from error
  finally:
    partial.unlink(missing_ok=True)


if __name__ == "__main__":
  launch.run(main)
