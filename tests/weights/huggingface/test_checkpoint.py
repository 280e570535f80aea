"""Tests of converting checkpoints of transformers in both directions."""

import copy
import gzip
import json
import pathlib
import shutil

import haiku as hk
import huggingface_runs as runs
import jax
import ml_collections
import ml_dtypes
import numpy as np
import pytest
from jax import numpy as jnp
from safetensors.numpy import load_file, save_file

from perceiver_jax.errors import UserError
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.modalities import convolutions
from perceiver_jax.weights.huggingface import checkpoint as huggingface
from perceiver_jax.weights.huggingface import config as huggingface_config
from perceiver_jax.weights.huggingface.architectures import ARCHITECTURES

_GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "huggingface"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LM, _TEXT = "PerceiverForMaskedLM", "PerceiverForSequenceClassification"
_IMAGE = "PerceiverForImageClassification"
_CONV, _FLOW = f"{_IMAGE}ConvProcessing", "PerceiverForOpticalFlow"
_FOURIER, _LEARNED = f"{_IMAGE}Fourier", f"{_IMAGE}Learned"
_VIDEO = "PerceiverForMultimodalAutoencoding"
_LATENTS = "perceiver.embeddings.latents"


@pytest.fixture
def unpack(tmp_path):
  """Returns a function that unpacks a folder written by transformers."""

  def make(architecture):
    golden, folder = _GOLDEN / architecture, tmp_path / architecture
    folder.mkdir()
    shutil.copy(golden / "config.json", folder)
    packed = (golden / f"{_WEIGHTS}.gz").read_bytes()
    (folder / _WEIGHTS).write_bytes(gzip.decompress(packed))
    return folder

  return make


def _io(architecture):
  with np.load(_GOLDEN / architecture / "io.npz") as file:
    return dict(file)


def _difference(spec, params, state, architecture):
  """Returns the largest error of outputs, relative for small outputs."""
  io = _io(architecture)
  errors = []
  for name, out in runs.logits_of(spec, params, state, io).items():
    assert out.shape == io[name].shape
    scale = min(1, np.abs(io[name]).max())
    errors.append(np.abs(out - io[name]).max() / scale)
  return max(errors)


def _assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    np.testing.assert_array_equal(x, y, strict=True)


def _assert_refused(match, call, *args):
  with pytest.raises(UserError, match=match) as error:
    call(*args)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_every_class_has_a_golden_folder():
  assert {path.name for path in _GOLDEN.iterdir()} == set(ARCHITECTURES)
  assert all(p.stat().st_size < 1e5 for p in _GOLDEN.rglob("*.*"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_match_transformers(unpack, architecture):
  loaded = huggingface.load(unpack(architecture))
  assert _difference(*loaded, architecture) < 1e-5


@pytest.mark.parametrize(
  ("architecture", "section", "leaf", "value"),
  [
    (_LM, "decoder", "gelu", "tanh"),
    (_FOURIER, "encoder", "gelu", "tanh"),
    (_CONV, "encoder", "gelu", "exact"),
    (_TEXT, "decoder", "gelu", "exact"),
    (_CONV, "adapter", "padding", "same"),
    (_CONV, "adapter", "max_resolution", (55, 55)),
    (_LM, "decoder", "use_query_mask", True),
    (_LM, "encoder", "num_blocks", 1),
    (_LM, "encoder", "num_self_attend_heads", 1),
    (_FOURIER, "decoder", "use_query_residual", False),
    (_LEARNED, "encoder", "use_query_residual", True),
  ],
)
def test_every_option_changes_the_outputs(
  unpack, architecture, section, leaf, value
):
  spec, params, state = huggingface.load(unpack(architecture))
  assert spec[section][leaf] != value
  spec[section][leaf] = value
  assert _difference(spec, params, state, architecture) > 3e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_is_used_once(unpack, architecture):
  folder = unpack(architecture)
  tensors = load_file(folder / _WEIGHTS)
  start, numbered = 0, {}
  for name, x in tensors.items():
    values = np.arange(start, start + x.size).reshape(x.shape)
    numbered[name] = values.astype(x.dtype)
    start += x.size
  save_file(numbered, folder / _WEIGHTS)
  _, params, state = huggingface.load(folder)
  arrays = jax.tree.leaves(params)
  arrays += [leaves["average"] for leaves in state.values()]
  values = np.sort(np.concatenate([x.ravel() for x in arrays]))
  counts = [x for name, x in numbered.items() if "num_batches" in name]
  expected = np.setdiff1d(np.arange(start), counts)
  np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip_is_bitwise(unpack, tmp_path, architecture):
  folder = unpack(architecture)
  spec, params, state = loaded = huggingface.load(folder)
  huggingface.save(tmp_path / "saved", spec, params, state)
  again = huggingface.load(tmp_path / "saved")
  assert again[0] == spec
  _assert_same(again[1:], loaded[1:])
  before = load_file(folder / _WEIGHTS)
  after = load_file(tmp_path / "saved" / _WEIGHTS)
  assert set(before) == set(after)
  for name, x in before.items():
    if "num_batches_tracked" not in name:
      np.testing.assert_array_equal(after[name], x, strict=True)


def test_running_statistics_continue_in_training(unpack):
  folder = unpack(_CONV)
  spec, params, state = huggingface.load(folder)
  tensors = load_file(folder / _WEIGHTS)
  stem = "perceiver.input_preprocessor.convnet.batchnorm"
  mean = tensors[f"{stem}.running_mean"]
  ema = state["adapter/stem/batch_norm_0/~/mean_ema"]
  np.testing.assert_array_equal(ema["average"].ravel(), mean)
  images = jnp.asarray(_io(_CONV)["raw"])
  apply = jax.jit(runs.model_of(spec).apply, static_argnums=4)
  _, after = apply(params, state, None, images, True)
  # The update of PyTorch with momentum 0.1.
  new = after["adapter/stem/batch_norm_0/~/mean_ema"]["average"].ravel()
  batch = _batch_mean(
    tensors["perceiver.input_preprocessor.convnet.conv.weight"]
  )
  np.testing.assert_allclose(new, 0.9 * mean + 0.1 * batch, atol=1e-5)


def _batch_mean(weights):
  out = jax.lax.conv_general_dilated(
    jnp.asarray(_io(_CONV)["raw"]).transpose(0, 3, 1, 2),
    jnp.asarray(weights), (2, 2), ((3, 3), (3, 3)),
  )  # fmt: skip
  return np.asarray(out).mean((0, 2, 3))


def test_half_precision_is_read_as_float32(unpack):
  folder = unpack(_FLOW)
  tensors = load_file(folder / _WEIGHTS)
  halves = {k: x.astype(ml_dtypes.bfloat16) for k, x in tensors.items()}
  save_file(halves, folder / _WEIGHTS)
  _, params, _ = huggingface.load(folder)
  latents = params["encoder/latents"]["embeddings"]
  expected = halves[_LATENTS].astype(np.float32)
  np.testing.assert_array_equal(latents, expected, strict=True)


def _split(folder):
  """Splits the tensors of a folder into two shards."""
  tensors = load_file(folder / _WEIGHTS)
  (folder / _WEIGHTS).unlink()
  shards = {"a.safetensors": {}, "b.safetensors": {}}
  files = {}
  for i, (name, x) in enumerate(sorted(tensors.items())):
    files[name] = ("a.safetensors", "b.safetensors")[i % 2]
    shards[files[name]][name] = x
  for file, part in shards.items():
    save_file(part, folder / file)
  index = {"metadata": {}, "weight_map": files}
  (folder / _INDEX).write_text(json.dumps(index))
  return index


def test_shards_are_joined(unpack):
  folder = unpack(_TEXT)
  whole = huggingface.load(folder)
  _split(folder)
  spec, params, state = huggingface.load(folder)
  assert spec == whole[0]
  _assert_same((params, state), whole[1:])


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda i: {}, "does not map tensors to files"),
    (lambda i: {"weight_map": 3}, "does not map tensors to files"),
    (lambda i: {"weight_map": {"x": []}}, "names .., which is not a file"),
    (
      lambda i: {"weight_map": dict.fromkeys(i["weight_map"], "../a")},
      "names '../a', which is not a file in the same folder",
    ),
    (
      lambda i: {"weight_map": i["weight_map"] | {"extra": "a.safetensors"}},
      "missing are extra",
    ),
    (
      lambda i: {"weight_map": i["weight_map"] | {"extra": "c.safetensors"}},
      "no weights file .*c.safetensors",
    ),
    (
      lambda i: {"weight_map": i["weight_map"] | {_LATENTS: "a.safetensors"}},
      "not those of the model: missing are|not used are",
    ),
  ],
)
def test_damaged_shards_are_refused(unpack, change, match):
  folder = unpack(_TEXT)
  index = _split(folder)
  (folder / _INDEX).write_text(json.dumps(change(index)))
  _assert_refused(match, huggingface.load, folder)


def test_an_index_that_is_not_json_is_refused(unpack):
  folder = unpack(_TEXT)
  _split(folder)
  (folder / _INDEX).write_text("{")
  _assert_refused("index.json cannot be read", huggingface.load, folder)


def _change_tensors(folder, change):
  tensors = load_file(folder / _WEIGHTS)
  change(tensors)
  save_file(tensors, folder / _WEIGHTS)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (
      lambda t: t.update({"cls.weight": np.ones(3, np.float32)}),
      "not used are cls.weight",
    ),
    (lambda t: t.pop(_LATENTS), f"missing are {_LATENTS}"),
    (
      lambda t: t.update({_LATENTS: np.ones((8, 3), np.float32)}),
      r"latents has shape \(8, 3\); the config makes it \(3, 8\)",
    ),
    (
      lambda t: t.update({_LATENTS: np.ones(24, np.float32)}),
      r"latents has shape \(24,\); the config makes it \(3, 8\)",
    ),
    (
      lambda t: t.update({_LATENTS: np.ones((3, 8), np.int8)}),
      "latents has type int8",
    ),
    (lambda t: t.clear(), "missing are .* more"),
  ],
)
def test_other_tensors_are_refused(unpack, change, match):
  folder = unpack(_TEXT)
  _change_tensors(folder, change)
  _assert_refused(match, huggingface.load, folder)


def test_a_transposed_weight_is_refused(unpack):
  folder = unpack(_FLOW)
  name = "perceiver.input_preprocessor.conv_after_patches.weight"
  transpose = lambda t: t.update({name: np.array(t[name].T, order="C")})
  _change_tensors(folder, transpose)
  match = r"shape \(54, 64\); the config makes it \(64, 54\)"
  _assert_refused(match, huggingface.load, folder)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_weights_are_refused(unpack, size):
  folder = unpack(_TEXT)
  contents = (folder / _WEIGHTS).read_bytes()
  (folder / _WEIGHTS).write_bytes(contents[:size])
  _assert_refused("model.safetensors can't be read", huggingface.load, folder)


@pytest.mark.parametrize(
  "name", ["pytorch_model.bin", "pytorch_model.bin.index.json"]
)
def test_pickles_are_not_read(unpack, name):
  folder = unpack(_TEXT)
  (folder / _WEIGHTS).rename(folder / name)
  match = f"{name} is a pickle.*call save_pretrained to get safetensors"
  _assert_refused(match, huggingface.load, folder)


def test_missing_files_are_refused(unpack, tmp_path):
  _assert_refused(
    "config.json cannot be read: No such", huggingface.load, tmp_path
  )
  folder = unpack(_TEXT)
  (folder / _WEIGHTS).unlink()
  match = f"has neither {_WEIGHTS} nor {_INDEX}"
  _assert_refused(match, huggingface.load, folder)


def _change_config(folder, **leaves):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | leaves))


@pytest.mark.parametrize(
  ("given", "match"),
  [
    (["BertForMaskedLM"], "is of 'BertForMaskedLM'; supported are"),
    (["PerceiverModel"], "is of 'PerceiverModel'; supported are"),
    ([["x\n"]], "is of"),
    (None, "is of no named class; supported are"),
  ],
)
def test_other_classes_are_refused(unpack, given, match):
  folder = unpack(_TEXT)
  _change_config(folder, architectures=given)
  message = _assert_refused(match, huggingface.load, folder)
  assert all(name in message for name in ARCHITECTURES)
  assert ("give its model.safetensors" in message) == (given is None)


@pytest.mark.parametrize(
  ("leaf", "value", "match"),
  [
    ("num_latents", "3", "num_latents is '3' and must be a whole number"),
    ("num_latents", -3, "num_latents is -3 and must be a whole number"),
    ("num_latents", None, "num_latents is None and must be a whole number"),
    ("num_blocks", True, "num_blocks is True and must be a whole number"),
    ("qk_channels", 1.5, "must be a whole number or null"),
    ("use_query_residual", 1, "must be true or false"),
    ("hidden_act", "relu", "hidden_act is 'relu' and must be one of gelu, "),
    ("hidden_act", ["gelu"], "must be one of gelu, "),
    ("cross_attention_shape_for_attention", 3, "must be a string"),
    ("cross_attention_shape_for_attention", "v", "use 'kv' or 'q'"),
    ("num_self_attention_heads", 3, "does not describe a valid model: 3 heads"),
    ("num_self_attention_heads", 0, "does not describe a valid model"),
  ],
)
def test_invalid_configs_are_refused(unpack, leaf, value, match):
  folder = unpack(_TEXT)
  _change_config(folder, **{leaf: value})
  _assert_refused(match, huggingface.load, folder)


@pytest.mark.parametrize("value", [[5], [5, "6"], 5, [5, True]])
def test_invalid_sizes_are_refused(unpack, value):
  folder = unpack(_FLOW)
  _change_config(folder, train_size=value)
  _assert_refused(
    "train_size is .* must be 2 whole numbers", huggingface.load, folder
  )


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "[" * 100_000])
def test_other_json_is_refused(unpack, text):
  folder = unpack(_TEXT)
  (folder / "config.json").write_text(text)
  match = "is not JSON|does not hold a model configuration"
  _assert_refused(match, huggingface.load, folder)


def test_leaves_that_a_class_ignores_are_not_checked(unpack):
  folder = unpack(_FOURIER)
  _change_config(folder, image_size=[224, 224], train_size=None)
  assert huggingface.load(folder)[0]["num_classes"] == 5


def test_missing_leaves_have_the_defaults_of_transformers(unpack):
  folder = unpack(_LEARNED)
  path = folder / "config.json"
  config = json.loads(path.read_text())
  assert "id2label" not in config  # transformers omits it for 2 labels.
  assert huggingface.load(folder)[0]["num_classes"] == 2
  del config["d_latents"], config["qk_channels"]
  path.write_text(json.dumps(config))
  match = "describes a model of at least .* parameters"
  _assert_refused(match, huggingface.load, folder)


@pytest.mark.parametrize(
  ("gelu", "name"), [("tanh", "gelu_pytorch_tanh"), ("exact", "gelu")]
)
def test_gelu_is_named_as_transformers_does(unpack, tmp_path, gelu, name):
  spec, params, state = huggingface.load(unpack(_TEXT))
  spec["encoder"]["gelu"] = spec["decoder"]["gelu"] = gelu
  spec = ml_collections.ConfigDict(spec)  # As in a config file.
  huggingface.save(tmp_path / "saved", spec, params, state)
  config = json.loads((tmp_path / "saved" / "config.json").read_text())
  assert config["hidden_act"] == name
  assert config["architectures"] == [_TEXT]
  assert config["id2label"] == {str(i): f"LABEL_{i}" for i in range(4)}
  assert config["attention_probs_dropout_prob"] == 0


def test_a_classifier_without_query_residual_is_saved(unpack, tmp_path):
  spec, params, state = huggingface.load(unpack(_LEARNED))
  spec["decoder"]["use_query_residual"] = False
  before = copy.deepcopy((spec, params))
  huggingface.save(tmp_path / "saved", spec, params, state)
  assert spec == before[0]
  _assert_same(params, before[1])
  loaded = huggingface.load(tmp_path / "saved")
  assert loaded[0]["decoder"]["use_query_residual"]
  want = runs.logits_of(spec, params, state, _io(_LEARNED))
  out = runs.logits_of(*loaded, _io(_LEARNED))
  np.testing.assert_allclose(out["logits"], want["logits"], atol=1e-5)


_SAVED = {
  "imagenet_fourier": _FOURIER,
  "imagenet_jft_fourier": _FOURIER,
  "language_bytes": _LM,
  "language_bytes_plus_plus": _LM,
  "language_sentencepiece": _LM,
  "language_bytes_128": _LM,
  "language_bytes_512": _LM,
  "flow": _FLOW,
  "flow_16x1024": _FLOW,
  "kinetics_784": _VIDEO,
  "kinetics_392": _VIDEO,
  "kinetics_196": _VIDEO,
}
_WHY_NOT = {
  "imagenet_learned": r"use_query_residual True \(the spec: False\)",
  "imagenet_conv": r"adapter.padding 'torch' \(the spec: 'same'\)",
  "imagenet_icml": "'image' with decoder 'average_and_project'",
  "flow_separate": r"adapter.concat_frames True \(the spec: False\)",
  "flow_conv": "adapter.use_convolutions False",
  "audioset_io_raw_video": "'multimodal' with decoder 'classification'",
  "starcraft": "'entities' with decoder 'entities'",
}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_supported_published_models_have_a_config_and_others_a_reason(name):
  if name not in _SAVED:
    match = _WHY_NOT.get(name, "transformers")
    _assert_refused(match, _config_of, name)
    return
  architecture, config = _config_of(name)
  assert architecture == _SAVED[name]
  assert set(config) == set(ARCHITECTURES[architecture].keys)
  # The converted model has the published size.
  spec = huggingface_config.spec_from_config(architecture, config)
  raw = ARCHITECTURES[architecture].dummy_inputs(config)
  params, _ = jax.eval_shape(
    lambda x: runs.model_of(spec).init(jax.random.key(0), x, True), raw
  )
  count = sum(x.size for x in jax.tree.leaves(params))
  assert count == zoo.MODELS[name].num_parameters


def _config_of(name):
  rows = 224**2 if "learned" in name else 0
  return huggingface_config.config_from_spec(zoo.get_spec(name), rows)


@pytest.mark.parametrize(
  ("architecture", "section", "leaf", "value", "match"),
  [
    (_LM, "decoder", "num_heads", 2, r"decoder.num_heads 8 \(the spec: 2\)"),
    (_LM, "decoder", "gelu", "tanh", "decoder.gelu 'exact'"),
    (_LM, "adapter", "max_length", 8, "decoder.max_length 8"),
    (_LM, "encoder", "share_blocks", False, "share_blocks True"),
    (_LM, "encoder", "num_cross_attends", 2, "num_cross_attends 1"),
    (_LM, "encoder", "v_channels", 12, "set encoder.v_channels"),
    (_TEXT, "encoder", "shape_for_attn", "kv", "decoder.shape_for_attn 'kv'"),
    (_TEXT, "encoder", "num_cross_attend_heads", 3, "does not divide 8 latent"),
    (_TEXT, "decoder", "num_query_channels", 4, "num_query_channels 8"),
    (_FOURIER, "adapter", "max_resolution", (), r"max_resolution \(224, 224\)"),
    (_FOURIER, "adapter", "num_bands", 2, "adapter.num_bands 64"),
    (_FLOW, "decoder", "image_size", (5, 7), r"max_resolution \(5, 7\)"),
    (_VIDEO, "adapter", "use_mask_tokens", False, "use_mask_tokens True"),
    (_VIDEO, "decoder", "min_padding", 3, "decoder.min_padding 2"),
    (_VIDEO, "decoder", "outputs", {}, "audio, image and label together"),
  ],
)
def test_unsupported_specs_are_refused(
  unpack, tmp_path, architecture, section, leaf, value, match
):
  spec, params, state = huggingface.load(unpack(architecture))
  spec[section][leaf] = value
  folder = tmp_path / "saved"
  _assert_refused(match, huggingface.save, folder, spec, params, state)
  assert not folder.exists()


@pytest.mark.parametrize(
  ("architecture", "section", "leaf", "value"),
  [
    (_CONV, "encoder", "remat", True),
    (_CONV, "encoder", "latent_init_scale", 1.0),
    (_CONV, "encoder", "cross_attend_placement", "start"),
    (_CONV, "adapter", "cross_replica_axis", "data"),
    (_TEXT, "adapter", "embedding_init_scale", 0.02),
    (_TEXT, "decoder", "query_init_scale", 1.0),
  ],
)
def test_training_options_are_ignored(
  unpack, tmp_path, architecture, section, leaf, value
):
  spec, params, state = huggingface.load(unpack(architecture))
  changed = copy.deepcopy(spec)
  changed[section][leaf] = value
  huggingface.save(tmp_path / "saved", changed, params, state)
  again = huggingface.load(tmp_path / "saved")
  assert again[0] == spec
  _assert_same(again[1], params)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lambda p, s: p.pop("decoder/query"), "params .* decoder/query/embeddings"),
    (lambda p, s: p.update(x={"w": np.ones(1)}), "not used are x/w"),
    (
      lambda p, s: p["decoder/output"].update(w=np.ones((8, 2))),
      r"output/w has shape \(8, 2\); the spec makes it \(8, 3\)",
    ),
    (lambda p, s: s.clear(), "state .* missing are adapter/stem"),
  ],
)
def test_variables_of_another_model_are_refused(
  unpack, tmp_path, change, match
):
  spec, params, state = huggingface.load(unpack(_CONV))
  change(params, state)
  folder = tmp_path / "saved"
  _assert_refused(match, huggingface.save, folder, spec, params, state)
  assert not folder.exists()


def test_an_unwritable_folder_is_refused(unpack, tmp_path):
  loaded = huggingface.load(unpack(_TEXT))
  (tmp_path / "file").write_text("")
  _assert_refused(
    "cannot be written", huggingface.save, tmp_path / "file", *loaded
  )


def test_saving_replaces_another_model(unpack, tmp_path):
  loaded = huggingface.load(unpack(_TEXT))
  huggingface.save(tmp_path / "saved", *huggingface.load(unpack(_FLOW)))
  huggingface.save(tmp_path / "saved", *loaded)
  spec, params, _ = huggingface.load(tmp_path / "saved")
  assert spec == loaded[0]
  _assert_same(params, loaded[1])
  names = {path.name for path in (tmp_path / "saved").iterdir()}
  assert names == {"config.json", _WEIGHTS}


def test_torch_padding_gives_55_elements_for_224_pixels():
  stem = hk.transform_with_state(
    lambda x: convolutions.ConvDownsample(padding="torch")(x, is_training=True)
  )
  out, _ = jax.eval_shape(
    lambda x: stem.apply(*stem.init(jax.random.key(0), x), None, x),
    flops.abstract(1, 224, 224, 3),
  )
  assert out.shape == (1, 55, 55, 64)


def test_unknown_padding_is_refused():
  spec = zoo.get_spec("imagenet_conv")
  spec["adapter"]["padding"] = "valid"
  with pytest.raises(ValueError, match="'valid': choose one of same, torch"):
    jax.eval_shape(
      lambda x: runs.model_of(spec).init(jax.random.key(0), x, True),
      flops.abstract(1, 16, 16, 3),
    )
