"""Tests of the n-gram baseline of language models."""

import json
import re

import pytest

from configs import masked_lm, perceiver_ar
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import workdir


def write(folder, config, metrics):
  """Writes the files of a finished run that the script reads."""
  workdir.write(folder, config, tasks.make_task(config).metadata())
  results = json.dumps({"metrics": metrics})
  (folder / "results.json").write_text(results)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "mlm"
  config = masked_lm.get_config("byte_bert,smoke")
  write(folder, config, {"eval/accuracy": 0.1234})
  return folder


def test_an_autoregressive_run_is_compared_in_bits_per_byte(script, tmp_path):
  train, test = tmp_path / "train.txt", tmp_path / "test.txt"
  train.write_text("abcd\n" * 50)
  test.write_text("abcd\n")
  config = perceiver_ar.get_config("own")
  files = config.data.corpora.own.arguments.files
  files.update(train=str(train), eval=str(test), documents="line")
  write(tmp_path / "run", config, {"eval/bits_per_byte": 1.5})
  done = script("evaluation.ngram_baseline", f"--workdir={tmp_path / 'run'}")
  assert done.status == 0, done.err
  own, ngram = map(float, re.findall(r"([\d.]+) bits per byte", done.out))
  assert own == 1.5
  assert 0 < ngram < 1


def test_a_run_without_text_is_refused(script, tmp_path):
  write(tmp_path / "run", perceiver_ar.get_config("copy"), {})
  done = script("evaluation.ngram_baseline", f"--workdir={tmp_path / 'run'}")
  assert (done.status, "'mirrored', not on text" in done.err) == (2, True)


def test_the_accuracies_of_the_run_and_of_n_grams_are_printed(script, run):
  done = script("evaluation.ngram_baseline", f"--workdir={run}")
  assert done.status == 0, done.err
  own, ngram = map(float, re.findall(r"([\d.]+)%", done.out))
  assert own == 12.34
  assert 20 < ngram < 40


def test_a_lower_order_has_a_lower_accuracy(script, run):
  shares = [
    float(
      re.findall(
        r"gram *([\d.]+)%",
        script(
          "evaluation.ngram_baseline", f"--workdir={run}", f"--order={n}"
        ).out,
      )[0]
    )
    for n in (1, 4)
  ]
  assert shares[0] < shares[1]


def test_a_folder_without_a_finished_run_is_refused(script, run, tmp_path):
  assert (
    script("evaluation.ngram_baseline", f"--workdir={tmp_path}").status == 2
  )
  (run / "results.json").rename(run / "away.json")
  done = script("evaluation.ngram_baseline", f"--workdir={run}")
  (run / "away.json").rename(run / "results.json")
  assert (done.status, "not finished" in done.err) == (2, True)
