"""Tests of the adapter and the decoder of several modalities."""

import functools

import jax
import numpy as np
import plain
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import flops, zoo
from perceiver_jax.models.modalities import multimodal

_few = settings(max_examples=10, deadline=None)
# Elements of each modality of the small autoencoder.
_SIZES = {"audio": 4, "image": 8, "label": 1}
_VIDEO, _POINTS = (2, 4, 4), 32


def _shapes(tree):
  return jax.tree.map(lambda x: x.shape, tree)


def _kinetics(name="kinetics_784"):
  model, raw = small.model(zoo.get_spec(name)), zoo.MODELS[name].example()
  params, _ = small.shapes(model, raw)
  apply = lambda p, raw, **kwargs: model.apply(p, {}, None, raw, **kwargs)[0]
  return apply, params, raw


@pytest.mark.parametrize("num_latents", [784, 392, 196])
def test_the_published_autoencoder_has_the_papers_shapes(num_latents):
  apply, params, raw = _kinetics(f"kinetics_{num_latents}")
  apply = functools.partial(apply, return_attention=True)
  out = jax.eval_shape(apply, params, raw)
  (weights,) = out.encoder_attention
  assert weights.shape == (1, 1, num_latents, 52_097)
  assert out.decoder_attention.shape == (1, 1, 804_737, num_latents)
  assert _shapes(out.logits) == {
    "audio": (1, 1_920, 16),
    "image": (1, 16, 224, 224, 3),
    "label": (1, 700),
  }
  widths = {
    m: leaves["embeddings"].shape[1]
    for m, leaves in params.items()
    if m.endswith(("_padding", "_mask", "_query"))
  }
  assert widths == {
    "adapter/audio_padding": 704 - 16 - 385,
    "adapter/image_padding": 704 - 48 - 195,
    "adapter/label_padding": 4,
    "adapter/audio_mask": 704,
    "adapter/image_mask": 704,
    "adapter/label_mask": 704,
    "decoder/audio_padding": 1026 - 385,
    "decoder/image_padding": 1026 - 195,
    "decoder/label_padding": 2,
    "decoder/label_query": 1024,
  }
  assert params["encoder/cross_attend_0/input_norm"]["scale"].shape == (704,)
  assert params["decoder/cross_attend/query_norm"]["scale"].shape == (1026,)
  assert params["decoder/output"]["w"].shape == (1026, 512)


def test_the_published_autoencoder_can_be_decoded_in_parts():
  # One of 128 parts, as in DeepMind's notebook.
  apply, params, raw = _kinetics()
  queries = {
    "audio": flops.abstract(15, dtype=jnp.int32),
    "image": flops.abstract(6_272, dtype=jnp.int32),
  }
  latents = flops.abstract(1, 784, 512)
  out = jax.eval_shape(apply, params, raw, latents=latents, queries=queries)
  assert _shapes(out.logits) == {
    "audio": (1, 15, 16),
    "image": (1, 6_272, 3),
    "label": (1, 700),
  }


@pytest.mark.parametrize(
  ("name", "elements", "channels"),
  [
    ("audioset_io_raw_video", 13_024, 487),
    ("audioset_io_mel_video", 17_344, 487),
    ("audioset_average_raw_video", 13_024, 487),
    ("audioset_icml_mel_video", 17_344, 487),
    # A single modality is not padded.
    ("audioset_icml_video", 12_544, 483),
    ("audioset_icml_raw", 480, 257),
    ("audioset_icml_mel", 4_800, 386),
    ("audioset_icml_attention_maps", 61_440 + 50_176, 199),
  ],
)
def test_published_classifiers_of_clips_have_the_papers_shapes(
  name, elements, channels
):
  model, raw = small.model(zoo.get_spec(name)), zoo.MODELS[name].example()
  params, _ = small.shapes(model, raw)
  out, _ = jax.eval_shape(
    lambda p, x: model.apply(p, {}, None, x, return_attention=True),
    params,
    raw,
  )
  assert {w.shape[-1] for w in out.encoder_attention} == {elements}
  scale = params["encoder/cross_attend_0/input_norm"]["scale"]
  assert scale.shape == (channels,)
  assert out.logits.shape == (1, 527)
  assert not any(m.endswith("_mask") for m in params)


def _adapter(min_padding=2, use_mask_tokens=True):
  """Returns an adapter of two input arrays and a label."""
  identity = lambda x, is_training: x
  return plain.transform(
    lambda raw: multimodal.MultimodalAdapter(
      # Modalities are sorted by name, whatever their order here.
      {
        "video": identity,
        "label": multimodal.LabelAdapter(),
        "audio": identity,
      },
      min_padding,
      use_mask_tokens,
      name="adapter",
    )(raw, is_training=True)
  )


def _raw(seed=0):
  return {
    "video": plain.normal(2, 4, 5, seed=seed),
    "label": plain.normal(2, 7, seed=seed + 1),
    "audio": plain.normal(2, 3, 6, seed=seed + 2),
  }


def _masked():
  rng = np.random.default_rng(0)
  return {
    "video": jnp.asarray(rng.random((2, 4)) < 0.5),
    "label": jnp.asarray([True, False]),
  }


def test_modalities_are_sorted_padded_and_masked():
  raw, masked = _raw(), _masked()
  model = _adapter()
  params = plain.random_params(model, raw)
  out = plain.jit(model.apply)(params, raw | {"masked": masked})
  assert out.shape == (2, 3 + 1 + 4, 9)
  adapter = plain.Module(params, "adapter")
  expected = np.zeros(out.shape)
  arrays = raw | {"label": raw["label"][:, None]}
  masked = {
    "audio": np.zeros((2, 3), bool),
    "label": np.asarray(masked["label"])[:, None],
    "video": np.asarray(masked["video"]),
  }
  for b in range(2):
    rows = []
    for name in ("audio", "label", "video"):
      padding, token = (
        adapter.table(f"{name}_{part}")[0] for part in ("padding", "mask")
      )
      for i, element in enumerate(np.asarray(arrays[name][b])):
        padded = np.concatenate([element, padding])
        rows.append(token if masked[name][b, i] else padded)
    expected[b] = rows
  np.testing.assert_allclose(out, expected, atol=1e-6)


@functools.cache
def _compiled():
  model = _adapter()
  params = plain.random_params(model, _raw())
  return plain.jit(functools.partial(model.apply, params))


@_few
@given(st.integers(0, 99), st.sampled_from([np.nan, np.inf, 7.0]))
def test_masked_elements_have_no_effect(seed, garbage):
  rng = np.random.default_rng(seed)
  raw = _raw(seed)
  masked = {
    "video": jnp.asarray(rng.random((2, 4)) < 0.5),
    "audio": jnp.asarray(rng.random(2) < 0.5),
  }
  expected = _compiled()(raw | {"masked": masked})
  masks = {"video": masked["video"], "audio": masked["audio"][:, None]}
  corrupted = raw | {
    k: jnp.where(masks[k][..., None], garbage, raw[k]) for k in masks
  }
  out = _compiled()(corrupted | {"masked": masked})
  np.testing.assert_array_equal(out, expected)
  # A mask [B] applies to all elements of an example.
  masked["audio"] = jnp.repeat(masked["audio"][:, None], 3, axis=1)
  np.testing.assert_array_equal(_compiled()(raw | {"masked": masked}), expected)


def test_without_masks_no_element_is_replaced():
  raw = _raw()
  unmasked = {"masked": jax.tree.map(jnp.zeros_like, _masked())}
  np.testing.assert_array_equal(_compiled()(raw), _compiled()(raw | unmasked))
  unpadded = _adapter(min_padding=0, use_mask_tokens=False)
  params = plain.random_params(unpadded, raw)
  # Without padding, the widest modality has no parameters.
  assert set(params) == {"adapter/audio_padding", "adapter/video_padding"}
  out = plain.jit(unpadded.apply)(params, raw)
  assert out.shape == (2, 8, 7)
  np.testing.assert_array_equal(out[:, 3], raw["label"])


@pytest.mark.parametrize(
  ("change", "tokens", "message"),
  [
    ({"audio": None, "label": None}, True, "no input for audio, label"),
    ({"masked": {"smell": True}}, True, "masks for smell: choose among audio"),
    (
      {"masked": {"audio": jnp.ones(2, bool)}},
      False,
      "there are no mask tokens: set use_mask_tokens",
    ),
  ],
)
def test_missing_modalities_and_unknown_masks_are_refused(
  change, tokens, message
):
  raw = {k: v for k, v in (_raw() | change).items() if v is not None}
  model = _adapter(use_mask_tokens=tokens)
  with pytest.raises(ValueError, match=message):
    small.shapes(model, raw)


def test_integers_are_refused(no_type_checks):
  raw = _raw() | {"label": jnp.ones((2, 7), jnp.int32)}
  message = "the input array of label must be floating point, got int32"
  with pytest.raises(ValueError, match=message):
    small.shapes(_adapter(), raw)


@functools.cache
def _autoencoder():
  """Returns the small autoencoder, its random parameters, and raw data."""
  model = small.model(small.spec("kinetics_784"))
  raw = small.raw("kinetics_784")
  params, _ = plain.random_like(small.shapes(model, raw))
  apply = lambda raw, **kwargs: model.apply(params, {}, None, raw, **kwargs)[0]
  return plain.jit(apply, static_argnames="return_attention"), params, raw


def _coordinates(indices, sizes):
  """Returns coordinates of flat indices, as in the released model."""
  return np.stack(
    [
      -1 + 2 * i / n
      for i, n in zip(np.unravel_index(indices, sizes), sizes, strict=True)
    ],
    -1,
  )


def test_outputs_agree_with_the_definition_of_the_decoder():
  run, params, raw = _autoencoder()
  out = run(raw, return_attention=True)
  decoder = plain.Module(params, "decoder")
  audio_at = _coordinates(np.arange(4), (4,))
  image_at = _coordinates(np.arange(_POINTS), _VIDEO)
  queries = {
    "audio": plain.fourier(audio_at, 2, (8,)),
    # 2 x 2 x 2 is the resolution in patches, not in pixels.
    "image": plain.fourier(image_at, 2, (2, 2, 2)),
    "label": decoder.table("label_query"),
  }
  padded = [
    np.hstack([x, decoder.table(f"{name}_padding").repeat(len(x), 0)])
    for name, x in queries.items()
  ]
  assert {x.shape[1] for x in padded} == {22}
  padded = np.concatenate(padded)[None].repeat(2, 0)
  decoded, weights = decoder.cross_attend(padded, out.latents)
  decoded = decoder.linear("output", decoded)
  audio, image, label = np.split(decoded, [4, 4 + _POINTS], axis=1)
  expected = {
    "audio": decoder.linear("audio_output", audio),
    "image": decoder.linear("image_output", image).reshape(2, *_VIDEO, 3),
    "label": decoder.linear("label_output", label)[:, 0],
  }
  assert _shapes(out.logits) == _shapes(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(out.logits[name], value, atol=1e-4)
  assert out.encoder_attention[0].shape == (2, 1, 3, sum(_SIZES.values()))
  np.testing.assert_allclose(out.decoder_attention, weights, atol=1e-5)


def _flat(image):
  return np.asarray(image).reshape(2, _POINTS, 3)


@functools.cache
def _whole():
  run, _, raw = _autoencoder()
  return run(raw)


@_few
@given(st.permutations(range(_POINTS)), st.permutations(range(4)))
def test_decoding_in_parts_gives_the_same_outputs(points, patches):
  run, _, raw = _autoencoder()
  whole = _whole()
  for i in range(2):
    part = {
      "image": jnp.asarray(points[i::2]),
      "audio": jnp.asarray(patches[i::2]),
    }
    out = run(raw, latents=whole.latents, queries=part).logits
    expected = _flat(whole.logits["image"])[:, part["image"]]
    np.testing.assert_allclose(out["image"], expected, atol=1e-5)
    expected = np.asarray(whole.logits["audio"])[:, part["audio"]]
    np.testing.assert_allclose(out["audio"], expected, atol=1e-5)
    np.testing.assert_allclose(out["label"], whole.logits["label"], atol=1e-5)


@_few
@given(st.integers(0, 99))
def test_each_example_may_have_its_own_points(seed):
  run, _, raw = _autoencoder()
  rng = np.random.default_rng(seed)
  points = rng.integers(_POINTS, size=(2, 5))
  decode = lambda indices: (
    run(
      raw, latents=_whole().latents, queries={"image": jnp.asarray(indices)}
    ).logits
  )
  out = decode(points)
  # Without queries, all of a modality is decoded.
  assert _shapes(out) == {
    "audio": (2, 4, 2),
    "image": (2, 5, 3),
    "label": (2, 5),
  }
  image = _flat(_whole().logits["image"])
  for b in range(2):
    np.testing.assert_allclose(out["image"][b], image[b, points[b]], atol=1e-5)
  same = decode(np.stack([points[0]] * 2))["image"]
  np.testing.assert_allclose(decode(points[0])["image"], same, atol=1e-5)


def test_all_indices_give_the_whole_output():
  run, _, raw = _autoencoder()
  all_queries = {"image": jnp.arange(_POINTS), "audio": jnp.arange(4)}
  out, whole = run(raw, queries=all_queries).logits, _whole().logits
  np.testing.assert_allclose(out["image"], _flat(whole["image"]), atol=1e-5)
  np.testing.assert_allclose(out["audio"], whole["audio"], atol=1e-5)


def test_a_modality_without_queries_is_not_decoded():
  run, _, raw = _autoencoder()
  out = run(
    raw, latents=_whole().latents, queries={"image": jnp.zeros(0, "int32")}
  ).logits
  assert out["image"].shape == (2, 0, 3)
  np.testing.assert_allclose(out["audio"], _whole().logits["audio"], atol=1e-5)


@pytest.mark.parametrize("name", ["video", "label"])
def test_queries_of_modalities_without_a_grid_are_refused(name):
  run, _, raw = _autoencoder()
  message = f"queries for {name}: choose among audio, image"
  with pytest.raises(ValueError, match=message):
    run(raw, queries={name: jnp.arange(3)})


def test_a_masked_label_has_no_effect():
  run, _, raw = _autoencoder()
  masked = {"masked": {"label": jnp.ones(2, bool)}}
  other = raw | {"label": -raw["label"]}
  expected = run(raw | masked).logits
  jax.tree.map(
    np.testing.assert_array_equal, run(other | masked).logits, expected
  )
  assert np.abs(run(other).logits["label"] - expected["label"]).max() > 1e-3


def test_outputs_of_converts_a_spec_to_outputs():
  grid = {
    "shape": (2, 3),
    "num_outputs": 4,
    "num_bands": 5,
    "max_resolution": (6, 7),
  }
  label = {"num_outputs": 8, "num_query_channels": 9}
  assert multimodal.outputs_of({"a": grid, "b": label}) == {
    "a": multimodal.GridOutput((2, 3), 4, 5, (6, 7)),
    "b": multimodal.LabelOutput(8, 9),
  }
