"""Tests of every file in `configs/`."""

import contextlib
import importlib
import json
import re
import sys
from pathlib import Path

import jax
import ml_collections
import pytest
import tiny_runs as runs
from absl import flags
from ml_collections import config_flags

from configs import base
from experiments import evaluate_weights
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import config_checks, optimizers, restore, step
from scripts.compile_ahead import variants as config_variants

FILES = [Path(file).stem for file in config_variants.config_files()]


def module(name):
  return importlib.import_module(f"configs.{name}")


def variants(name):
  """Returns the variants in a config's docstring, and each as a smoke run."""
  names = config_variants.names(f"configs/{name}.py")
  return [*names, *(f"{v},smoke" for v in names if v != "smoke")]


CASES = [(name, variant) for name in FILES for variant in variants(name)]


def leaves(config, path=""):
  """Yields the path and the value of every leaf."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from leaves(value, f"{path}{name}.")
    else:
      yield path + name, value


def test_configs_and_variants_are_listed():
  assert "digits" in FILES
  assert ("digits", "smoke") in CASES


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_leaf_can_be_set_on_the_command_line(name, variant, monkeypatch):
  config = module(name).get_config(variant)
  file = runs.ROOT / "configs" / f"{name}.py"
  argv = [
    *("x", f"--config={file}:{variant}"),
    *(f"--config.{leaf}={value}" for leaf, value in leaves(config)),
  ]
  monkeypatch.setattr(sys, "argv", argv)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values)
  values(argv)
  assert values.config.to_dict() == config.to_dict()
  for leaf, value in leaves(config):
    assert value is not None, leaf
    assert not isinstance(value, list), leaf


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_config_can_be_stored_as_json(name, variant):
  config = module(name).get_config(variant).to_dict()
  assert json.loads(json.dumps(config)).keys() == config.keys()


# The leaves that a training state depends on.
_SHAPING = ("task", "model", "optimizer", "data", "precision", "ema_decay")
_BUILT = set()


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_model_and_the_optimizer_can_be_built(name, variant):
  config = module(name).get_config(variant)
  config_checks.check_numbers(config)
  optimizers.from_config(
    config.optimizer, config_checks.num_steps(config, 10_000), config.batch_size
  )
  config = config_variants.complete(config)
  config.precision = "bfloat16"  # In float32 no types can conflict.
  task = tasks.make_task(config, config_variants.metadata(config))
  values = config.to_dict()
  key = json.dumps([values[leaf] for leaf in _SHAPING])
  if key not in _BUILT:  # Some variants train the same model in other ways.
    state = restore.abstract_state(config, task, step.make_mesh(1))
    assert len(jax.tree.leaves(state.params)) > 10
    _BUILT.add(key)
  step.check_batch_size(config.batch_size, 1, config.num_microbatches)


@pytest.mark.parametrize("name", FILES)
def test_dummy_batches_of_an_evaluation_are_like_those_of_the_data(name):
  config = module(name).get_config("smoke")
  task = tasks.make_task(tasks.complete_config(config))
  datasets = task.eval_datasets(
    global_batch=1, process_index=0, process_count=1
  )
  with contextlib.closing(iter(next(iter(datasets.values())))) as batches:
    batch = next(batches)
  dummy = task.dummy_eval_batch()
  # Numbers for the metrics that only some data has.
  assert set(batch) - set(dummy) <= {"num_units", "num_words", "number"}
  for leaf, value in dummy.items():
    assert (batch[leaf].shape, batch[leaf].dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("name", FILES)
def test_the_docstring_of_a_config_has_its_command_and_variants(name):
  docstring = module(name).__doc__
  assert f"python -m experiments.train --config=configs/{name}.py" in docstring
  assert "Variants:" in docstring


SWEEPS = [
  (name, sweep)
  for name in FILES
  for sweep in vars(module(name))
  if sweep.startswith("sweep_")
]


@pytest.mark.parametrize(("name", "sweep"), SWEEPS)
def test_every_point_of_a_sweep_is_a_model(name, sweep):
  file, points = module(name), list(getattr(module(name), sweep)())
  base_variant = _BASES.get(sweep, sweep.split("_")[1])
  configs = []
  for point in points:
    leaves = dict(point)
    variant = leaves.pop("variant", base_variant)
    config = file.get_config(variant)
    config.update_from_flattened_dict(leaves)
    configs.append(config.to_dict())
    if point in (points[0], points[-1]):
      short = file.get_config(f"{variant},smoke")
      short.update_from_flattened_dict(leaves)
      spec = short.model.to_dict()
      task = tasks.make_task(short, evaluate_weights.unnamed_classes(spec))
      restore.abstract_state(short, task, step.make_mesh(1))
  # One point is the base, and all differ.
  assert file.get_config(base_variant).to_dict() in configs
  assert len(set(map(str, configs))) == len(configs) > 1


# The variants that sweeps start from, if not those that their names begin with.
_BASES = {"sweep_baselines": "small"}


def test_the_base_of_figure_5_is_the_papers():
  config = module("imagenet").get_config("figure5")
  encoder = config.model.encoder
  assert (encoder.num_latents, encoder.num_latent_channels) == (512, 512)
  assert (encoder.num_blocks, encoder.num_cross_attends) == (2, 2)
  assert encoder.num_self_attends_per_block == 4
  assert encoder.num_self_attend_heads == 8
  assert not encoder.share_blocks
  assert encoder.share_cross_attends == "none"
  assert (config.batch_size, config.num_steps) == (64, 5_000_000)


@pytest.mark.parametrize("audio", ["raw", "mel"])
def test_audioset_without_video_dropout(audio):
  get = module("audioset").get_config
  config, other = get(f"{audio}_video_no_dropout"), get(f"{audio}_video")
  assert other.data.dropout.image == 0.3
  assert config.data.dropout.image == 0.0
  config.data.dropout.image, config.published = 0.3, other.published
  assert config.to_dict() == other.to_dict()


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_variant_is_refused_with_the_choices(name):
  with pytest.raises(UserError, match=r"unknown variant 'no_such'.*smoke"):
    module(name).get_config("no_such")


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_smoke_runs_are_short(name, variant):
  config = module(name).get_config(variant)
  if "smoke" in variant:
    assert 0 < config.num_steps <= 10
    assert config.batch_size <= 16


@pytest.mark.parametrize(
  ("variant", "expected"),
  [
    ("", ("a", False)),
    ("smoke", ("a", True)),
    ("b", ("b", False)),
    ("b,smoke", ("b", True)),
    ("smoke,b", ("b", True)),
    ("b,", ("b", False)),
  ],
)
def test_parse_splits_a_variant_from_smoke(variant, expected):
  assert base.parse(variant, ("a", "b"), "a") == expected


@pytest.mark.parametrize("variant", ["c", "b,c", "B", " b", "a,b"])
def test_parse_refuses_unknown_variants(variant):
  with pytest.raises(UserError, match=r"choose .*a, b, smoke"):
    base.parse(variant, ("a", "b"), "a")


def test_a_smoke_run_keeps_optimizer_data_and_decoder():
  config, short = (module("digits").get_config(v) for v in ("", "smoke"))
  assert short.optimizer.name == config.optimizer.name
  assert short.data == config.data
  assert short.model.decoder == config.model.decoder


# Perceiver IO, app. A.1; Perceiver, section 4.1; IO, app. A (fine-tuning).
@pytest.mark.parametrize(
  ("variant", "epochs", "rates"),
  [
    ("fourier", 110, {0: 2e-3, 0.49: 2e-3, 0.75: 1e-3, 1: 0}),
    ("icml", 120, {0: 4e-3, 0.69: 4e-3, 0.71: 4e-4, 0.86: 4e-5, 0.96: 4e-6}),
    ("jft_fourier", 0, {0: 2e-3, 0.53: 2e-3, 1: 0}),
    ("jft_conv", 0, {0: 2e-4, 0.53: 2e-4, 1: 0}),
  ],
)
def test_imagenet_learning_rates_are_those_of_the_papers(
  variant, epochs, rates
):
  config = module("imagenet").get_config(variant)
  assert config.num_epochs == epochs
  steps = config_checks.num_steps(config, 1_281_167)
  if epochs == 110:
    assert steps == 137_626  # The last batch is filled from another epoch.
  _, schedule = optimizers.from_config(config.optimizer, steps, 1024)
  for share, rate in rates.items():
    assert float(schedule(share * steps)) == pytest.approx(rate, abs=2e-6)
  # A smaller batch has a proportionally smaller rate, as in the authors' code.
  _, schedule = optimizers.from_config(config.optimizer, steps, 256)
  assert float(schedule(0)) == pytest.approx(rates[0] / 4)


def test_imagenet_variants_differ_and_cite_their_published_accuracy():
  get = module("imagenet").get_config
  listed = [v for v in variants("imagenet") if "smoke" not in v]
  models = {v: str(get(v).model) for v in listed}
  # `icml_1` and `fourier_average` are one model that the two papers train in
  # different ways, and `figure6` trains that of `icml` in smaller batches.
  # Pretraining has other classes.
  assert len(set(models.values())) == len(models) - 2
  assert models["icml_1"] == models["fourier_average"]
  assert models["icml"] == models["figure6"]
  unpublished = (
    "icml_cross_only_12", "icml_image_coordinates", "figure5", "figure6",
  )  # fmt: skip
  for variant in listed:
    published = get(variant).published
    is_pretraining = variant.startswith("jft_pretrain")
    assert published or variant in unpublished or is_pretraining
    if published:
      percent = f"{100 * published['accuracy']:.1f}."
      assert percent in _description("imagenet", variant), variant


def _description(name, variant):
  """Returns the lines of a config's docstring that describe a variant."""
  pattern = rf"^  {variant}: .*(?:\n    .*)*"
  return re.search(pattern, module(name).__doc__, re.MULTILINE)[0]


@pytest.mark.parametrize(
  ("name", "metric", "scale"),
  [("audioset", "mAP", 100), ("kinetics", "video_psnr", 1)],
)
def test_published_metrics_are_those_of_the_docstring(name, metric, scale):
  others = ("smoke", "small", "own", "attention_maps")
  listed = [v for v in variants(name) if not any(map(v.count, others))]
  for variant in listed:
    published = module(name).get_config(variant).published
    value = f"{scale * published[metric]:.2f}".rstrip("0")
    assert value in _description(name, variant), variant
  assert len(listed) == {"audioset": 18, "kinetics": 4}[name]


def test_audioset_rows_of_the_first_paper_have_the_latents_of_imagenet():
  get = module("audioset").get_config
  rows = ("raw", "mel", "video", "raw_video", "mel_video", "mel_video_tuned")
  for row in rows:
    encoder, narrow = (get(v).model.encoder for v in (row, f"{row}_512"))
    assert (encoder.num_latents, encoder.num_latent_channels) == (512, 1024)
    assert narrow.num_latent_channels == 512
    with narrow.unlocked():
      narrow.num_latent_channels = 1024
    assert narrow == encoder
  assert get("average_mel_video").model.encoder.num_latent_channels == 512
  with pytest.raises(UserError, match="unknown variant"):
    get("io_mel_video_512")


def test_the_papers_rows_normalize_on_each_device():
  assert module("digits").get_config("").sync_batch_norm
  for file, variant in (("imagenet", "conv"), ("optical_flow", "conv")):
    assert not module(file).get_config(variant).sync_batch_norm


def test_the_io_recipes_mix_images():
  get = module("imagenet").get_config
  # IO, app. A.2: fine-tuning augments like training from scratch.
  for variant in (
    "fourier", "learned", "conv", "conv_average", "jft_fourier",
    "jft_fourier_projected", "jft_conv",
  ):  # fmt: skip
    config = get(variant)
    assert config.mixing.to_dict() == {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    assert config.label_smoothing == 0.1
    assert config.data.rand_augment.num_layers == 4
  for variant in ("icml", "permuted"):
    assert not any(get(variant).mixing.to_dict().values())
    assert not get(variant).label_smoothing


def test_modelnet40_is_the_papers():
  """Perceiver v2, section 4.3."""
  get = module("modelnet40").get_config
  config = get("")
  assert (config.batch_size, config.num_steps) == (512, 50_000)
  assert config.data.augmentation.to_dict() == {
    "point_scale": 0.01, "rotation": 0.0,
  }  # fmt: skip
  adapter, encoder = config.model.adapter, config.model.encoder
  assert (adapter.num_bands, adapter.max_resolution) == (64, 2 * 1120)
  assert (encoder.num_latents, encoder.num_latent_channels) == (512, 1024)
  assert (encoder.num_cross_attends, encoder.num_blocks) == (2, 2)
  assert encoder.num_self_attends_per_block == 6
  assert config.optimizer.name == "lamb"
  for steps in (0, 25_000, 49_999):
    _, schedule = optimizers.from_config(config.optimizer, 50_000, 512)
    assert float(schedule(steps)) == pytest.approx(1e-3)
  assert config.published["accuracy"] == 0.857
  transformer = get("transformer")
  assert transformer.published["accuracy"] == 0.821
  assert transformer.data.num_points == 44 * 44
  # The baselines differ in the model, and in the number of points.
  for variant in ("transformer", "pointnet"):
    other = get(variant)
    for leaf in ("model", "published"):
      other[leaf] = config[leaf]
    other.data.num_points = config.data.num_points
    assert other.to_dict() == config.to_dict()


@pytest.mark.parametrize(
  ("variant", "row"),
  [
    ("", "the Perceiver, 2,048 points"),
    ("transformer", "`transformer`, 1,936 points"),
    ("pointnet", "`pointnet`, 2,048 points"),
    ("small", "`small`: the Perceiver"),
    ("small_pointnet", "`small_pointnet`"),
    ("small_transformer", "`small_transformer`"),
  ],
)
def test_documented_sizes_of_modelnet40_are_those_of_the_models(variant, row):
  config = module("modelnet40").get_config(variant)
  classes = [""] * config.model.num_classes
  task = tasks.make_task(config, {"class_names": classes})
  state = restore.abstract_state(config, task, step.make_mesh(1))
  count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  page = (runs.ROOT / "docs" / "modelnet40.md").read_text(encoding="utf-8")
  assert re.search(rf"^\| {row} .*\| {count:,} \|", page, re.MULTILINE)
