"""Tests of random models against transformers, in both directions.

They need torch and transformers; run `pytest -m slow` with both installed.
"""

import copy
import importlib.util
import pathlib

import huggingface_runs as runs
import numpy as np
import pytest

from perceiver_jax.models import zoo
from perceiver_jax.weights.huggingface import checkpoint as huggingface
from perceiver_jax.weights.huggingface.architectures import ARCHITECTURES
from perceiver_jax.weights.huggingface.encoder import GELUS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

_PATH = pathlib.Path(__file__).parents[2] / "golden" / "make_huggingface.py"
_SPEC = importlib.util.spec_from_file_location("make_huggingface", _PATH)
make_huggingface = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_huggingface)

_SEEDS = range(4)
_SMALL = {
  "num_latents": 3,
  "num_latent_channels": 8,
  "num_blocks": 2,
  "num_self_attends_per_block": 2,
  "num_self_attend_heads": 2,
}


def _error(actual, expected):
  """Returns the largest difference, relative for small outputs."""
  assert set(actual) == set(expected)
  errors = []
  for name, want in expected.items():
    assert actual[name].shape == want.shape
    scale = min(1, np.abs(want).max())
    errors.append(np.abs(actual[name] - want).max() / scale)
  return float(max(errors))


def _random_config(architecture, seed):
  """Returns a config with random options."""
  rng = np.random.default_rng(seed)
  pick = lambda *choices: choices[rng.integers(len(choices))]
  config = make_huggingface.CONFIGS[architecture] | {
    "num_latents": pick(2, 5),
    "d_latents": 12,
    "num_blocks": pick(1, 2, 3),
    "num_self_attends_per_block": pick(0, 1, 3),
    "num_self_attention_heads": pick(1, 2, 3),
    "num_cross_attention_heads": 1,
    "cross_attention_shape_for_attention": pick("kv", "q"),
    "self_attention_widening_factor": pick(1, 2),
    "cross_attention_widening_factor": pick(1, 3),
    "use_query_residual": bool(pick(0, 1)),
    "hidden_act": pick(*GELUS),
    "qk_channels": None,
    "v_channels": None,
  }
  if pick(0, 1):
    config |= {"qk_channels": 6, "v_channels": 12}
    config |= {"num_cross_attention_heads": pick(1, 2, 3)}
  return config


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_of_transformers_match_here(tmp_path, architecture, seed):
  config = _random_config(architecture, seed)
  model = make_huggingface.build(architecture, config, seed)
  model.save_pretrained(tmp_path)
  inputs = make_huggingface.inputs_of(architecture, config, seed)
  actual = runs.logits_of(*huggingface.load(tmp_path), inputs)
  error = _error(actual, make_huggingface.outputs_of(model, inputs))
  print(f"{architecture}: {error:.1e}")  # Shown by pytest -rP.
  assert error < 2e-5


def test_shards_of_transformers_match_here(tmp_path):
  architecture = "PerceiverForOpticalFlow"
  config = _random_config(architecture, 0)
  model = make_huggingface.build(architecture, config, 0)
  model.save_pretrained(tmp_path, max_shard_size="200KB")
  assert not (tmp_path / "model.safetensors").exists()
  inputs = make_huggingface.inputs_of(architecture, config, 0)
  actual = runs.logits_of(*huggingface.load(tmp_path), inputs)
  assert _error(actual, make_huggingface.outputs_of(model, inputs)) < 2e-5


def _small(name, num_classes=None, **sections):
  """Returns the spec of a published model with a small encoder."""
  spec = zoo.get_spec(name)
  spec["encoder"] |= _SMALL
  for section, leaves in sections.items():
    spec[section] |= leaves
  if num_classes:
    spec["num_classes"] = num_classes
  return spec


_TEXT = {"vocab_size": 11, "num_channels": 8, "max_length": 9}
_QUERY = {"num_query_channels": 8}
_ENCODER = {"qk_channels": 16, "v_channels": 8}


def _language():
  decoder = {"num_query_channels": 8, "max_length": 9, "v_channels": 8}
  return _small(
    "language_bytes", adapter=_TEXT, encoder=_ENCODER, decoder=decoder
  )


def _text_classifier():
  spec = _language() | {"num_classes": 3}
  return spec | {"decoder": {"kind": "classification", **_QUERY}}


def _video():
  spec = _small("kinetics_784")
  video, audio = {"max_resolution": (2, 2, 2)}, {"max_resolution": (24,)}
  adapter, decoder = spec["adapter"]["modalities"], spec["decoder"]
  adapter["audio"] |= {"samples_per_patch": 4, **audio}
  adapter["image"] |= video
  decoder["num_decoded_channels"] = 6
  outputs = decoder["outputs"]
  outputs["audio"] |= {"shape": (6,), "num_outputs": 4, **audio}
  outputs["image"] |= {"shape": (2, 8, 8), **video}
  outputs["label"] |= {"num_outputs": 5, "num_query_channels": 7}
  return spec


_SPECS = {
  "PerceiverForMaskedLM": _language(),
  "PerceiverForSequenceClassification": _text_classifier(),
  # transformers adds its query; this project does not.
  "PerceiverForImageClassificationLearned": _small(
    "imagenet_learned", 4, decoder=_QUERY
  ),
  "PerceiverForImageClassificationFourier": _small(
    "imagenet_fourier", 4, decoder=_QUERY
  ),
  "PerceiverForImageClassificationConvProcessing": _small(
    "imagenet_conv", 4, decoder=_QUERY, adapter={"padding": "torch"}
  ),
  "PerceiverForOpticalFlow": _small(
    "flow", adapter={"max_resolution": (5, 6)}, decoder={"image_size": (5, 6)}
  ),
  "PerceiverForMultimodalAutoencoding": _video(),
}


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_models_match_in_transformers(tmp_path, architecture, gelu):
  config = make_huggingface.CONFIGS[architecture]
  inputs = make_huggingface.inputs_of(architecture, config, 1)
  spec = copy.deepcopy(_SPECS[architecture])
  spec["encoder"]["gelu"] = spec["decoder"]["gelu"] = gelu
  params, state = runs.variables_of(spec, inputs, 2)
  huggingface.save(tmp_path, spec, params, state)
  cls = getattr(transformers, architecture)
  model, report = cls.from_pretrained(tmp_path, output_loading_info=True)
  assert not any(report.values()), report
  assert not model.training
  expected = make_huggingface.outputs_of(model, inputs)
  actual = runs.logits_of(spec, params, state, inputs)
  if architecture == "PerceiverForMaskedLM":  # Outputs of padding differ.
    for logits in (actual, expected):
      logits["logits"] = logits["logits"][inputs["mask"]]
  error = _error(actual, expected)
  print(f"{architecture}: {error:.1e}")  # Shown by pytest -rP.
  assert error < 2e-5
