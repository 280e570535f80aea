"""The adapter and decoder of several modalities."""

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
# Sizes of the small autoencoder: elements by modality.
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
def test_full_size_of_the_autoencoder(num_latents):
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


def test_full_size_decoded_in_parts():
  # The parts of the authors' notebook: 1 of 128.
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
    # One modality is not padded.
    ("audioset_icml_video", 12_544, 483),
    ("audioset_icml_raw", 480, 257),
    ("audioset_icml_mel", 4_800, 386),
    ("audioset_icml_attention_maps", 61_440 + 50_176, 199),
  ],
)
def test_full_size_of_classifiers_of_clips(name, elements, channels):
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
  """Three arrays that are elements already, and a label."""
  identity = lambda x, is_training: x
  return plain.transform(
    lambda raw: multimodal.MultimodalAdapter(
      # In no order: it is that of the names.
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


def test_modalities_by_name_padded_and_masked():
  raw, masked = _raw(), _masked()
  model = _adapter()
  params = plain.random_params(model, raw)
  out = plain.jit(model.apply)(params, raw | {"masked": masked})
  assert out.shape == (2, 3 + 1 + 4, 9)
  plainly = plain.Module(params, "adapter")
  want = np.zeros(out.shape)
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
        plainly.table(f"{name}_{part}")[0] for part in ("padding", "mask")
      )
      for i, element in enumerate(np.asarray(arrays[name][b])):
        shown = np.concatenate([element, padding])
        rows.append(token if masked[name][b, i] else shown)
    want[b] = rows
  np.testing.assert_allclose(out, want, atol=1e-6)


@functools.cache
def _compiled():
  model = _adapter()
  params = plain.random_params(model, _raw())
  return plain.jit(functools.partial(model.apply, params))


@_few
@given(st.integers(0, 99), st.sampled_from([np.nan, np.inf, 7.0]))
def test_what_is_masked_does_not_matter(seed, garbage):
  rng = np.random.default_rng(seed)
  raw = _raw(seed)
  masked = {
    "video": jnp.asarray(rng.random((2, 4)) < 0.5),
    "audio": jnp.asarray(rng.random(2) < 0.5),
  }
  want = _compiled()(raw | {"masked": masked})
  hide = {"video": masked["video"], "audio": masked["audio"][:, None]}
  spoilt = raw | {
    k: jnp.where(hide[k][..., None], garbage, raw[k]) for k in hide
  }
  out = _compiled()(spoilt | {"masked": masked})
  np.testing.assert_array_equal(out, want)
  # The mask of an example is that of each of its elements.
  masked["audio"] = jnp.repeat(masked["audio"][:, None], 3, axis=1)
  np.testing.assert_array_equal(_compiled()(raw | {"masked": masked}), want)


def test_without_masks_nothing_is_replaced():
  raw = _raw()
  nothing = {"masked": jax.tree.map(jnp.zeros_like, _masked())}
  np.testing.assert_array_equal(_compiled()(raw), _compiled()(raw | nothing))
  unpadded = _adapter(min_padding=0, use_mask_tokens=False)
  params = plain.random_params(unpadded, raw)
  # The widest modality is not padded then.
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
def test_bad_input_is_an_error(change, tokens, message):
  raw = {k: v for k, v in (_raw() | change).items() if v is not None}
  model = _adapter(use_mask_tokens=tokens)
  with pytest.raises(ValueError, match=message):
    small.shapes(model, raw)


@functools.cache
def _autoencoder():
  """The small autoencoder with random parameters, and those."""
  model = small.model(small.spec("kinetics_784"))
  raw = small.raw("kinetics_784")
  params, _ = plain.random_like(small.shapes(model, raw))
  apply = lambda raw, **kwargs: model.apply(params, {}, None, raw, **kwargs)[0]
  return plain.jit(apply, static_argnames="return_attention"), params, raw


def _at(indices, sizes):
  """Coordinates of flat indices, as the released model was trained with."""
  return np.stack(
    [
      -1 + 2 * i / n
      for i, n in zip(np.unravel_index(indices, sizes), sizes, strict=True)
    ],
    -1,
  )


def test_outputs_from_latents():
  run, params, raw = _autoencoder()
  out = run(raw, return_attention=True)
  decoder = plain.Module(params, "decoder")
  queries = {
    "audio": plain.fourier(_at(np.arange(4), (4,)), 2, (8,)),
    # 2 x 2 x 2 is the resolution of the patches, not of the pixels.
    "image": plain.fourier(_at(np.arange(_POINTS), _VIDEO), 2, (2, 2, 2)),
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
  want = {
    "audio": decoder.linear("audio_output", audio),
    "image": decoder.linear("image_output", image).reshape(2, *_VIDEO, 3),
    "label": decoder.linear("label_output", label)[:, 0],
  }
  assert _shapes(out.logits) == _shapes(want)
  for name, value in want.items():
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
def test_decoding_in_parts_is_decoding_at_once(points, patches):
  run, _, raw = _autoencoder()
  whole = _whole()
  for i in range(2):
    part = {
      "image": jnp.asarray(points[i::2]),
      "audio": jnp.asarray(patches[i::2]),
    }
    out = run(raw, latents=whole.latents, queries=part).logits
    want = _flat(whole.logits["image"])[:, part["image"]]
    np.testing.assert_allclose(out["image"], want, atol=1e-5)
    want = np.asarray(whole.logits["audio"])[:, part["audio"]]
    np.testing.assert_allclose(out["audio"], want, atol=1e-5)
    np.testing.assert_allclose(out["label"], whole.logits["label"], atol=1e-5)


@_few
@given(st.integers(0, 99))
def test_each_example_may_have_points_of_its_own(seed):
  run, _, raw = _autoencoder()
  rng = np.random.default_rng(seed)
  points = rng.integers(_POINTS, size=(2, 5))
  decode = lambda indices: (
    run(
      raw, latents=_whole().latents, queries={"image": jnp.asarray(indices)}
    ).logits
  )
  out = decode(points)
  # A modality that is not named is whole.
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


def test_all_indices_are_the_whole():
  run, _, raw = _autoencoder()
  everything = {"image": jnp.arange(_POINTS), "audio": jnp.arange(4)}
  out, whole = run(raw, queries=everything).logits, _whole().logits
  np.testing.assert_allclose(out["image"], _flat(whole["image"]), atol=1e-5)
  np.testing.assert_allclose(out["audio"], whole["audio"], atol=1e-5)


def test_a_modality_can_be_left_out():
  run, _, raw = _autoencoder()
  out = run(
    raw, latents=_whole().latents, queries={"image": jnp.zeros(0, "int32")}
  ).logits
  assert out["image"].shape == (2, 0, 3)
  np.testing.assert_allclose(out["audio"], _whole().logits["audio"], atol=1e-5)


@pytest.mark.parametrize("name", ["video", "label"])
def test_queries_are_of_modalities_with_a_grid(name):
  run, _, raw = _autoencoder()
  message = f"queries for {name}: choose among audio, image"
  with pytest.raises(ValueError, match=message):
    run(raw, queries={name: jnp.arange(3)})


def test_label_masked_from_the_input_is_not_read():
  run, _, raw = _autoencoder()
  masked = {"masked": {"label": jnp.ones(2, bool)}}
  other = raw | {"label": -raw["label"]}
  want = run(raw | masked).logits
  jax.tree.map(np.testing.assert_array_equal, run(other | masked).logits, want)
  assert np.abs(run(other).logits["label"] - want["label"]).max() > 1e-3


def test_outputs_of_a_spec():
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
