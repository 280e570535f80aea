"""Tests against recorded parameters, data and outputs of DeepMind's code."""

import contextlib
import json
import pathlib

import haiku as hk
import jax
import numpy as np
import plain
import pytest
from computing import in_chunks

from perceiver_jax.models import decoders, position_encoding, zoo
from perceiver_jax.models.architectures import perceiver_ar
from perceiver_jax.models.modalities import convolutions, image, patches
from perceiver_jax.models.ops import execution
from perceiver_jax.models.ops.dot_product_attention import dot_product_attention
from perceiver_jax.weights.deepmind import names as deepmind_names

_GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def _load(name):
  with np.load(_GOLDEN / f"{name}.npz") as archive:
    return dict(archive)


def _tree(flat, prefix):
  """Converts keys `prefix/module/path/leaf` to {module: {leaf: array}}."""
  tree = {}
  for key, value in flat.items():
    if key.startswith(prefix + "/"):
      module, leaf = key.removeprefix(prefix + "/").rsplit("/", 1)
      tree.setdefault(module, {})[leaf] = value
  return tree


def _spec(config):
  """Returns our spec for the config in a golden file."""
  theirs, encoder = config["input_preprocessor"], config["encoder"]
  fourier = theirs["fourier_position_encoding_kwargs"]
  return {
    "num_classes": config["num_classes"],
    "adapter": {
      "prep_type": theirs["prep_type"],
      "num_channels": theirs.get("num_channels", 0),
      "spatial_downsample": 4 if theirs["prep_type"] == "conv" else 1,
      "num_bands": fourier["num_bands"],
      "max_resolution": fourier["max_resolution"],
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


def _apply(fn, params, *args, state=None):
  apply = plain.jit(hk.transform_with_state(fn).apply)
  params = jax.tree.map(jax.numpy.asarray, params)
  return apply(params, state or {}, None, *args)[0]


# The defaults, the plain definitions, and every other choice with defaults.
_DEFAULT = execution.Execution()
_EXECUTIONS = {"auto": _DEFAULT, "plain": execution.PLAIN} | {
  f"{field}-{value}": _DEFAULT.replace(**{field: value})
  for field, values in execution.CHOICES.items()
  for value in values
  if value != getattr(_DEFAULT, field)
  if value != "cudnn"  # It needs a GPU; see ops/test_cudnn.py.
}


def _with_every_execution(*quick):
  """Runs a test with all executions; all but the `quick` ones are slow."""
  marks = lambda name: () if name in quick else pytest.mark.slow
  return pytest.mark.parametrize(
    "execution_name",
    [pytest.param(name, marks=marks(name)) for name in _EXECUTIONS],
  )


def test_the_fourier_classifier_with_remat_equals_deepminds():
  _check_classifier("imagenet_fourier", "auto", remat=True)


@_with_every_execution("auto", "attention-plain")
def test_the_fourier_classifier_equals_deepminds(execution_name):
  _check_classifier("imagenet_fourier", execution_name)


@_with_every_execution("auto")
def test_the_convolutional_classifier_equals_deepminds(execution_name):
  _check_classifier("imagenet_conv", execution_name)


def _check_classifier(name, execution_name, remat=False):
  flat = _load(name)
  spec = _spec(json.loads(str(flat["config_json"])))
  spec["encoder"]["remat"] = remat
  state = deepmind_names.convert(_tree(flat, "state"))
  images = jax.numpy.asarray(flat["inputs/images"])
  model = hk.transform_with_state(
    lambda x: zoo.build(spec, _EXECUTIONS[execution_name])(x, is_training=False)
  )
  _check_against(
    flat,
    lambda params: model.apply(params, state, None, images)[0],
    execution_name,
  )


def _check_against(flat, forward, execution_name):
  """Asserts that outputs, latents and gradients equal DeepMind's."""
  params = deepmind_names.convert(_tree(flat, "params"))
  params = jax.tree.map(jax.numpy.asarray, params)
  cotangent = flat["cotangent/out"]

  @plain.jit
  def run(params):
    def objective(params):
      out = forward(params)
      return (out.logits * cotangent).sum(), out

    return jax.grad(objective, has_aux=True)(params)

  # With the default limits, a golden case would fit into one chunk.
  default = execution_name == "auto"
  chunks = contextlib.nullcontext() if default else in_chunks(2**12, 24)
  with chunks:
    grads, out = run(params)
  np.testing.assert_allclose(out.logits, flat["outputs/out"], atol=1e-5)
  if "encoder_out" in flat:
    np.testing.assert_allclose(out.latents, flat["encoder_out"], atol=1e-5)
  expected = deepmind_names.convert(_tree(flat, "grads"))
  assert jax.tree.structure(grads) == jax.tree.structure(expected)
  # The exact gradient of a key's bias is zero, since the softmax ignores a
  # constant. The computed one is rounding noise relative to all gradients.
  rounding = 1e-6 * max(np.abs(g).max() for g in jax.tree.leaves(expected))
  for module, leaves in expected.items():
    for leaf, want in leaves.items():
      scale = np.abs(want).max()
      error = np.abs(grads[module][leaf] - want).max()
      assert error <= 1e-4 * scale + rounding, (
        f"{module}/{leaf}: {error} of {scale}"
      )


def _autoregressive_spec(config):
  model = config["model"]
  return {
    "adapter": {
      "kind": "tokens",
      "vocab_size": model["num_classes"],
      "num_channels": model["input_embed_dim"],
    },
    "encoder": {
      "kind": "perceiver_ar",
      "num_latents": model["z_index_dim"],
      "num_latent_channels": model["num_z_channels"],
      "num_self_attends": model["num_transformers_per_block"],
      "num_heads": model["num_transformer_heads"],
      "rotary_fraction": model["fraction_to_rotate"],
      "max_wavelength": float(model["max_wavelength"]),
    },
    "decoder": {"kind": "next_token", "vocab_size": model["num_classes"]},
  }


@_with_every_execution("auto", "attention-chunked")
def test_the_autoregressive_model_equals_deepminds(execution_name):
  flat = _load("perceiver_ar_rotary")
  spec = _autoregressive_spec(json.loads(str(flat["config_json"])))
  mask = jax.numpy.asarray(flat["inputs/input_mask"] > 0)
  tokens = jax.numpy.asarray(flat["inputs/inputs"])
  # What latents without a position hold is of no use.
  valid = flat["latent_valid"] > 0
  assert not flat["cotangent/out"][~valid].any()
  flat["outputs/out"] = np.where(valid[..., None], flat["outputs/out"], 0)
  model = hk.without_apply_rng(
    hk.transform(
      lambda x: zoo.build(spec, _EXECUTIONS[execution_name])(
        x, is_training=True, input_mask=mask
      )
    )
  )

  def forward(params):
    out = model.apply(params, {"tokens": tokens})
    logits = jax.numpy.where(valid[..., None], out.logits, 0)
    return out._replace(logits=logits)

  _check_against(flat, forward, execution_name)


def test_the_latents_of_the_autoregressive_model_are_the_last_positions():
  flat = _load("perceiver_ar_rotary")
  mask = jax.numpy.asarray(flat["inputs/input_mask"] > 0)
  positions = np.asarray(perceiver_ar.latent_positions(mask, 12))
  valid = flat["latent_valid"] > 0
  np.testing.assert_array_equal(positions >= 0, valid)
  np.testing.assert_array_equal(
    positions[valid], flat["latent_last_steps"][valid]
  )


def _hierarchical_spec(config):
  model = config["model"]
  labels = model.get("label_modalities", ())
  modalities = [name for name in config["modalities"] if name not in labels]
  bottleneck = len(model["num_groups"]) // 2
  leaves = {
    "num_groups": "num_groups",
    "num_latents": "z_index_dim",
    "num_latent_channels": "num_z_channels",
    "num_self_attends": "num_self_attends_per_block",
    "num_self_attend_heads": "num_self_attend_heads",
    "num_cross_attend_heads": "num_cross_attend_heads",
    "cross_attend_widening_factor": "cross_attend_widening_factor",
    "self_attend_widening_factor": "self_attend_widening_factor",
  }
  blocks = lambda part: {
    "kind": "hierarchical",
    "regrouping": model["regroup_type"],
    **{leaf: tuple(model[name][part]) for leaf, name in leaves.items()},
  }
  channels = model["num_embedding_channels"]
  positions = model["num_position_encoding_channels"] or channels
  return {
    "adapter": {
      "kind": "grouped",
      "num_channels": channels,
      "modalities": tuple(modalities),
      "label_modalities": tuple(labels),
      "project_positions": positions != channels,
    },
    "encoder": blocks(slice(bottleneck + 1)),
    "decoder": blocks(slice(bottleneck + 1, None)),
  }


@_with_every_execution("auto", "attention-chunked")
def test_the_hierarchical_perceiver_equals_deepminds(execution_name):
  flat = _load("hierarchical_perceiver")
  config = json.loads(str(flat["config_json"]))
  raw = {
    name: jax.numpy.asarray(flat[f"inputs/{name}"])
    for name in config["modalities"]
  }
  spec = _hierarchical_spec(config)
  model = hk.without_apply_rng(
    hk.transform(
      lambda x: zoo.build(spec, _EXECUTIONS[execution_name])(
        x, is_training=False
      )
    )
  )
  flatten = lambda prefix: np.concatenate(
    [np.ravel(flat[f"{prefix}/{name}"]) for name in raw]
  )
  flat["outputs/out"] = flatten("outputs")
  flat["cotangent/out"] = flatten("cotangent")
  flat["encoder_out"] = flat["encoder_out"][:, 0]

  def forward(params):
    out = model.apply(params, raw)
    logits = jax.numpy.concatenate([out.logits[x].ravel() for x in raw])
    return out._replace(logits=logits, latents=out.latents.bottleneck)

  _check_against(flat, forward, execution_name)


def test_the_encoders_blocks_of_the_hierarchical_perceiver_equal_deepminds():
  flat = _load("hierarchical_perceiver")
  config = json.loads(str(flat["config_json"]))
  raw = {
    name: jax.numpy.asarray(flat[f"inputs/{name}"])
    for name in config["modalities"]
  }
  spec = _hierarchical_spec(config)
  out = _apply(
    lambda x: zoo.build(spec)(x, is_training=False),
    deepmind_names.convert(_tree(flat, "params")),
    raw,
  )
  assert len(out.latents.skips) == 2
  for i, latents in enumerate(out.latents.skips):
    np.testing.assert_allclose(latents, flat[f"block_out/{i}"], atol=1e-5)


def _language_spec(config):
  encoder, decoder = config["encoder"], config["decoder"]
  return {
    "adapter": {
      "kind": "text",
      "num_channels": config["d_model"],
      "max_length": config["max_seq_len"],
    },
    "encoder": {
      "num_latents": encoder["z_index_dim"],
      "num_latent_channels": encoder["num_z_channels"],
      **{
        name: encoder[name]
        for name in (
          "num_blocks",
          "num_self_attends_per_block",
          "num_self_attend_heads",
          "num_cross_attend_heads",
          "qk_channels",
          "v_channels",
        )
      },
    },
    "decoder": {
      "kind": "masked_lm",
      "max_length": config["max_seq_len"],
      "num_query_channels": config["d_model"],
      **{
        name: decoder[name]
        for name in (
          "num_heads",
          "qk_channels",
          "v_channels",
          "use_query_residual",
        )
      },
    },
  }


@_with_every_execution("auto", "plain")
def test_the_masked_language_model_equals_deepminds(execution_name):
  flat = _load("language_mlm")
  spec = _language_spec(json.loads(str(flat["config_json"])))
  tokens = jax.numpy.asarray(flat["inputs/inputs"])
  mask = jax.numpy.asarray(flat["inputs/input_mask"], bool)
  assert not mask.all(), "the case must have padding"
  model = hk.transform_with_state(
    lambda x, mask: zoo.build(spec, _EXECUTIONS[execution_name])(
      x, is_training=False, input_mask=mask
    )
  )
  _check_against(
    flat,
    lambda params: model.apply(params, {}, None, tokens, mask)[0],
    execution_name,
  )


def test_every_parameter_of_deepminds_code_is_used_once():
  flat = _load("imagenet_conv")
  theirs = _tree(flat, "params")
  ours = deepmind_names.convert(theirs)
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert size(ours) == size(theirs)
  with pytest.raises(ValueError, match="unknown module"):
    deepmind_names.convert(
      {**theirs, "perceiver_encoder/~/mystery": {"w": np.ones(1)}}
    )


@pytest.mark.parametrize("case", range(4))
def test_fourier_features_equal_deepminds(case):
  flat = _load("primitives")
  args = json.loads(str(flat[f"fourier/{case}/args_json"]))
  batch = args.pop("batch")
  table = position_encoding.fourier_grid(**args)
  out = position_encoding.repeat_batch(table, batch)
  np.testing.assert_allclose(out, flat[f"fourier/{case}/out"], atol=1e-5)


def test_linear_and_subsampled_positions_equal_deepminds():
  flat = _load("primitives")
  grid = position_encoding.linear_positions((5, 7))
  np.testing.assert_allclose(grid, flat["linear_positions/5x7"], atol=1e-6)
  points = position_encoding.subsampled_positions(
    jax.numpy.asarray(flat["subsampled_query/points"]), (5, 7)
  )
  features = position_encoding.fourier_features(points, 4, (5, 7))
  for out in flat["subsampled_query/out"]:
    np.testing.assert_allclose(features, out, atol=1e-5)


def test_attention_with_and_without_a_mask_equals_deepminds():
  flat = _load("primitives")
  q, k, v = (jax.numpy.asarray(flat[f"attend/{x}"]) for x in "qkv")
  mask = jax.numpy.asarray(flat["attend/mask"], bool)
  out = dot_product_attention(q, k, v)
  np.testing.assert_allclose(out, flat["attend/out"], atol=1e-5)
  out = dot_product_attention(q, k, v, mask)
  np.testing.assert_allclose(out, flat["attend/out_masked"], atol=1e-5)
  assert not np.any(np.asarray(out)[1, 2])  # This row of the mask is zero.


def test_space_to_depth_and_patches_equal_deepminds():
  flat = _load("primitives")
  x4 = jax.numpy.asarray(flat["s2d/x4"])
  x5 = jax.numpy.asarray(flat["s2d/x5"])
  out4 = patches.space_to_depth(x4, spatial=4)
  out5 = patches.space_to_depth(x5, temporal=2, spatial=4)
  np.testing.assert_array_equal(out4, flat["s2d/out4_b4"])
  np.testing.assert_array_equal(out5, flat["s2d/out5_t2_b4"])
  np.testing.assert_array_equal(
    patches.depth_to_space(out4, spatial=4), flat["s2d/rev4"]
  )
  np.testing.assert_array_equal(
    patches.depth_to_space(out5, temporal=2, spatial=4), flat["s2d/rev5"]
  )
  out = patches.extract_patches(x4, (3, 3))
  np.testing.assert_allclose(out, flat["patches/out_3x3_s1"], atol=1e-6)
  out = patches.extract_patches(x4, (2, 3), (2, 1), (1, 2), "SAME")
  np.testing.assert_allclose(
    out, flat["patches/out_2x3_s2x1_r1x2_same"], atol=1e-6
  )


def test_patches_of_flow_equal_deepminds():
  flat = _load("primitives")
  frames = jax.numpy.asarray(flat["flow_patches/x"])
  out = patches.extract_patches(
    frames.reshape(-1, *frames.shape[2:]), (3, 3), padding="SAME"
  )
  want = flat["flow_patches/out"]
  np.testing.assert_allclose(out.reshape(want.shape), want, atol=1e-6)


def _renamed(flat, prefix, names):
  tree = _tree(flat, prefix)
  return {names(module): leaves for module, leaves in tree.items()}


def _stem_name(module):
  tail = module.removeprefix("conv2_d_downsample/~/")
  head, *rest = tail.split("/", 1)
  kind, _, index = head.partition("_")
  kind = {"conv": "conv", "batchnorm": "batch_norm"}[kind]
  return "/".join([f"stem/{kind}_{index or 0}", *rest])


@pytest.mark.parametrize(
  ("case", "layers", "norm"),
  [("conv2d_downsample", 2, True), ("conv2d_downsample_odd_nobn", 1, False)],
)
def test_the_convolution_stem_equals_deepminds(case, layers, norm):
  flat = _load("primitives")
  params = _renamed(flat, f"{case}/params", _stem_name)
  state = _renamed(flat, f"{case}/state", _stem_name)

  def run(x):
    stem = convolutions.ConvDownsample(layers, 6, norm, name="stem")
    return stem(x, is_training=False)

  x = jax.numpy.asarray(flat[f"{case}/in0"])
  out = _apply(run, params, x, state=state)
  np.testing.assert_allclose(out, flat[f"{case}/out"], atol=1e-5)


def test_conv_upsample_2d_equals_deepminds():
  flat = _load("primitives")
  params = _renamed(
    flat,
    "conv2d_upsample/params",
    lambda m: f"up/conv_{int(m[-1]) - 1}",
  )
  run = lambda x: convolutions.ConvUpsample2D(3, name="up")(x)
  out = _apply(run, params, jax.numpy.asarray(flat["conv2d_upsample/in0"]))
  np.testing.assert_allclose(out, flat["conv2d_upsample/out"], atol=1e-5)


def test_conv_upsample_3d_equals_deepminds():
  flat = _load("primitives")
  name = lambda m: f"up/conv_{m[-1]}"
  run = lambda x: convolutions.ConvUpsample3D(3, 1, 2, name="up")(x)
  params = _renamed(flat, "conv3d_upsample/params", name)
  out = _apply(run, params, jax.numpy.asarray(flat["conv3d_upsample/in0"]))
  np.testing.assert_allclose(out, flat["conv3d_upsample/out"], atol=1e-5)
  params = _renamed(flat, "image_post_conv3d/params", name)
  x = flat["image_post_conv3d/in0"].reshape(1, 2, 3, 4, 6)
  out = _apply(run, params, jax.numpy.asarray(x))
  np.testing.assert_allclose(out, flat["image_post_conv3d/out"], atol=1e-5)


def test_average_and_project_equals_deepminds():
  flat = _load("primitives")
  params = {"decoder/output": _tree(flat, "projection_decoder/params")[
    "projection_decoder/~/logits"
  ]}  # fmt: skip
  out = _apply(
    lambda x: decoders.AverageAndProjectDecoder(7, name="decoder")(x)[0],
    params,
    jax.numpy.asarray(flat["projection_decoder/in0"]),
  )
  np.testing.assert_allclose(out, flat["projection_decoder/out"], atol=1e-5)


def test_a_video_patch_adapter_with_a_position_mlp_equals_deepminds():
  flat = _load("primitives")
  names = {
    "image_preprocessor/patches_linear": "adapter/patches",
    "image_preprocessor/~_build_network_inputs/linear": (
      "adapter/position_mlp_0"
    ),
    "image_preprocessor/~_build_network_inputs/linear_1": (
      "adapter/position_mlp_1"
    ),
  }
  params = _renamed(flat, "image_prep_patches/params", names.get)

  def run(x):
    adapter = image.ImageAdapter(
      prep_type="patches",
      num_channels=10,
      spatial_downsample=4,
      temporal_downsample=2,
      num_bands=3,
      num_position_mlp=2,
      name="adapter",
    )
    return adapter(x, is_training=False)

  x = jax.numpy.asarray(flat["image_prep_patches/in0"])
  out = _apply(run, params, x)
  np.testing.assert_allclose(out, flat["image_prep_patches/out"], atol=1e-5)


def test_a_pixel_adapter_with_added_trainable_positions_equals_deepminds():
  flat = _load("primitives")
  build = "image_preprocessor/~_build_network_inputs/"
  names = {
    build + "position_encoding_projector/linear": "adapter/project_positions",
    build + "trainable_position_encoding": "adapter/positions",
  }
  params = _renamed(flat, "image_prep_add_pixels/params", names.get)
  table = params["adapter/positions"]
  table["embeddings"] = table.pop("pos_embs")

  def run(x):
    adapter = image.ImageAdapter(
      position_encoding="trainable",
      num_position_channels=5,
      concat_or_add="add",
      spatial_downsample=2,
      name="adapter",
    )
    return adapter(x, is_training=False)

  x = jax.numpy.asarray(flat["image_prep_add_pixels/in0"])
  out = _apply(run, params, x)
  np.testing.assert_allclose(out, flat["image_prep_add_pixels/out"], atol=1e-5)
