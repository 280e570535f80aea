"""Tests of the n-gram baseline of masked language modeling."""

import json
import re

import pytest

from configs import masked_lm
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Writes the files of a finished run that the script reads."""
  folder = tmp_path_factory.mktemp("runs") / "mlm"
  config = masked_lm.get_config("byte_bert,smoke")
  workdir.write(folder, config, tasks.make_task(config).metadata())
  results = {"metrics": {"eval/accuracy": 0.1234}}
  (folder / "results.json").write_text(json.dumps(results))
  return folder


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
