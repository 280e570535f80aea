"""Tests of submissions to GLUE, with runs that are not trained."""

import zipfile

import numpy as np
import pytest

from configs import glue as config_file
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.errors import UserError
from perceiver_jax.models.perceiver import Outputs
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop, restore, workdir


@pytest.fixture
def benchmark(tmp_path):
  """Writes test sets in the layout of GLUE: two texts each, out of order."""
  root = tmp_path / "glue"
  for name, task in glue_tasks.TASKS.items():
    if name in glue_tasks.TINY:
      continue
    texts = task.columns[:-1]
    lines = ["\t".join(("index", *texts))]
    lines += ["\t".join((str(i), *(f"{i} {t}" for t in texts))) for i in (1, 0)]
    for part in task.parts:
      path = root / task.folder / f"test{part}.tsv"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text("\n".join(lines))
  (root / "AX" / "test.tsv").rename(root / "AX.tsv")
  return root


@pytest.fixture
def run(tmp_path, benchmark, monkeypatch):
  """Returns a function that writes runs which predict by the first character.

  The prediction is class 0 or the score -1 for a text that starts with 0, and
  the last class or the score 3.25 for one that starts with 1.
  """

  def predict(batch):
    ones = (batch["tokens"][:, 0] == ord("1") + 6).astype(np.float32)
    logits = np.stack([3.25 - 4.25 * (1 - ones), 4 * ones, 5 * ones], 1)
    counts = [task.num_outputs for task in predicted[-1].tasks.values()]
    if counts == [1]:
      return Outputs(logits[:, :1], None, (), None)
    logits = np.stack([np.full_like(ones, 3), 4 * ones, 5 * ones], 1)
    return Outputs(logits[:, : max(counts)], None, (), None)

  predicted = []

  def fake(config, task, folder, which):
    assert which == "best"
    return task

  def predictor(task):
    def call(batch):
      predicted.append(task)
      return predict(batch)

    return call

  monkeypatch.setattr(restore, "restore", fake)
  monkeypatch.setattr(restore, "predictor", predictor)

  def make(name, source="files"):
    folder = tmp_path / "runs" / name
    config = config_file.get_config(name)
    config.data.source = source
    config.data.source_args.files.data_dir = str(benchmark)
    workdir.write(folder, config, tasks.make_task(config).metadata())
    return folder

  return make


def _contents(path):
  with zipfile.ZipFile(path) as archive:
    return {
      name: archive.read(name).decode().splitlines()
      for name in archive.namelist()
    }


def test_a_submission_has_a_file_for_every_task(script, run, tmp_path):
  folders = [run(name) for name in glue_tasks.GLUE]
  out = tmp_path / "out.zip"
  done = script("evaluation.submit_glue", f"--out={out}", *folders)
  assert done.status == 0, done.err
  files = _contents(out)
  assert set(files) == {
    "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv",
    "MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv", "WNLI.tsv", "AX.tsv",
  }  # fmt: skip
  predictions = {
    "CoLA.tsv": ("0", "1"),
    "MRPC.tsv": ("0", "1"),
    "QNLI.tsv": ("entailment", "not_entailment"),
    "RTE.tsv": ("entailment", "not_entailment"),
    "MNLI-m.tsv": ("entailment", "contradiction"),
    "MNLI-mm.tsv": ("entailment", "contradiction"),
    "AX.tsv": ("entailment", "contradiction"),
    "STS-B.tsv": ("0.000", "3.250"),
  }
  for name, (first, second) in predictions.items():
    head = "index\tprediction"
    assert files[name] == [head, f"0\t{first}", f"1\t{second}"], name
  assert len(files["WNLI.tsv"]) == 147
  assert set(files["WNLI.tsv"][1:]) == {f"{i}\t0" for i in range(146)}


def test_a_task_without_a_run_is_named(script, run, refused, tmp_path):
  out = tmp_path / "out.zip"
  folder = run("rte")
  refused(
    "evaluation.submit_glue", f"--out={out}", folder,
    parts=["no run has the task cola, mnli, mrpc", "--partial"],
  )  # fmt: skip
  assert not out.exists()
  done = script("evaluation.submit_glue", f"--out={out}", "--partial", folder)
  assert done.status == 0, done.err
  assert set(_contents(out)) == {"RTE.tsv", "WNLI.tsv"}


def test_missing_runs_and_unwritable_files_are_refused(refused, run, tmp_path):
  refused("evaluation.submit_glue", parts=["no run is given"])
  refused("evaluation.submit_glue", tmp_path / "none", parts=["none"])
  refused(
    "evaluation.submit_glue", "--partial", f"--out={tmp_path}/no/out.zip",
    run("rte"),
    parts=["no/out.zip can't be written", "there is no"],
  )  # fmt: skip


def test_incomplete_and_inconsistent_test_sets_are_reported(
  script, run, refused, benchmark, tmp_path
):
  folder, out = run("rte"), tmp_path / "out.zip"
  done = script("evaluation.submit_glue", "--partial", f"--out={out}", folder)
  assert "RTE.tsv: 2 predictions; the leaderboard expects 3,000" in done.out
  path = benchmark / "RTE" / "test.tsv"
  path.write_text(path.read_text().replace("\n1\t", "\n0\t"))
  refused(
    "evaluation.submit_glue", "--partial", "--overwrite", f"--out={out}",
    folder,
    parts=["RTE.tsv: 2 examples have 1 different numbers"],
  )  # fmt: skip


def test_a_missing_test_set_is_refused_before_predicting(
  run, refused, benchmark, tmp_path, monkeypatch
):
  folder = run("mnli")
  (benchmark / "AX.tsv").unlink()
  monkeypatch.setattr(restore, "restore", lambda *_: pytest.fail("restored"))
  refused(
    "evaluation.submit_glue", "--partial", f"--out={tmp_path}/out.zip", folder,
    parts=["diagnostic.tsv can't be read"],
  )  # fmt: skip


def test_a_missing_checkpoint_is_refused_before_predicting(
  run, refused, tmp_path, monkeypatch
):
  def fake(config, task, folder, which):
    if folder.name == "cola":
      raise UserError("no checkpoint")

  monkeypatch.setattr(restore, "restore", fake)
  monkeypatch.setattr(restore, "predictor", lambda _: pytest.fail("predicted"))
  refused(
    "evaluation.submit_glue", "--partial", f"--out={tmp_path}/out.zip",
    run("rte"), run("cola"),
    parts=["no checkpoint"],
  )  # fmt: skip


def test_an_existing_zip_is_replaced_only_with_overwrite(
  script, run, refused, tmp_path
):
  out, folder = tmp_path / "out.zip", run("rte")
  out.write_text("of another day")
  flags = "--partial", f"--out={out}"
  refused(
    "evaluation.submit_glue", *flags, folder,
    parts=["out.zip exists", "--overwrite"],
  )  # fmt: skip
  assert out.read_text() == "of another day"
  done = script("evaluation.submit_glue", *flags, "--overwrite", folder)
  assert done.status == 0, done.err
  assert "RTE.tsv" in _contents(out)


def test_runs_of_other_tasks_than_glues_are_refused(run, refused, tmp_path):
  folder = run("word_order,smoke", source="tiny")
  refused(
    "evaluation.submit_glue", "--partial", f"--out={tmp_path}/out.zip", folder,
    parts=["no run has the task cola"],
  )  # fmt: skip


@pytest.mark.slow
def test_a_trained_run_predicts_a_test_set(script, tmp_path):
  folder = tmp_path / "glue" / "RTE"
  folder.mkdir(parents=True)
  rows = [f"{i}\tone {i}\ttwo" for i in range(12)]
  head = "index\tsentence1\tsentence2"
  (folder / "test.tsv").write_text("\n".join([head, *rows]))
  labels = ("entailment", "not_entailment")
  labeled = [f"{row}\t{labels[i % 2]}" for i, row in enumerate(rows)]
  for name in ("train", "dev"):
    text = "\n".join([f"{head}\tlabel", *labeled])
    (folder / f"{name}.tsv").write_text(text)
  config = config_file.get_config("own,smoke")
  config.data.source_args.files.data_dir = str(tmp_path / "glue")
  config.data.update(train_split="train", eval_split="validation")
  config.model.decoder.outputs = {"rte": 2}
  run = tmp_path / "run"
  loop.Trainer(config, tasks.make_task(config), run).run()
  out = tmp_path / "out.zip"
  done = script("evaluation.submit_glue", "--partial", f"--out={out}", run)
  assert done.status == 0, done.err
  head, *lines = _contents(out)["RTE.tsv"]
  assert [line.split("\t")[0] for line in lines] == [str(i) for i in range(12)]
  assert {line.split("\t")[1] for line in lines} <= set(labels)
