"""Weights of any kind evaluated on the data of a config."""

import hashlib
import importlib
import json
import pickle

import jax
import numpy as np
import pytest
import tiny_runs as runs
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.data.images import codec
from perceiver_jax.models import zoo
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training import restore, step
from perceiver_jax.training.logs import results

pytestmark = pytest.mark.usefixtures("compile_once")

VARIANTS = {
  "imagenet": "conv,smoke",
  "masked_lm": "smoke",
  "optical_flow": "conv,smoke",
  "kinetics": "smoke",
  "glue": "cola,smoke",
}


def config_flag(name, variant=None):
  variant = VARIANTS[name] if variant is None else variant
  return f"--config={runs.ROOT / 'configs' / name}.py:{variant}"


def get_config(name, variant=None):
  module = importlib.import_module(f"configs.{name}")
  return module.get_config(VARIANTS[name] if variant is None else variant)


def random_weights(config):
  """Returns random weights of the model of a config, and statistics."""
  task = tasks.make_task(config)
  abstract = restore.abstract_state(config, task, step.make_mesh(1))
  rng = np.random.default_rng(0)
  draw = lambda x: np.asarray(0.3 * rng.normal(size=x.shape), x.dtype)
  params = jax.tree.map(draw, abstract.params)
  # Running variances are positive.
  state = jax.tree.map(lambda x: abs(draw(x)), abstract.net_state)
  return weights.Weights(config.model.to_dict(), params, state)


def expected_metrics(config, loaded):
  """Returns the metrics of all examples in a single batch on one device."""
  task = tasks.make_task(config)
  model = step.model_of(task, config.precision)

  @jax.jit
  def evaluate(params, state, batch):
    outputs, _ = model.apply(params, state, None, batch, False)
    return task.metrics(outputs, batch)

  means, counts = {}, {}
  for name, source in task.eval_sources().items():
    (batch,) = task.eval_dataset(source, global_batch=len(source))
    sums = evaluate(loaded.params, loaded.state, batch)
    means[name] = metrics_lib.means(
      {
        metric: value
        for metric, value in sums.items()
        if not isinstance(value, metrics_lib.PerExample) and value[1] > 0
      }
    )
    counts[name] = len(source)
  return results.flat_scalars(task.finalize_metrics(means)), counts


def evaluated(call, path, *flags, out):
  done = call("evaluate", f"--weights={path}", *flags, f"--out={out}")
  assert (done.status, done.err) == (0, ""), done.err
  assert f"written to {out}" in done.out
  return json.loads(out.read_text())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_example_counts_once(call, tmp_path, name):
  config = get_config(name)
  loaded = random_weights(config)
  path, out = tmp_path / "model.safetensors", tmp_path / "new" / "out.json"
  weights.save(path, loaded)
  record = evaluated(call, path, config_flag(name), out=out)
  metrics, counts = expected_metrics(config, loaded)
  assert record["metrics"] == pytest.approx(metrics, rel=1e-4, abs=1e-6)
  assert record["num_examples"] == counts
  assert record["unreadable"] == dict.fromkeys(counts, 0)
  clips = name == "kinetics"
  assert record["unit"] == ("windows of clips" if clips else "examples")
  assert record["task"] == config.task
  assert record["config"].endswith(f"{name}.py")
  assert record["variant"] == VARIANTS[name]
  assert record["weights"] == str(path)
  assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
  assert record["published"] == {}
  assert record["differences"] == []
  assert record["device"] == "8 x cpu"
  assert "jax" in record["versions"]


def test_unreadable_images_are_counted(call, tmp_path):
  data = tmp_path / "data"
  for label in range(17):
    image = data / "test" / f"{label:02}" / "image.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(codec.encode_png(np.full((40, 40, 3), label, np.uint8)))
  image.write_bytes(b"damaged")
  path = tmp_path / "model.safetensors"
  weights.save(path, random_weights(get_config("imagenet")))
  record = evaluated(
    call,
    path,
    config_flag("imagenet"),
    "--config.data.source=image_folder",
    f"--config.data.source_args.image_folder.directory={data}",
    out=tmp_path / "out.json",
  )
  assert record["num_examples"] == {"eval": 16}
  assert record["unreadable"] == {"eval": 1}


def test_a_run_gets_the_metrics_of_its_own_evaluation(
  call, trained, tmp_path, smoke_flag
):
  expected = json.loads((trained / "results.json").read_text())
  for path in (trained, trained / weights.EXPORT):
    record = evaluated(call, path, smoke_flag, out=tmp_path / "out.json")
    # Sums over other parts of the data, on eight devices instead of one.
    assert record["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)
    file = trained / weights.EXPORT
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
  "name",
  [
    pytest.param("imagenet", marks=pytest.mark.slow),
    *(
      pytest.param(name, marks=pytest.mark.nightly)
      for name in VARIANTS
      if name != "imagenet"
    ),
  ],
)
def test_a_run_of_each_task_gets_its_own_metrics(call, tmp_path, name):
  run, out = tmp_path / "run", tmp_path / "out.json"
  flags = config_flag(name), f"--workdir={run}", "--num_devices=1"
  done = call("train", *flags)
  assert done.status == 0, done.err
  expected = json.loads((run / "results.json").read_text())["metrics"]
  record = evaluated(call, run, config_flag(name), out=out)
  # On eight devices instead of one, which round differently.
  assert record["metrics"] == pytest.approx(expected, rel=1e-4)


def test_nothing_but_images_is_written_unless_asked_for(
  call, trained, smoke_flag, tmp_path
):
  before = runs.contents(trained)
  images = tmp_path / "images"
  flags = f"--weights={trained}", smoke_flag, f"--images={images}"
  done = call("evaluate", *flags)
  assert (done.status, done.err) == (0, "")
  assert "eval/accuracy" in done.out
  assert "written" not in done.out
  assert runs.contents(trained) == before
  names = ["cross_attention.png", "predictions.png"]
  assert sorted(path.name for path in images.iterdir()) == names


def test_classes_in_another_order_than_those_of_the_run(
  refuses, trained, smoke_flag
):
  names = list("0213456789")
  (trained / "task.json").write_text(json.dumps({"class_names": names}))
  parts = ["the first that differs is number 1", "same order", str(trained)]
  refuses("evaluate", f"--weights={trained}", smoke_flag, parts=parts)


def test_a_folder_of_hugging_face_with_batch_statistics(call, tmp_path):
  config = get_config("imagenet")
  config.model.adapter.padding = "torch"
  config.model.decoder.num_query_channels = 16
  config.model.encoder.gelu = config.model.decoder.gelu = "exact"
  folder = tmp_path / "theirs"
  weights.save_huggingface(folder, random_weights(config))
  out = tmp_path / "out.json"
  record = evaluated(call, folder, config_flag("imagenet"), out=out)
  metrics, _ = expected_metrics(config, weights.load(folder))
  assert record["metrics"] == pytest.approx(metrics, rel=1e-4, abs=1e-6)
  assert record["differences"] == [
    "model.decoder.num_query_channels is 1024 here and 16 in the weights"
  ]


@pytest.fixture
def authors_file(tmp_path):
  """A .pystate file of a small convolutional classifier, and its config."""
  with np.load(runs.ROOT / "tests" / "golden" / "imagenet_conv.npz") as file:
    golden = dict(file)
  trees = {"params": {}, "state": {}}
  for key, value in golden.items():
    collection, _, name = key.partition("/")
    if collection in trees:
      module, leaf = name.rsplit("/", 1)
      trees[collection].setdefault(module, {})[leaf] = value
  # As many classes as there are photos.
  head = trees["params"]["classification_decoder/~/basic_decoder/output"]
  head |= {"w": np.resize(head["w"], (32, 17)), "b": np.resize(head["b"], 17)}
  path = tmp_path / "conv.pystate"
  path.write_bytes(pickle.dumps(trees))
  leaves = {
    "adapter.num_channels": 8,
    "adapter.num_bands": 6,
    "adapter.max_resolution": (8, 8),
    "encoder.num_latents": 16,
    "encoder.num_latent_channels": 32,
    "encoder.num_blocks": 2,
    "encoder.num_self_attends_per_block": 2,
    "encoder.num_self_attend_heads": 4,
    "decoder.num_query_channels": 32,
  }
  return path, {f"model.{name}": value for name, value in leaves.items()}


def test_a_file_of_deepmind_code_with_the_model_of_the_config(
  call, tmp_path, authors_file
):
  path, leaves = authors_file
  config = get_config("imagenet")
  config.update_from_flattened_dict(leaves)
  flags = [f"--config.{name}={value}" for name, value in leaves.items()]
  out = tmp_path / "out.json"
  record = evaluated(call, path, config_flag("imagenet"), *flags, out=out)
  loaded = weights.load(path, spec=config.model.to_dict())
  assert loaded.state
  metrics, _ = expected_metrics(config, loaded)
  assert record["metrics"] == pytest.approx(metrics, rel=1e-4, abs=1e-6)
  assert record["overrides"]["model.encoder.num_latents"] == 16


def test_a_released_file_and_its_published_result(
  call, tmp_path, authors_file, monkeypatch
):
  path, leaves = authors_file
  config = get_config("imagenet")
  config.update_from_flattened_dict(leaves)
  spec = config.model.to_dict()
  loaded = weights.load(path, spec=spec)
  entry = zoo.MODELS["imagenet_conv"]._replace(
    spec=spec,
    raw=tiny_weights.array(32, 32, 3),
    num_parameters=sum(x.size for x in jax.tree.leaves(loaded.params)),
  )
  monkeypatch.setitem(zoo.MODELS, "imagenet_conv", entry)
  out = tmp_path / "out.json"
  row = ["--config.published={'accuracy': 0.821, 'source': 'a table'}"]
  flags = [f"--config.{name}={value}" for name, value in leaves.items()]
  record = evaluated(call, path, config_flag("imagenet"), *row, *flags, out=out)
  assert record["published"] == {"eval/accuracy": 0.821, "source": "a table"}
  # Another model than that of the config is not compared with its row.
  record = evaluated(call, path, config_flag("imagenet"), *row, out=out)
  assert record["published"] == {}
  assert (
    "model.encoder.num_latents is 8 here and 16 in the weights"
    in (record["differences"])
  )


@pytest.fixture
def file(tmp_path):
  """Random weights of the digits' model."""
  path = tmp_path / "digits.safetensors"
  weights.save(path, random_weights(get_config("digits", "smoke")))
  return path


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    (["--weights={file}"], ["--config is missing"]),
    (["--weights={file}", "{digits}", "--workdir=x"], ["--workdir and --weig"]),
    (
      ["--weights={file}", "{digits}", "--checkpoint=best"],
      ["--checkpoint and --weights"],
    ),
    ([], ["no model is given", "--workdir", "--weights"]),
    (["{digits}"], ["no model is given"]),
    (["--weight={file}", "{digits}"], ["'weight'", "weights"]),
    (
      ["--weights={file}x", "{digits}"],
      ["no weights at", "digits.safetensorsx"],
    ),
    (["--weights={file}", "{digits}", "--out={folder}"], ["another --out"]),
    (["--weights={file}", "{digits}", "--out={file}/o"], ["another --out"]),
    (
      ["--weights={file}", "{digits}", "--config.data.source=nothing"],
      ["nothing"],
    ),
  ],
)
def test_bad_flags_are_one_line(refuses, file, smoke_flag, flags, parts):
  named = {"file": file, "digits": smoke_flag, "folder": file.parent}
  flags = [flag.format(**named) for flag in flags]
  refuses("evaluate", *flags, parts=parts)


def test_damaged_weights(refuses, file, smoke_flag):
  file.write_bytes(file.read_bytes()[:-10])
  parts = [str(file), "can't be read"]
  refuses("evaluate", f"--weights={file}", smoke_flag, parts=parts)


@pytest.mark.parametrize(
  ("name", "variant", "flags", "parts"),
  [
    ("digits", "smoke", ["model.num_classes=11"], ["num_classes 10", "11"]),
    ("masked_lm", "smoke", [], ["adapter.kind 'image'", "'text'", "variant"]),
    ("imagenet", "conv,smoke", [], ["num_classes 10", "17"]),
    (
      "digits",
      "smoke",
      ["data.image_shape=(16, 16, 1)"],
      ["does not fit", "(64, ", "(256, ", "change the data"],
    ),
  ],
)
def test_another_model_is_refused_before_the_data_is_opened(
  refuses, monkeypatch, tmp_path, name, variant, flags, parts
):
  path = tmp_path / "digits.safetensors"
  config = get_config("digits", "smoke")
  config.model.adapter.position_encoding = "trainable"
  config.model.adapter.num_position_channels = 4
  weights.save(path, random_weights(config))
  monkeypatch.setattr("perceiver_jax.data.images.sources.make_source", None)
  flags = [f"--config.{flag}" for flag in flags]
  refuses(
    "evaluate",
    f"--weights={path}",
    config_flag(name, variant),
    *flags,
    parts=[str(path), *parts],
  )


def test_weights_that_are_not_of_their_own_spec(refuses, file, smoke_flag):
  loaded = weights.load(file)
  loaded.spec["encoder"]["num_latents"] += 1
  weights.save(file, loaded)
  parts = ["encoder/latents/embeddings of shape (", "its spec makes it"]
  refuses("evaluate", f"--weights={file}", smoke_flag, parts=parts)


def test_an_interrupt_ends_in_one_line(
  refuses, file, smoke_flag, tmp_path, monkeypatch
):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr("perceiver_jax.training.step.place_batch", interrupted)
  out = tmp_path / "out.json"
  flags = f"--weights={file}", smoke_flag, f"--out={out}"
  refuses("evaluate", *flags, parts=["interrupted"], status=130)
  assert not out.exists()
