"""Writes predictions on GLUE's test sets as a zip file for the leaderboard.

  python -m scripts.evaluation.submit_glue --out=FILE.zip runs/cola runs/mnli

The folders are runs of configs/glue.py on one task or several; where two runs
have the same task, the later one predicts it. Each run predicts the test sets
of its tasks with its best checkpoint and reads them from the source of its
training data. A run of MNLI also predicts the diagnostic set, AX (with
source=files: diagnostic/diagnostic.tsv).

The leaderboard (https://gluebenchmark.com) requires a file for every task.
WNLI, which the paper leaves out, is filled with its more frequent class. Any
other task without a run is an error unless --partial is given.
"""

import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from tqdm import tqdm

from experiments import launch
from experiments.predictions import outputs as outputs_lib
from perceiver_jax import files as files_lib
from perceiver_jax.data.core.source import Source
from perceiver_jax.data.text import glue_examples
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import glue as glue_task
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import restore, workdir

_OUT = flags.DEFINE_string("out", "submission.zip", "The zip to write.")
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", "best", "Checkpoint of each run: latest, best, or a step."
)
_PARTIAL = flags.DEFINE_bool(
  "partial", False, "Write the zip even if tasks have no run."
)
_BATCH = flags.DEFINE_integer(
  "batch_size", 32, "Texts at a time.", lower_bound=1
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the zip of --out.")

# Task, split and number of examples of each file in a submission.
_FILES = {
  "CoLA.tsv": ("cola", "test", 1_063),
  "SST-2.tsv": ("sst2", "test", 1_821),
  "MRPC.tsv": ("mrpc", "test", 1_725),
  "STS-B.tsv": ("stsb", "test", 1_379),
  "QQP.tsv": ("qqp", "test", 390_965),
  "MNLI-m.tsv": ("mnli", "test_matched", 9_796),
  "MNLI-mm.tsv": ("mnli", "test_mismatched", 9_847),
  "QNLI.tsv": ("qnli", "test", 5_463),
  "RTE.tsv": ("rte", "test", 3_000),
  "AX.tsv": ("ax", "test", 1_104),
}
_HEAD = "index\tprediction"
_WNLI = [_HEAD, *(f"{i}\t0" for i in range(146))]


class _Run(NamedTuple):
  """A finished run.

  Attributes:
    folder: Its workdir.
    config: Its config.
    task: Its task.
  """

  folder: Path
  config: Any
  task: glue_task.Glue


def main(argv: Sequence[str]) -> None:
  """Predicts and writes the zip."""
  if len(argv) < 2:
    raise UserError("no run is given; name folders of runs of configs/glue.py")
  out = files_lib.as_path(_OUT.value).expanduser()
  if not out.parent.is_dir():
    raise UserError(f"{out} can't be written: there is no {out.parent}")
  if out.exists() and not _OVERWRITE.value:
    raise UserError(f"{out} exists; give another --out, or --overwrite")
  outputs_lib.check_writable(out, "another --out")
  runs = [_open(files_lib.as_path(name).expanduser()) for name in argv[1:]]
  owners = {name: run for run in runs for name in run.task.tasks}
  known = {name for name, _, _ in _FILES.values()} - {"ax"}
  missing = sorted(known - owners.keys())
  if len(missing) == len(known) or (missing and not _PARTIAL.value):
    raise UserError(
      f"no run has the task {', '.join(missing)}; name a run of each, or"
      " give --partial"
    )
  # All sources and checkpoints are read first, since the predictions may take
  # hours.
  sources = {
    file: _examples(owners[_model_task(name)], name, split)
    for file, (name, split, _) in _FILES.items()
    if _model_task(name) in owners
  }
  jobs = []
  for run in runs:
    files = [f for f in sources if owners[_model_task(_FILES[f][0])] is run]
    if files:
      _restore(run)
      jobs.append((run, {file: sources[file] for file in files}))
  contents = {"WNLI.tsv": _WNLI}
  for run, its_sources in jobs:
    contents |= _predictions(run, its_sources)
  _write(out, contents)
  print(f"{len(sources)} files of predictions: {out}")


def _model_task(name: str) -> str:
  """Returns the task whose model predicts: MNLI for the diagnostic set."""
  return "mnli" if name == "ax" else name


def _open(folder: Path) -> _Run:
  config = workdir.read_config(folder, "data", "model")
  task = tasks.make_task(config, workdir.read_metadata(folder))
  if not isinstance(task, glue_task.Glue):
    raise UserError(f"{folder} holds a run of {config.task!r}, not of glue")
  return _Run(folder, config, task)


def _examples(run: _Run, name: str, split: str) -> Source:
  data = run.config.data
  arguments = data.source_args.to_dict().get(data.source, {})
  return glue_examples.make_examples(
    data.source, task=name, split=split, **arguments
  )


def _restore(run: _Run) -> restore.Restored:
  return restore.restore(run.config, run.task, run.folder, _CHECKPOINT.value)


def _predictions(
  run: _Run, sources: Mapping[str, Source]
) -> dict[str, list[str]]:
  """Predicts the files of a run; its parameters are freed afterwards."""
  restored = _restore(run)
  predict = restore.predictor(restored)
  del restored
  return {
    file: _lines(run.task, file, source, predict)
    for file, source in sources.items()
  }


def _lines(
  task: glue_task.Glue,
  file: str,
  source: Source,
  predict: Callable[[Any], Any],
) -> list[str]:
  """Predicts a file of the submission, in the order of example numbers."""
  name, _, size = _FILES[file]
  name, predictions = _model_task(name), {}
  classes, labels = task.tasks[name].classes, task.tasks[name].labels
  batches = task.test_data(name, source, global_batch=_BATCH.value)
  bar = tqdm(batches, file, batches.num_batches(), leave=False,
             disable=not sys.stderr.isatty())  # fmt: skip
  for batch in bar:
    outputs = predict(batch).logits
    for number, row in zip(batch["number"], outputs, strict=True):
      answer, _ = task.texts.answer(name, row)
      predictions[int(number)] = (
        labels[classes.index(answer)] if classes else answer
      )
  if len(predictions) != len(source):
    raise UserError(
      f"{file}: {len(source)} examples have {len(predictions)} different"
      " numbers; download the test set again"
    )
  if len(predictions) != size:
    print(
      f"{file}: {len(predictions):,} predictions; the leaderboard expects"
      f" {size:,}"
    )
  return [
    _HEAD,
    *(f"{number}\t{predictions[number]}" for number in sorted(predictions)),
  ]


def _write(path: Path, contents: Mapping[str, Sequence[str]]) -> None:
  """Writes the zip atomically."""
  with (
    outputs_lib.writing(path, "another --out"),
    files_lib.replacing(path) as partial,
    zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
  ):
    for name, lines in contents.items():
      archive.writestr(name, "\n".join(lines) + "\n")


if __name__ == "__main__":
  launch.run(main)
