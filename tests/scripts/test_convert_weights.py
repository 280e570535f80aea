import gzip
import json
import pathlib
import pickle
import shutil

import entry_points
import jax
import numpy as np
import pytest
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.models import zoo

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def ours(tmp_path):
  """Writes a .safetensors file of this project."""
  path = tmp_path / "ours.safetensors"
  weights.save(path, tiny_weights.classifier())
  return path


@pytest.fixture
def run_folder(ours, tmp_path):
  """Returns the folder of a finished run."""
  folder = tmp_path / "run"
  (folder / "checkpoints").mkdir(parents=True)
  shutil.copy(ours, folder / weights.EXPORT)
  return folder


@pytest.fixture
def theirs(tmp_path):
  """Returns a folder that transformers wrote."""
  golden = _GOLDEN / "huggingface" / "PerceiverForMaskedLM"
  folder = tmp_path / "theirs"
  folder.mkdir()
  shutil.copy(golden / "config.json", folder)
  packed = (golden / "model.safetensors.gz").read_bytes()
  (folder / "model.safetensors").write_bytes(gzip.decompress(packed))
  return folder


@pytest.fixture
def released(tmp_path, monkeypatch):
  """Writes a file of a small model with DeepMind's names."""
  with np.load(_GOLDEN / "imagenet_fourier.npz") as file:
    golden = dict(file)
  sizes = json.loads(str(golden["config_json"]))
  encoder = sizes["encoder"]
  theirs = sizes["input_preprocessor"]["fourier_position_encoding_kwargs"]
  spec = {
    "num_classes": sizes["num_classes"],
    "adapter": {
      "prep_type": "pixels",
      "num_bands": theirs["num_bands"],
      "max_resolution": tuple(theirs["max_resolution"]),
    },
    "encoder": {
      "num_latents": encoder["z_index_dim"],
      "num_latent_channels": encoder["num_z_channels"],
      "num_blocks": encoder["num_blocks"],
      "num_self_attends_per_block": encoder["num_self_attends_per_block"],
      "num_self_attend_heads": encoder["num_self_attend_heads"],
    },
    "decoder": {"kind": "classification", "num_query_channels": 32},
  }
  params = {}
  for key, value in golden.items():
    if key.startswith("params/"):
      module, leaf = key.removeprefix("params/").rsplit("/", 1)
      params.setdefault(module, {})[leaf] = value
  entry = zoo.MODELS["imagenet_fourier"]._replace(
    spec=spec,
    raw=tiny_weights.array(*golden["inputs/images"].shape[1:]),
    num_parameters=sum(x.size for x in jax.tree.leaves(params)),
  )
  monkeypatch.setitem(zoo.MODELS, "imagenet_fourier", entry)
  path = tmp_path / "released.pystate"
  path.write_bytes(pickle.dumps({"params": params, "state": {}}))
  return path


@pytest.mark.parametrize("kind", ["ours", "run_folder", "theirs", "released"])
def test_every_kind_of_weights_is_converted(script, request, tmp_path, kind):
  source = request.getfixturevalue(kind)
  target = tmp_path / "new folder" / "made.safetensors"
  done = script("convert_weights", source, target)
  assert (done.status, done.err) == (0, "")
  want, made = weights.load(source), weights.load(target)
  assert made.spec == want.spec
  jax.tree.map(np.testing.assert_array_equal, made.params, want.params)
  jax.tree.map(np.testing.assert_array_equal, made.state, want.state)
  leaves = jax.tree.leaves(want.params)
  total = sum(leaf.size for leaf in leaves)
  assert done.out.splitlines() == [
    f"{source}: {total:,} parameters in {len(leaves)} arrays",
    f"written to {target}",
  ]


def test_the_model_of_a_released_file_can_be_named(
  script, refused, released, tmp_path
):
  target = tmp_path / "made.safetensors"
  flag = "--name=imagenet_fourier"
  assert script("convert_weights", flag, released, target).status == 0
  other = tmp_path / "other.safetensors"
  parts = ["released.pystate does not fit"]
  refused("convert_weights", "--name=flow", released, other, parts=parts)
  parts = ["--name=vit", "imagenet_fourier"]
  refused("convert_weights", "--name=vit", released, other, parts=parts)
  assert not other.exists()


def test_weights_of_transformers_can_be_converted_back(
  script, theirs, tmp_path
):
  ours, folder = tmp_path / "o.safetensors", tmp_path / "again"
  assert script("convert_weights", theirs, ours).status == 0
  done = script("convert_weights", "--to=huggingface", ours, folder)
  assert (done.status, done.err) == (0, "")
  want, made = weights.load(theirs), weights.load(folder)
  assert made.spec == want.spec
  jax.tree.map(np.testing.assert_array_equal, made.params, want.params)


@pytest.mark.parametrize("to", ["safetensors", "huggingface"])
def test_an_existing_target_is_replaced_only_with_overwrite(
  script, refused, theirs, tmp_path, to
):
  target = tmp_path / ("there.safetensors" if to == "safetensors" else "there")
  if to == "safetensors":
    target.write_bytes(b"precious")
  else:
    target.mkdir()
  flag, parts = f"--to={to}", [str(target), "exists", "--overwrite"]
  refused("convert_weights", flag, theirs, target, parts=parts)
  if to == "safetensors":
    assert target.read_bytes() == b"precious"
  else:
    assert not list(target.iterdir())
  done = script("convert_weights", flag, "--overwrite", theirs, target)
  assert done.status == 0, done.err
  assert weights.load(target).spec == weights.load(theirs).spec


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["SOURCE and TARGET", "0 paths"]),
    (["{ours}"], ["1 paths"]),
    (["{ours}", "b", "c"], ["3 paths"]),
    (["{ours}", "{folder}/x.bin"], [".safetensors"]),
    (["{ours}", "{ours}/x.safetensors"], ["can't be created", "TARGET"]),
    (["{folder}/none.pickle", "x.safetensors"], ["no weights at"]),
    (["{folder}", "{folder}/x.safetensors"], ["config.json"]),
    (["--name=flow", "{ours}", "x.safetensors"], ["'flow'", "leave it out"]),
    (["--name=flow", "{folder}", "x.safetensors"], ["'flow'", "DeepMind"]),
    (["--to=onnx", "{ours}", "x"], ["--to=onnx", "safetensors|huggingface"]),
    (["--form=x", "{ours}", "x"], ["'form'", "--help"]),
  ],
)
def test_invalid_arguments_are_refused(
  refused, ours, tmp_path, monkeypatch, arguments, parts
):
  monkeypatch.chdir(tmp_path)
  places = {"ours": ours, "folder": tmp_path}
  arguments = [argument.format(**places) for argument in arguments]
  refused("convert_weights", *arguments, parts=parts)
  assert [path.name for path in tmp_path.iterdir()] == [ours.name]


def test_a_full_disk_keeps_the_old_weights(script, theirs, full_disk):
  folder, fill = full_disk
  target = folder / "made.safetensors"
  target.write_bytes(b"old")
  fill()
  for flags in (), ("--to=huggingface",):
    place = folder if flags else target
    done = script("convert_weights", *flags, "--overwrite", theirs, place)
    entry_points.assert_refused(done, ["o space left on device", str(folder)])
  assert target.read_bytes() == b"old"
  assert {p.name for p in folder.iterdir()} == {target.name, "filling"}
