"""Tests of the adapter and the decoder of optical flow."""

import functools

import haiku as hk
import jax
import numpy as np
import plain
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models import flops, zoo
from perceiver_jax.models.modalities import convolutions, flow

_few = settings(max_examples=10, deadline=None)
_SIZE = (4, 5)


@pytest.mark.parametrize(
  ("name", "elements", "channels", "patch_channels"),
  [
    ("flow", 182_528, 322, 54),
    ("flow_16x1024", 182_528, 322, 54),
    ("flow_separate", 365_056, 451, 27),
    ("flow_pixels", 182_528, 322, 6),
    ("flow_pixels_separate", 365_056, 451, 3),
    ("flow_conv", 11_408, 322, 0),
    ("flow_conv_light", 11_408, 322, 0),
    ("flow_conv_separate", 22_816, 451, 0),
  ],
)
def test_published_models_have_the_papers_shapes(
  name, elements, channels, patch_channels
):
  spec, frames = zoo.get_spec(name), zoo.MODELS[name].example()
  arguments = {k: v for k, v in spec["adapter"].items() if k != "kind"}
  adapter = hk.transform_with_state(
    lambda x: flow.FlowAdapter(**arguments)(x, is_training=True)
  )
  run = lambda key, x: adapter.apply(*adapter.init(key, x), None, x)[0]
  inputs = jax.eval_shape(run, jax.random.key(0), frames)
  assert inputs.shape == (1, elements, channels)
  model = small.model(spec)
  params, state = small.shapes(model, frames)
  if patch_channels:
    assert params["adapter/image/patches"]["w"].shape == (patch_channels, 64)
  assert params["decoder/cross_attend/attention/query"]["w"].shape == (
    channels,
    512,
  )
  out, _ = jax.eval_shape(
    lambda p, s, x: model.apply(p, s, None, x), params, state, frames
  )
  assert out.logits.shape == (1, 368, 496, 2)


def _patches(frame, size):
  """Returns the zero-padded patch around each pixel, ordered (dy, dx, c)."""
  height, width, _ = frame.shape
  margin = size // 2
  padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)))
  return np.stack(
    [
      padded[y : y + size, x : x + size].ravel()
      for y in range(height)
      for x in range(width)
    ]
  )


def _adapter(**kwargs):
  return plain.transform(
    lambda x: flow.FlowAdapter(
      num_channels=7, num_bands=2, name="adapter", **kwargs
    )(x, is_training=True)
  )


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_patches_of_frames_are_joined_along_channels_or_elements(size, concat):
  resolution = (8, 10) if concat else (2, 8, 10)
  model = _adapter(
    patch_size=size, concat_frames=concat, max_resolution=resolution
  )
  frames = plain.normal(2, 2, *_SIZE, 3)
  params = plain.random_params(model, frames)
  assert set(params) == {"adapter/image/patches"}
  patches = [[_patches(f, size) for f in pair] for pair in np.asarray(frames)]
  joined = [np.concatenate(pair, axis=1 if concat else 0) for pair in patches]
  expected = plain.Module(params, "adapter").linear("image/patches", joined)
  places = plain.grid(*_SIZE) if concat else plain.grid(2, *_SIZE)
  out = plain.jit(model.apply)(params, frames)
  np.testing.assert_allclose(out[..., :7], expected, atol=1e-4)
  for example in out:
    np.testing.assert_allclose(
      example[:, 7:], plain.fourier(places, 2, resolution), atol=1e-4
    )


def test_convolutions_take_joined_or_single_frames():
  frames = flops.abstract(2, 2, 6, 9, 3)
  shapes = []
  for concat in (True, False):
    model = hk.transform_with_state(
      lambda x, concat=concat: flow.FlowAdapter(
        use_convolutions=True,
        concat_frames=concat,
        num_channels=7,
        num_bands=2,
        max_resolution=(),
        name="adapter",
      )(x, is_training=True)
    )
    params, state = small.shapes(model, frames)
    out, _ = jax.eval_shape(
      lambda p, s, x, model=model: model.apply(p, s, None, x),
      params,
      state,
      frames,
    )
    shapes.append((params["adapter/image/stem/conv_0"]["w"].shape, out.shape))
  # 6 x 9 pixels give 2 x 3 elements per frame.
  assert shapes == [
    ((7, 7, 6, 7), (2, 6, 7 + 10)),
    ((7, 7, 3, 7), (2, 12, 7 + 15)),
  ]


@functools.cache
def _decoder(upsample):
  """Returns the compiled decoder, its parameters, and its upsampling."""
  arguments = {"use_convex_upsampling": upsample, "decoded_channels": 6}
  model = plain.transform(
    lambda latents, inputs: flow.FlowDecoder(
      _SIZE, qk_channels=8, name="decoder", **arguments
    )(latents, inputs)[0]
  )
  elements = 2 if upsample else 20
  args = plain.normal(2, 3, 8), plain.normal(2, elements, 9)
  params = plain.random_params(model, *args)
  up = plain.transform(
    lambda x: convolutions.ConvexUpsample(4, name="upsample")(x)
  )
  return plain.jit(functools.partial(model.apply, params)), params, up


def test_flow_agrees_with_the_definition_of_the_decoder():
  run, params, _ = _decoder(False)
  latents, inputs = plain.normal(2, 3, 8), plain.normal(2, 20, 9, seed=3)
  decoder = plain.Module(params, "decoder")
  decoded, _ = decoder.cross_attend(inputs, latents)
  expected = decoder.linear("output", decoded).reshape(2, *_SIZE, 2) / 100
  out = run(latents, inputs)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  np.testing.assert_allclose(flow.in_pixels(out), 20 * expected, atol=1e-4)


def test_upsampled_flow_agrees_with_the_definition_of_the_decoder():
  run, params, up = _decoder(True)
  latents, inputs = plain.normal(2, 3, 8), plain.normal(2, 2, 9, seed=3)
  decoder = plain.Module(params, "decoder")
  decoded, _ = decoder.cross_attend(inputs, latents)
  coarse = decoder.linear("output", decoded).reshape(2, 1, 2, 6)
  own = {
    module.removeprefix("decoder/"): leaves
    for module, leaves in params.items()
    if module.startswith("decoder/upsample")
  }
  expected = plain.jit(up.apply)(own, jnp.asarray(coarse, "float32"))
  assert expected.shape == (2, 4, 8, 2)
  out = run(latents, inputs)
  np.testing.assert_allclose(out, expected[:, :4, :5] / 100, atol=1e-4)


def test_only_elements_of_the_first_frame_are_queries():
  run, _, _ = _decoder(False)
  latents, inputs = plain.normal(2, 3, 8), plain.normal(2, 40, 9)
  out = run(latents, inputs)
  np.testing.assert_array_equal(run(latents, inputs.at[:, 20:].set(9.0)), out)
  np.testing.assert_allclose(run(latents, inputs[:, :20]), out, atol=1e-6)


@_few
@given(st.integers(0, 19), st.integers(1, 99))
def test_the_flow_of_a_pixel_depends_on_its_own_query_only(index, seed):
  run, _, _ = _decoder(False)
  latents, inputs = plain.normal(2, 3, 8), plain.normal(2, 20, 9)
  others = plain.normal(2, 20, 9, seed=seed).at[:, index].set(inputs[:, index])
  before, after = (
    np.asarray(run(latents, x)).reshape(2, 20, 2) for x in (inputs, others)
  )
  np.testing.assert_allclose(after[:, index], before[:, index], atol=1e-6)
  changes = np.abs(after - before).max((0, 2))
  assert np.all(np.delete(changes, index) > 1e-5)


@pytest.mark.parametrize("name", ["flow", "flow_conv"])
def test_flow_is_initially_zero(name):
  model = small.model(small.spec(name))
  frames = small.raw(name)
  random, state = plain.random_like(small.shapes(model, frames))

  def start(key):
    """Initializes the last layer of a model whose other layers are random."""
    params, _ = model.init(key, frames)
    last = {
      "flow": "decoder/output",
      "flow_conv": "decoder/upsample/flow",
    }[name]
    out, _ = model.apply(random | {last: params[last]}, state, None, frames)
    return out.logits, params[last]

  out, last = plain.jit(start)(jax.random.key(0))
  assert out.shape == (2, 5, 6, 2)
  assert not np.any(out)
  assert not any(np.any(x) for x in jax.tree.leaves(last))


@pytest.mark.parametrize(
  "sizes",
  [
    (2, 4, 6),
    # As many pixels, twice as many, and as many in one frame more.
    (2, 12, 8),
    (2, 6, 16),
    (2, 16, 12),
    (3, 8, 12),
    (2, 8, 11),  # As many elements of the convolutions.
  ],
)
@pytest.mark.parametrize("name", ["flow", "flow_separate", "flow_conv"])
def test_frames_of_another_size_are_refused(no_type_checks, name, sizes):
  spec = small.spec(name)
  spec["decoder"]["image_size"] = (8, 12)
  message = r"give pairs \[B, 2, 8, 12, 3\], or change image_size"
  with pytest.raises(ValueError, match=message):
    small.shapes(small.model(spec), flops.abstract(1, *sizes, 3))


def test_elements_of_frames_of_another_size_are_refused():
  run, _, _ = _decoder(False)
  message = "19 input elements do not come from frames of 4 x 5: give frames"
  with pytest.raises(ValueError, match=message):
    run(plain.normal(2, 3, 8), plain.normal(2, 19, 9))
