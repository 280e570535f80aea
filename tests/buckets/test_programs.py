"""Tests of programs that read runs, weights and files in a bucket.

The bucket is in memory; checkpoints need a server, see `test_runs`.
"""

import json

import jax
import made_runs
import numpy as np
import pytest
import tiny_runs as runs
import tiny_weights

from configs import imagenet
from perceiver_jax import files, weights
from perceiver_jax.data.clips import audio
from perceiver_jax.errors import UserError
from perceiver_jax.training.checkpoints.checkpointer import Checkpointer
from scripts.paper_tables import costs

pytestmark = pytest.mark.usefixtures("compile_once", "no_report")


def test_sequences_are_continued_in_a_bucket(call, memory_bucket):
  model = memory_bucket / "model.safetensors"
  weights.save(model, tiny_weights.perceiver_ar())
  files.write_text(memory_bucket / "prompt.json", "[5, 200, 0]")
  out = memory_bucket / "out"
  words = [f"--weights={model}", f"--prompt={memory_bucket}/prompt.json"]
  words += ["--num_tokens=4", f"--output={out}"]
  done = call("predict", "generate", *words)
  assert done.status == 0, done
  with np.load(files.local_file(out / "generated.npz")) as written:
    assert written["sequence_0"][:3].tolist() == [5, 200, 0]


def test_audio_is_written_and_read_in_a_bucket(memory_bucket):
  path, sound = memory_bucket / "a.wav", np.sin(np.arange(4800) / 9)
  audio.write_wav(path, sound)
  heard = audio.read_audio(path)
  np.testing.assert_allclose(heard[:, 0], sound, atol=1e-3)
  files.write_bytes(path, path.read_bytes()[:5000])
  with pytest.raises(UserError, match="bytes are missing at its end"):
    audio.read_audio(path)


def test_a_missing_prompt_in_a_bucket_is_refused(refuses, memory_bucket):
  model = memory_bucket / "model.safetensors"
  weights.save(model, tiny_weights.perceiver_ar())
  prompt = f"{memory_bucket}/none.json"
  words = [f"--weights={model}", f"--prompt={prompt}"]
  refuses("predict", "generate", *words, parts=[prompt, "can't be read"])


def test_a_run_starts_from_weights_in_a_bucket(memory_bucket, tmp_path, capsys):
  runs.train(tmp_path / "first")
  first = weights.load(tmp_path / "first")
  path = f"{memory_bucket}/first.safetensors"
  weights.save(path, first)
  leaves = {"optimizer__learning_rate": 0.0, "ema_decay": 0.9}
  config = runs.tiny_config(init_from=path, **leaves)
  runs.train(tmp_path / "second", config)
  assert f"started from {path}" in capsys.readouterr().out
  second = weights.load(tmp_path / "second")
  jax.tree.map(
    lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-6),
    second.params,
    first.params,
  )


def test_the_results_page_reads_runs_in_a_bucket(
  script, memory_bucket, tmp_path, monkeypatch
):
  monkeypatch.setattr(costs, "of_rows", lambda progress: {})
  folder = memory_bucket / "some runs"
  made_runs.imagenet_run(folder / "first")
  # The weights of an evaluation and those that a run starts from are in buckets
  # too, and are compared by the configs of the runs that have written them.
  short = made_runs.imagenet_run(folder / "short", num_epochs=1.0)
  made_runs.evaluation(folder / "third.json", weights=str(short))
  made_runs.imagenet_run(
    folder / "fourth", "jft_fourier", init_from=f"{short}/model.safetensors"
  )
  for out in (tmp_path / "tables.html", memory_bucket / "tables.html"):
    done = script("paper_tables", f"--runs={folder}", f"--out={out}")
    assert (done.status, done.err) == (0, "")
    page = files.read_text(out)
    assert "78.6 (−0.4)" in page
    link = "https://storage.cloud.google.com/bucket/folder/some%20runs/first"
    assert f'href="{link}/report.html"' in page
    assert "weights: num_epochs 1.0, not 110.0" in page
    assert "init_from: a task of its own" in page
  # A page in a bucket has no links to a disk.
  made_runs.run(
    tmp_path / "local", imagenet.get_config("fourier"), {"eval/accuracy": 0.5}
  )
  script("paper_tables", f"--runs={tmp_path}/local", f"--out={out}")
  page = files.read_text(out)
  assert "50.0" in page
  assert "report.html" not in page


def test_a_run_without_results_in_a_bucket_is_named(script, memory_bucket):
  done = script("paper_tables", f"--runs={memory_bucket}/none")
  assert done.status == 2
  assert f"--runs={memory_bucket}/none has no finished run" in done.err


def test_a_search_with_its_journal_in_a_bucket_is_refused(
  refused, memory_bucket, tmp_path
):
  config = tmp_path / "rates.py"
  config.write_text(
    "from configs import digits\n"
    "get_config = digits.get_config\n"
    "def search_rates(trial):\n"
    "  return {'seed': trial.suggest_int('seed', 0, 9)}\n"
  )
  out = f"--out={memory_bucket}/search"
  words = [f"--config={config}", "--sweep=rates", "--search=tpe", out]
  refused("sweep", *words, parts=[out, "--search", "give a local --out"])
  assert not memory_bucket.exists()


def test_logs_are_read_in_a_bucket(script, memory_bucket):
  heartbeat = {
    "process": 0, "num_processes": 1, "host": "a", "pid": 7, "step": 12,
    "doing": "ended", "time": "2026-01-02 03:04:05+00:00",
  }  # fmt: skip
  logs = memory_bucket / "logs"
  files.write_text(logs / "process-0.json", json.dumps(heartbeat))
  files.write_text(logs / "process-0.log", "hello\n")
  done = script("logs", f"--workdir={memory_bucket}")
  assert done.status == 0, done
  first, second = done.out.splitlines()
  assert "process 0 of 1, pid 7 on a: step 12, ended" in first
  assert second == "  hello"


@pytest.mark.parametrize(
  ("name", "flags"),
  [
    ("data.prepare", ["--dataset=mnist", "--data_dir=gs://b/x"]),
    ("data.prepare_clips", ["--directory=a", "--output=gs://b/x"]),
    ("data.prepare_point_clouds", ["--directory=a", "--output=gs://b/x"]),
    ("data.prepare_replays", ["--replays=a", "--output=gs://b/x"]),
    ("torture", ["--out=gs://b/x"]),
    ("fuzz", ["--keep=gs://b/x"]),
  ],
)
def test_scripts_that_need_a_disk_say_so(
  refused, tmp_path, monkeypatch, name, flags
):
  monkeypatch.chdir(tmp_path)
  refused(name, *flags, parts=[flags[-1], "must be on a disk"])
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["s3", "az", "hf"])
def test_a_run_in_a_bucket_that_orbax_cannot_use_is_refused(
  refuses, refused, kind
):
  run = f"{kind}://b/x"
  config = "--config=configs/digits.py:smoke"
  parts = ["can't hold checkpoints", "only on disks and in gs:// buckets"]
  workdir, out = f"--workdir={run}", f"--out={run}"
  refuses("train", config, workdir, parts=[workdir, *parts])
  refused("sweep", config, "--sweep=seed", out, parts=[out, *parts])
  refused("sweeps.glue", "--init_from=x", out, parts=[out, *parts])
  refused("launch", "--where=local", config, workdir, parts=[workdir, *parts])
  with pytest.raises(UserError, match="can't hold checkpoints"):
    Checkpointer(f"{run}/checkpoints", read_only=True)
