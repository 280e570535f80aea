import itertools
import json
import resource
import shutil
import textwrap

import numpy as np
import pytest
import tiny_runs as runs

from perceiver_jax.viz import image_layout

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def limit_files():
  """Returns a function that limits the size of files, as a full disk does."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  set_limit = lambda size: resource.setrlimit(
    resource.RLIMIT_FSIZE, (size, hard)
  )
  yield set_limit
  set_limit(soft)


@pytest.fixture
def folder_config(tmp_path):
  """Returns the flag of a config for images in folders, and the folder."""
  images = tmp_path / "images"
  file = tmp_path / "mine.py"
  file.write_text(
    textwrap.dedent(f"""
      from configs import digits
      def get_config():
        config = digits.get_config("smoke")
        config.data.source = "image_folder"
        config.data.source_args.image_folder.directory = {str(images)!r}
        return config
    """)
  )
  return f"--config={file}", images


def test_a_run_prints_its_metrics_and_files(trained_once):
  folder, done = trained_once
  assert done.err == ""
  results = json.loads((folder / "results.json").read_text())
  accuracy = results["metrics"]["eval/accuracy"]
  for line in (
    f"eval/accuracy: {accuracy:.4f}",
    f"results: {folder / 'results.json'}",
    f"report:  {folder / 'report.html'}",
  ):
    assert line in done.out.splitlines()
  assert (folder / "report.html").exists()


def test_repeating_the_command_of_a_finished_run_prints_its_metrics(
  call, trained, smoke_flag
):
  done = call("train", f"--workdir={trained}", smoke_flag, "--num_devices=1")
  assert done.status == 0, done.err
  assert "eval/accuracy: " in done.out
  assert "step 2/4" not in done.out


INVALID = {
  "leaf": (
    ["--config.batchsize=3"],
    ["--config.batchsize", "did you mean 'batch_size'", "num_steps"],
  ),
  "deep leaf": (
    ["--config.model.encoder.num_latent=3"],
    ["'num_latent' in config.model.encoder", "did you mean 'num_latents'"],
  ),
  "leaf of a leaf": (["--config.seed.x=3"], ["--config.seed.x", "no 'x'"]),
  "type": (["--config.batch_size=many"], ["--config.batch_size=many", "int"]),
  "fraction": (["--config.num_steps=1.5"], ["--config.num_steps=1.5"]),
  "flag": (["--num_device=1"], ["'num_device'", "num_devices"]),
  "no value": (["--config.seed"], ["--config.seed"]),
  "number of devices": (["--num_devices=-1"], ["--num_devices=-1"]),
  "too many devices": (["--num_devices=99"], ["--num_devices is 99", "8"]),
  "argument": (["batch_size=8"], ["'batch_size=8'", "flags start with --"]),
  "task": (["--config.task=chess"], ["'chess'", "image_classification"]),
  "source": (
    ["--config.data.source=x"],
    ["'x'", "digit_pairs, idx, image_folder, image_list, tfds"],
  ),
  "split": (["--config.data.eval_split=x"], ["'x'", "train, test"]),
  "no directory": (
    ["--config.data.source=image_folder"],
    ["no directory is given", "DIRECTORY/SPLIT/CLASS"],
  ),
  "classes": (
    ["--config.model.num_classes=9"],
    ["config.model.num_classes is 9", "10 classes"],
  ),
  "batch": (
    ["--config.batch_size=6", "--num_devices=4"],
    ["config.batch_size is 6", "4 devices", "multiple of 4"],
  ),
  "heads": (
    ["--config.model.encoder.num_self_attend_heads=3"],
    ["config.model", "3 heads do not divide 16", "number of heads"],
  ),
  "position encoding": (
    ["--config.model.adapter.position_encoding=x"],
    ["config.model", "'x'", "fourier, trainable"],
  ),
  "decoder": (
    ["--config.model.decoder.kind=x"],
    ["'x'", "classification", "average_and_project"],
  ),
  "no latents": (["--config.model.encoder.num_latents=0"], ["config.model"]),
  "negative size": (
    ["--config.model.encoder.num_latents=-1"],
    ["config.model.encoder.num_latents is -1"],
  ),
  "image shape": (
    ["--config.data.image_shape=(4, 4, 1)"],
    ["config.data.image_shape is (4, 4, 1)", "(8, 8, 1)"],
  ),
  "no image shape": (
    ["--config.data.image_shape=8"],
    ["config.data.image_shape is (8,)", "height, width and channels"],
  ),
  "optimizer": (["--config.optimizer.name=x"], ["'x'", "lamb, adamw"]),
  "length": (["--config.num_epochs=1"], ["num_steps is 4", "num_epochs is 1"]),
  "interval": (["--config.log.every_steps=0"], ["config.log.every_steps is 0"]),
  "kept checkpoints": (
    ["--config.checkpoint.keep_latest=0"],
    ["config.checkpoint.keep_latest is 0"],
  ),
  "seed": (["--config.seed=-1"], ["config.seed is -1"]),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_flags_are_refused_and_write_nothing(
  refuses, tmp_path, smoke_flag, case
):
  arguments, parts = INVALID[case]
  workdir = tmp_path / "run"
  done = refuses(
    "train", f"--workdir={workdir}", smoke_flag, *arguments, parts=parts
  )
  assert done.out == ""
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["--config is missing", "configs/digits.py"]),
    (["--config="], ["configs/digits.py"]),
    (
      ["--config=configs/digit.py"],
      ["'configs/digit.py'", "configs/digits.py"],
    ),
  ],
)
def test_a_missing_config_is_refused(refuses, tmp_path, arguments, parts):
  refuses("train", f"--workdir={tmp_path / 'x'}", *arguments, parts=parts)
  assert not (tmp_path / "x").exists()


def test_an_unknown_variant_is_refused(refuses, tmp_path, smoke_flag):
  flag = smoke_flag.replace("smoke", "large")
  parts = ["error: unknown variant 'large'", "smoke"]
  refuses("train", f"--workdir={tmp_path}", flag, parts=parts)


@pytest.mark.parametrize(
  ("workdir", "parts"),
  [
    ([], ["--workdir is missing"]),
    (["--workdir="], ["--workdir is missing"]),
    (["--workdir=ftp://host/x"], ["ftp://host/x is neither", "gs://"]),
    (["--workdir=/dev/null/x"], ["/dev/null/x", "--workdir"]),
    (["--workdir=/proc/x"], ["--workdir=/proc/x can't be written to"]),
  ],
)
def test_an_unusable_workdir_is_refused(refuses, smoke_flag, workdir, parts):
  refuses("train", *workdir, smoke_flag, parts=parts)


def test_the_workdir_of_another_config_is_refused(refuses, trained, smoke_flag):
  before = runs.contents(trained)
  refuses(
    "train",
    *(f"--workdir={trained}", smoke_flag, "--config.num_steps=9"),
    parts=["num_steps is 4 there and 9 here", "--workdir"],
  )
  assert runs.contents(trained) == before


def test_a_workdir_without_its_config_is_refused(refuses, trained, smoke_flag):
  (trained / "config.json").unlink()
  before = runs.contents(trained)
  parts = ["has checkpoints but no config.json"]
  refuses("train", f"--workdir={trained}", smoke_flag, parts=parts)
  assert runs.contents(trained) == before


def test_checkpoints_copied_from_another_model_are_refused(
  refuses, trained, smoke_flag, tmp_path
):
  workdir = tmp_path / "other"
  workdir.mkdir()
  config = json.loads((trained / "config.json").read_text())
  config["model"]["decoder"]["num_query_channels"] = 32
  (workdir / "config.json").write_text(json.dumps(config))
  shutil.copytree(trained / "checkpoints", workdir / "checkpoints")
  before = runs.contents(workdir / "checkpoints")
  refuses(
    "train",
    *(f"--workdir={workdir}", smoke_flag, "--num_devices=1"),
    "--config.model.decoder.num_query_channels=32",
    parts=["is of another model", "decoder", "float32["],
  )
  assert runs.contents(workdir / "checkpoints") == before


@pytest.mark.parametrize(
  ("made", "part"),
  [
    ([], "no directory"),
    (["train"], "the folder of a class (found: train)"),
    (["train", "test"], "the folder of a class (found: test, train)"),
    (["train/a", "test/a"], "the folder of a class (found: test, train)"),
  ],
)
def test_a_folder_without_images_is_refused(
  refuses, folder_config, tmp_path, made, part
):
  flag, images = folder_config
  for name in made:
    (images / name).mkdir(parents=True)
  workdir = tmp_path / "run"
  refuses("train", f"--workdir={workdir}", flag, parts=[part, str(images)])
  assert not workdir.exists()


def test_a_time_limit_ends_a_run_with_status_75(call, tmp_path, smoke_flag):
  done = call(
    "train",
    *(f"--workdir={tmp_path}", smoke_flag, "--num_devices=1"),
    "--config.max_seconds=1e-6",
  )
  assert (done.status, done.err) == (75, "")
  assert "out of time at step 1" in done.out


# After the test above, which caches the compiled step: this one can't.
@pytest.mark.slow
def test_a_run_resumes_after_a_full_disk(
  refuses, call, tmp_path, smoke_flag, limit_files, no_report
):
  workdir = tmp_path / "run"
  flags = f"--workdir={workdir}", smoke_flag, "--num_devices=1"
  for size, part in (
    (500, "can't be written to: file too large"),
    (20_000, "checkpoint of step 2 could not be written"),
  ):
    limit_files(size)
    refuses("train", *flags, parts=[part, str(workdir), "--workdir"])
  limit_files(resource.RLIM_INFINITY)
  assert call("train", *flags).status == 0
  assert runs.checkpoint_steps(workdir) == [2, 4]
  assert len(runs.records(workdir)) == 3


@pytest.mark.slow
def test_a_run_resumes_with_data_that_was_moved(call, folder_config, tmp_path):
  flag, images = folder_config
  rng = np.random.default_rng(0)
  for split, label in itertools.product(("train", "test"), range(10)):
    folder = images / split / str(label)
    folder.mkdir(parents=True)
    for name in "ab":
      image = rng.integers(0, 256, (8, 8, 3), np.uint8)
      (folder / f"{name}.png").write_bytes(image_layout.png_bytes(image))
  workdir, moved = tmp_path / "run", tmp_path / "moved"
  flags = f"--workdir={workdir}", flag, "--num_devices=1"
  assert call("train", *flags, "--config.max_seconds=1e-6").status == 75
  images.rename(moved)
  flags += (f"--config.data.source_args.image_folder.directory={moved}",)
  assert call("train", *flags, "--config.max_seconds=1e-6").status == 75
  assert runs.checkpoint_steps(workdir) == [1, 2]
  stored = json.loads((workdir / "config.json").read_text())
  where = stored["data"]["source_args"]["image_folder"]["directory"]
  assert where == str(moved)
  (moved / "train" / "3" / "a.png").unlink()
  refused = call("train", *flags)
  assert refused.status == 2
  assert "has 19 training examples" in refused.err


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_needs_neither_ascii_nor_a_home(program, tmp_path):
  folder = tmp_path / "Läufe und mehr" / "数字 1"
  environment = {"LC_ALL": "C", "HOME": "/dev/null/home", "XDG_CACHE_HOME": ""}
  run = program(folder, {"num_steps": 2}, environment=environment)
  status, _, err = run.end()
  assert status == 0, err
  assert runs.checkpoint_steps(folder)[-1] == 2
  assert (folder / "report.html").exists()
