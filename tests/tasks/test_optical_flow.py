"""Tests of the optical flow task and its runs."""

import functools

import jax
import numpy as np
import pytest
import task_helpers
import tiny_runs as runs
from jax import numpy as jnp

from configs import digits
from configs import optical_flow as config_file
from perceiver_jax.data.clips import video, video_writer
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.images import codec
from perceiver_jax.errors import UserError
from perceiver_jax.models.modalities import flow as flow_adapter
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop, workdir

pytestmark = pytest.mark.usefixtures("compile_once")

SIZE = (16, 24)


task_of = functools.partial(task_helpers.make_task, config_file)


def outputs(pixels):
  return task_helpers.outputs(np.divide(pixels, flow_adapter.PIXELS_PER_UNIT))


def pair_batch(error, valid=None):
  flow = np.random.default_rng(0).normal(size=(3, *SIZE, 2)).astype(np.float32)
  valid = np.ones((3, *SIZE), bool) if valid is None else valid
  batch = {
    "flow": np.where(valid[..., None], flow, np.nan),
    "valid": valid,
    "occluded": np.zeros((3, *SIZE), bool),
    "mask": np.ones(3, np.float32),
  }
  return outputs(flow + np.float32(error)), batch


def test_the_loss_is_the_end_point_error_of_known_pixels():
  valid = np.ones((3, *SIZE), bool)
  valid[0, 3:], valid[1] = False, False
  predicted, batch = pair_batch((3, 4), valid)
  total, count = task_of().loss(predicted, batch)["loss"]
  # One of the three pairs has no known pixels, and so no loss.
  assert float(count) == 3
  assert float(total) == pytest.approx(2 * 5, rel=1e-4)


def test_the_robust_loss_is_that_of_pwc_net():
  predicted, batch = pair_batch((3, 4))
  total, count = task_of(loss="robust").loss(predicted, batch)["loss"]
  # The 0.01 is added to differences of flow divided by 20.
  expected = (7 / 20 + 0.01) ** 0.4
  assert float(total / count) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["epe", "robust"])
def test_gradients_are_finite_and_zero_at_unknown_pixels(loss):
  task, valid = task_of(loss=loss), np.ones((3, *SIZE), bool)
  valid[:, :5] = False
  predicted, batch = pair_batch((0, 0), valid)
  flow = np.where(valid[..., None], batch["flow"], 0)
  logits = jnp.asarray(flow / flow_adapter.PIXELS_PER_UNIT)
  slope = jax.grad(
    lambda x: task.loss(predicted._replace(logits=x), batch)["loss"][0]
  )(logits)
  assert np.isfinite(slope).all()
  assert not np.asarray(slope)[:, :5].any()


@pytest.mark.parametrize("role", ["train", "eval"])
@pytest.mark.parametrize(
  ("name", "frames"),
  [
    ("sintel", ["clean/a/frame_0001.png", "clean/a/frame_0002.png"]),
    ("kitti", ["image_2/000000_10.png", "image_2/000000_11.png"]),
  ],
)
def test_a_split_without_ground_truth_is_refused(tmp_path, role, name, frames):
  part = {"sintel": "test", "kitti": "testing"}[name]
  for frame in frames:
    path = tmp_path / part / frame
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codec.encode_png(np.zeros((16, 24, 3), np.uint8)))
  leaves = {
    f"data__{role}_source": name,
    f"data__{role}_split": "test",
    f"data__source_args__{name}__directory": str(tmp_path),
  }
  task = task_of(**leaves)
  make = task.train_dataset if role == "train" else task.eval_datasets
  message = rf"no ground truth; set config\.data\.{role}_split=train"
  with pytest.raises(UserError, match=message):
    make(global_batch=1)


@pytest.mark.parametrize("source", ["rendered", "motorcycle"])
def test_the_error_of_visible_pixels_needs_known_occlusion(source):
  task = task_of(data__eval_source=source)
  (batch,) = task.eval_datasets(global_batch=16)["eval"]
  metrics = task.metrics(outputs(batch["flow"]), batch)
  assert ("epe_visible" in metrics) == (source == "rendered")
  assert "epe" in task.loss(outputs(batch["flow"]), batch)


def test_a_report_of_pairs_without_known_flow_can_be_written():
  predicted, batch = pair_batch((3, 4))
  batch["frames"] = np.zeros((3, 2, *SIZE, 3), np.uint8)
  batch["valid"][:] = False
  notes, _ = task_of().report_sections(predicted, batch, {})
  assert "zero flow" not in notes.body


def test_padding_of_the_last_batch_has_no_effect_on_metrics():
  predicted, batch = pair_batch((3, 4))
  batch["mask"][1:] = 0
  batch["flow"][1:] += 100
  total, count = task_of().metrics(predicted, batch)["epe"]
  assert float(total / count) == pytest.approx(5, rel=1e-4)


def test_the_opening_takes_unchanged_pairs_in_both_directions():
  # The opening is the first four of eight steps.
  task = task_of(
    num_steps=8, data__curriculum__opening_share=0.5,
    data__curriculum__rise_share=0.0,
  )  # fmt: skip
  batches = task_helpers.train_batches(task, 8, size=8)
  config = config_file.get_config("smoke")
  source = flow_sources.make_flow_source(
    "rendered", split="train", **config.data.source_args.rendered.to_dict()
  )
  for batch in batches[:4]:
    index = batch["index"]
    np.testing.assert_array_equal(index[::2], index[1::2])
    for i in range(0, 8, 2):
      pair = source[int(index[i])]
      np.testing.assert_array_equal(batch["frames"][i], pair["frames"])
      np.testing.assert_array_equal(batch["flow"][i], pair["flow"])
      np.testing.assert_array_equal(
        batch["frames"][i + 1], pair["frames"][::-1]
      )
      assert batch["valid"][i].all()
      assert 0.2 < batch["valid"][i + 1].mean() <= 1
  later = batches[4]
  assert (later["index"][::2] != later["index"][1::2]).all()
  changed = [
    not np.array_equal(frames, source[int(i)]["frames"])
    for frames, i in zip(later["frames"], later["index"], strict=True)
  ]
  assert np.mean(changed) > 0.7


def test_a_pixel_of_a_batch_takes_16_bytes():
  # Two frames, flow, and two masks: 1.5 GB at full size.
  (batch,) = task_helpers.train_batches(task_of(), 1, size=8)
  pixels = 8 * SIZE[0] * SIZE[1]
  assert sum(v.nbytes for v in batch.values() if v.ndim > 1) == 16 * pixels
  example = task_of().dummy_batch()
  assert {k: v.dtype for k, v in batch.items() if k != "mask"} == {
    k: v.dtype for k, v in example.items() if k != "mask"
  }


def test_severity_rises_after_the_opening():
  task = task_of(
    num_steps=100, data__curriculum__opening_share=0.1,
    data__curriculum__rise_share=0.4,
  )  # fmt: skip
  severities = [task._severity(8 * step) for step in (0, 9, 10, 30, 50, 99)]
  np.testing.assert_allclose(severities, [0, 0, 0, 0.5, 1, 1])


def test_evaluation_takes_every_unchanged_pair_once():
  task = task_of()
  batches = list(task.eval_datasets(global_batch=6)["eval"])
  index = np.concatenate([b["index"][b["mask"] > 0] for b in batches])
  np.testing.assert_array_equal(index, range(16))
  for batch in batches:
    assert batch.keys() == task.dummy_batch().keys()
    for name, value in task.dummy_batch().items():
      assert batch[name].shape[1:] == value.shape[1:], name
      assert batch[name].dtype == value.dtype, name


@pytest.mark.parametrize(
  ("leaf", "value", "message"),
  [
    ("loss", "l2", "config.loss is 'l2'.*epe, robust"),
    ("data__curriculum__opening_share", 1.5, "opening_share is 1.5"),
    ("data__train_source", "chairs", "unknown source 'chairs'"),
    ("data__train_split", "all", "unknown split 'all'"),
    ("data__augmentation__min_scale", 2.0, "min_scale"),
  ],
)
def test_invalid_configs_are_refused(leaf, value, message):
  with pytest.raises(UserError, match=message):
    task_of(**{leaf: value}).num_train_examples()


def test_missing_data_is_refused(refuses):
  flag = f"--config={runs.ROOT / 'configs' / 'optical_flow.py'}:conv"
  parts = ["source_args.autoflow.directory"]
  refuses("train", flag, "--workdir=run", parts=parts)


def train(variant, folder):
  config = config_file.get_config(variant)
  return loop.Trainer(config, tasks.make_task(config), folder, 1).run()


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
  """Returns folder and outcome of a run; do not write to it."""
  folder = tmp_path_factory.mktemp("runs") / "flow"
  return folder, train("conv,smoke", folder)


def test_a_run_writes_results_and_report(flow_run):
  folder, outcome = flow_run
  assert outcome.stopped == ""
  metrics = outcome.results["metrics"]
  assert {"eval/epe", "eval/zero_epe", "eval/fl"} <= metrics.keys()
  # No pixel moves that fast.
  assert "eval/epe_s40" not in metrics
  page = (folder / "report.html").read_text()
  assert "Optical flow" in page
  assert "Predicting zero flow everywhere" in page
  assert list((folder / "images").iterdir())


def test_predict_computes_the_flow_of_images_and_videos_from_a_run(
  flow_run, call, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  folder, _ = flow_run
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 20, 32, 3), np.uint8)
  for name, frame in zip("ab", frames, strict=True):
    (tmp_path / f"{name}.png").write_bytes(codec.encode_png(frame))
  weights = f"--weights={folder / 'model.safetensors'}"
  run = [f"--workdir={folder}", "--checkpoint=best"]
  for name, flags in (("run", run), ("file", [weights])):
    done = call("predict", "flow", *flags, f"--output={name}", "a.png", "b.png")
    assert (done.status, done.err) == (0, "")
  flow, expected = (
    flow_files.read_flow(tmp_path / name / "a.flo") for name in ("run", "file")
  )
  assert flow.shape == (20, 32, 2)
  np.testing.assert_allclose(flow, expected, atol=1e-4)
  assert np.abs(expected).max() > 1e-3
  video_writer.write_video(tmp_path / "film.mp4", [*frames, frames[0]], 10.0)
  done = call("predict", "flow", *run, "--output=run", "film.mp4")
  assert (done.status, done.out) == (0, "run/film-flow.mp4\n")
  made = list(video.frames(tmp_path / "run" / "film-flow.mp4"))
  assert len(made) == 2


def test_a_run_of_another_task_does_not_predict_flow(refuses, tmp_path):
  config = digits.get_config("smoke")
  workdir.write(tmp_path, config, tasks.make_task(config).metadata())
  image = tmp_path / "a.png"
  image.write_bytes(codec.encode_png(np.zeros((8, 8, 3), np.uint8)))
  parts = ["image_classification", "optical flow"]
  refuses("predict", "flow", f"--workdir={tmp_path}", image, image, parts=parts)


@pytest.mark.slow
def test_the_small_model_is_soon_better_than_zero_flow(tmp_path):
  config = config_file.get_config("small")
  config.update(num_steps=300, ema_decay=0.0)
  config.data.source_args.rendered.num_test = 128
  outcome = loop.Trainer(config, tasks.make_task(config), tmp_path, 1).run()
  metrics = outcome.results["metrics"]
  # Predicting no motion has the error `zero_epe`.
  assert metrics["eval/epe"] < 0.75 * metrics["eval/zero_epe"]


@pytest.mark.slow
def test_a_model_of_separate_frames_can_be_trained(tmp_path):
  assert train("separate,smoke", tmp_path).stopped == ""


@pytest.mark.slow
def test_a_resumed_run_has_the_same_final_state(tmp_path, monkeypatch):
  config = config_file.get_config("smoke")
  config.data.curriculum.opening_share = 0.5
  run = lambda folder: loop.Trainer(
    config, tasks.make_task(config), folder
  ).run()
  run(tmp_path / "whole")
  monkeypatch.setattr(
    loop.interrupts, "Interrupts", runs.stop_at({3: "asked to stop"})
  )
  assert run(tmp_path / "stopped").stopped == "asked to stop"
  monkeypatch.undo()
  run(tmp_path / "stopped")
  runs.assert_same_end(tmp_path / "stopped", tmp_path / "whole")
