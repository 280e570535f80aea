"""Tests of the checks of a spec before its model is built."""

import copy

import pytest
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import model, spec_checks


@pytest.mark.parametrize("name", zoo.MODELS)
def test_published_models_pass(name):
  entry = zoo.MODELS[name]
  spec_checks.check_spec(entry.spec, "file")
  assert spec_checks.min_parameters(entry.spec) <= entry.num_parameters


@pytest.mark.parametrize(
  "make",
  [
    tiny_weights.classifier,
    tiny_weights.language,
    tiny_weights.byte_bert,
    tiny_weights.pointnet,
    tiny_weights.perceiver_ar,
    tiny_weights.hierarchical_perceiver,
    tiny_weights.flow,
    tiny_weights.autoencoder,
  ],
)
def test_models_are_loaded_as_they_were_saved(make, tmp_path):
  saved = make()
  weights.save(tmp_path / "model.safetensors", saved)
  assert weights.load(tmp_path / "model.safetensors").spec == saved.spec


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"share_blocks": False, "num_blocks": 3},
    {"qk_channels": 6, "v_channels": 12, "self_attend_widening_factor": 3},
  ],
)
def test_the_count_is_that_of_the_parameters(changes):
  spec = tiny_weights.classifier().spec
  spec["encoder"] |= changes
  params, _ = model.abstract_variables(spec, tiny_weights.array(1, 8, 8, 3))
  count = sum(
    leaf.size
    for name, leaf in model.flatten(params).items()
    if name.startswith(("encoder/latents", "encoder/block"))
  )
  assert spec_checks.min_parameters(spec) == count


_CHANGES = [
  (("encoder", "num_blocks"), 10**9, "num_blocks is 1000000000 .* 1 to 1,024"),
  (("encoder", "num_cross_attends"), 10**9, "num_cross_attends is 1000000000"),
  (("encoder", "num_self_attends_per_block"), 10**9, "0 to 1,024"),
  (("encoder", "num_self_attends_per_block"), 900, "at least"),
  (("encoder", "num_latents"), 10**9, "num_latents is 1000000000"),
  (("encoder", "num_latents"), 10**6, "at least 8,000,"),
  (("encoder", "num_latents"), 5, r"latents/embeddings of shape \(4, 8\)"),
  (("encoder", "num_latents"), "4", "another type"),
  (("encoder", "num_latents"), True, "another type"),
  (("encoder", "num_latents"), 4.0, "another type"),
  (("encoder", "num_latents"), None, "another type"),
  (("encoder", "num_latents"), [4], "another type"),
  (("encoder", "num_latents"), -1, "from 0 to"),
  (("encoder", "num_self_attend_heads"), 0, "from 1 to"),
  (("encoder", "latent_init_scale"), float("nan"), "another type"),
  (("encoder", "latent_init_scale"), 10**400, "another type"),
  (("encoder", "num_latent"), 4, "unknown leaf 'num_latent'"),
  (("encoder", "a\x1b[2J\n"), 4, r"unknown leaf 'a\\"),
  (("encoder", "\ud800"), 4, r"unknown leaf '\\ud800'"),
  (("encoder", "kind"), {}, "encoder.kind is {}"),
  (("encoder",), 3, "encoder is of type int"),
  (("adapter", "max_resolution"), 3, "another type"),
  (("adapter", "max_resolution"), [3] * 99, "another type"),
  (("adapter", "num_bands"), 10**9, "num_bands is 1000000000"),
  (("adapter", "kind"), "multimodal", "unknown leaf"),
  (("adapter", "modalities"), {}, "unknown leaf 'modalities'"),
  (("adapter",), [], "adapter is of type list"),
  (("decoder", "kind"), [], r"decoder.kind is \[\]"),
  (("decoder", "outputs"), {}, "decoder.outputs has no meaning"),
  (("num_classes",), 10**9, "num_classes is 1000000000"),
  (("num_classes",), 10**6, "decoder/output/b of shape"),
  (("num_classes",), {}, "another type"),
  (("extra",), {}, "unknown leaf 'extra'"),
]


@pytest.mark.parametrize(("leaf", "value", "message"), _CHANGES)
def test_damaged_specs_are_refused(leaf, value, message, tmp_path):
  saved = tiny_weights.classifier()
  spec = copy.deepcopy(saved.spec)
  section = spec
  for name in leaf[:-1]:
    section = section[name]
  section[leaf[-1]] = value
  path = tmp_path / "model.safetensors"
  weights.save(path, saved._replace(spec=spec))
  with pytest.raises(UserError, match=message) as error:
    weights.load(path)
  assert str(error.value).isprintable()


@pytest.mark.parametrize("spec", [None, 3, [], "x", {"adapter": {}}])
def test_other_values_are_refused(spec):
  with pytest.raises(UserError, match="does not describe a valid model"):
    spec_checks.check_spec(spec, "file")


def test_only_classifiers_have_classes():
  spec = tiny_weights.autoencoder().spec | {"num_classes": 3}
  with pytest.raises(UserError, match="num_classes is unknown"):
    spec_checks.check_spec(spec, "file")
  spec = tiny_weights.classifier().spec
  del spec["num_classes"]
  with pytest.raises(UserError, match="num_classes is missing"):
    spec_checks.check_spec(spec, "file")


@pytest.mark.parametrize(
  ("outputs", "message"),
  [
    (None, "decoder.outputs is of type NoneType"),
    ({"audio": 3}, "decoder.outputs.audio is of type int"),
    ({"audio": {"shape": (3,)}}, "has no num_outputs"),
    ({"label": {"num_outputs": 3, "x": 1}}, "has no num_query_channels"),
    (
      {"label": {"num_outputs": 3, "num_query_channels": "3"}},
      "num_query_channels is '3'",
    ),
  ],
)
def test_damaged_outputs_are_refused(outputs, message):
  spec = tiny_weights.autoencoder().spec
  spec["decoder"]["outputs"] = outputs
  with pytest.raises(UserError, match=message):
    spec_checks.check_spec(spec, "file")


def test_modalities_are_not_nested():
  spec = tiny_weights.autoencoder().spec
  spec["adapter"]["modalities"]["audio"] = spec["adapter"]
  with pytest.raises(UserError, match="several modalities itself"):
    spec_checks.check_spec(spec, "file")
