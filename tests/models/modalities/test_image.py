"""Tests of the adapter of images and video."""

import haiku as hk
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from perceiver_jax.models import position_encoding
from perceiver_jax.models.modalities import image

_IMAGE = (2, 8, 16, 3)
_VIDEO = (2, 4, 8, 16, 3)


def _model(**kwargs):
  make = lambda x: image.ImageAdapter(name="adapter", **kwargs)(
    x, is_training=True
  )
  return hk.without_apply_rng(hk.transform_with_state(make))


def _run(key, x, **kwargs):
  model = _model(**kwargs)
  params, state = model.init(key, x)
  return model.apply(params, state, x)[0], params


def _shapes(shape, **kwargs):
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  out, params = jax.eval_shape(
    lambda key, x: _run(key, x, **kwargs), jax.random.key(0), x
  )
  return out.shape, params


# `prep_type`, its arguments, shape of the input, resulting grid and channels.
_PREP_TYPES = [
  ("pixels", {}, _IMAGE, (8, 16), 3),
  ("pixels", {"spatial_downsample": 2}, _IMAGE, (4, 8), 3),
  (
    "pixels",
    {"spatial_downsample": 4, "temporal_downsample": 2},
    _VIDEO,
    (2, 2, 4),
    3,
  ),
  ("conv1x1", {"num_channels": 5}, _IMAGE, (8, 16), 5),
  (
    "conv1x1",
    {"num_channels": 5, "spatial_downsample": 2},
    _IMAGE,
    (4, 8),
    5,
  ),
  ("conv1x1", {"num_channels": 5}, _VIDEO, (4, 8, 16), 5),
  ("conv", {"num_channels": 6, "spatial_downsample": 4}, _IMAGE, (2, 4), 6),
  (
    "conv",
    {"num_channels": 6, "spatial_downsample": 16},
    (2, 16, 32, 3),
    (1, 2),
    6,
  ),
  (
    "conv",
    {"num_channels": 6, "spatial_downsample": 4, "use_batchnorm": False},
    _VIDEO,
    (4, 2, 4),
    6,
  ),
  ("conv", {"num_channels": 6, "spatial_downsample": 4}, _VIDEO, (4, 2, 4), 6),
  ("patches", {"spatial_downsample": 4}, _IMAGE, (2, 4), 48),
  (
    "patches",
    {"spatial_downsample": 4, "num_channels": 7},
    _IMAGE,
    (2, 4),
    7,
  ),
  (
    "patches",
    {"spatial_downsample": 4, "temporal_downsample": 2},
    _VIDEO,
    (2, 2, 4),
    96,
  ),
  (
    "patches",
    {"spatial_downsample": 4, "temporal_downsample": 4},
    _VIDEO,
    (2, 4),
    192,
  ),
]
# Arguments of positions, and the channels added for a grid of d dimensions.
_POSITIONS = [
  ({"num_bands": 3}, lambda d: d * 7),
  ({"num_bands": 3, "project_positions": 9}, lambda d: 9),
  (
    {"position_encoding": "trainable", "num_position_channels": 11},
    lambda d: 11,
  ),
  (
    {
      "position_encoding": "trainable",
      "num_position_channels": 11,
      "project_positions": 9,
      "num_position_mlp": 2,
    },
    lambda d: 9,
  ),
  ({"num_bands": 3, "concat_or_add": "add"}, lambda d: 0),
  (
    {"position_encoding": "trainable", "concat_or_add": "add"},
    lambda d: 0,
  ),
]


def test_every_prep_type_and_position_encoding_is_tested():
  assert {p[0] for p in _PREP_TYPES} == set(image.PREP_TYPES)
  tested = {p[0].get("position_encoding", "fourier") for p in _POSITIONS}
  assert tested == set(image.POSITIONS)


@pytest.mark.parametrize("encoding", range(len(_POSITIONS)))
@pytest.mark.parametrize("case", range(len(_PREP_TYPES)))
def test_every_prep_type_and_encoding_has_the_right_shape(case, encoding):
  prep_type, kwargs, shape, grid, channels = _PREP_TYPES[case]
  extra, added = _POSITIONS[encoding]
  out, params = _shapes(shape, prep_type=prep_type, **kwargs, **extra)
  assert out == (2, np.prod(grid), channels + added(len(grid)))
  if extra.get("position_encoding") == "trainable":
    width = extra.get("num_position_channels", 256)
    table = params["adapter/positions"]["embeddings"]
    assert table.shape == (np.prod(grid), width)
  else:
    assert "adapter/positions" not in params


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    (
      {"prep_type": "pixel"},
      "prep_type 'pixel': choose one of pixels, conv1x1, conv, patches",
    ),
    (
      {"position_encoding": "sine"},
      "position_encoding 'sine': choose one of fourier, trainable",
    ),
    (
      {"concat_or_add": "both"},
      "concat_or_add 'both': choose one of concat, add",
    ),
    (
      {"prep_type": "conv", "num_channels": 4, "spatial_downsample": 2},
      "spatial_downsample 2: the 'conv' stem divides by a power of 4",
    ),
    (
      {"prep_type": "conv", "num_channels": 4, "spatial_downsample": 1},
      "spatial_downsample 1: the 'conv' stem",
    ),
    (
      {"prep_type": "patches", "spatial_downsample": 3},
      "does not divide into patches of 1 x 3 x 3",
    ),
    (
      {"max_resolution": (8, 8, 8)},
      "has 3 dimensions, the positions have 2",
    ),
  ],
)
def test_invalid_arguments_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    _shapes(_IMAGE, **kwargs)


def _images(seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=_IMAGE), jnp.float32)


def test_fourier_features_are_appended_to_pixels():
  x = _images()
  run = jax.jit(lambda key, x: _run(key, x, num_bands=3))
  out, params = run(jax.random.key(0), x)
  assert not params
  np.testing.assert_array_equal(out[..., :3], x.reshape(2, -1, 3))
  table = position_encoding.fourier_grid((8, 16), 3)
  for example in out:
    np.testing.assert_allclose(example[:, 3:], table, atol=1e-4)


def test_fourier_features_use_max_resolution():
  run = jax.jit(
    lambda key, x: _run(key, x, num_bands=3, max_resolution=(20, 30))
  )
  out, _ = run(jax.random.key(0), _images())
  table = position_encoding.fourier_grid((8, 16), 3, (20, 30))
  np.testing.assert_allclose(out[0, :, 3:], table, atol=1e-4)


def test_added_positions_are_projected_to_the_channels():
  x = _images()
  run = jax.jit(lambda key, x: _run(key, x, num_bands=3, concat_or_add="add"))
  out, params = run(jax.random.key(0), x)
  leaf = params["adapter/project_positions"]
  assert leaf["w"].shape == (14, 3)
  table = position_encoding.fourier_grid((8, 16), 3) @ leaf["w"] + leaf["b"]
  expected = np.asarray(x).reshape(2, -1, 3) + table
  np.testing.assert_allclose(out, expected, atol=1e-4)


def test_all_examples_have_the_same_trainable_positions():
  kwargs = {"position_encoding": "trainable", "num_position_channels": 4}
  run = jax.jit(lambda key, x: _run(key, x, **kwargs))
  out, params = run(jax.random.key(0), _images())
  table = params["adapter/positions"]["embeddings"]
  for example in out:
    np.testing.assert_allclose(example[:, 3:], table, rtol=1e-6)
  other, _ = run(jax.random.key(0), _images(1))
  np.testing.assert_array_equal(other[..., 3:], out[..., 3:])


def test_downsampling_takes_the_first_pixel_of_every_cell():
  x = _images()
  run = jax.jit(lambda key, x: _run(key, x, spatial_downsample=4, num_bands=1))
  out, _ = run(jax.random.key(0), x)
  np.testing.assert_array_equal(out[..., :3], x[:, ::4, ::4].reshape(2, -1, 3))


def test_positions_have_the_type_of_the_images():
  x = jax.ShapeDtypeStruct(_IMAGE, jnp.bfloat16)
  run = lambda key, x: _run(key, x, num_bands=3)[0]
  out = jax.eval_shape(run, jax.random.key(0), x)
  assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize("positions", ["fourier", "trainable"])
@pytest.mark.parametrize("concat_or_add", ["concat", "add"])
def test_a_permutation_moves_elements_with_their_positions(
  positions, concat_or_add
):
  arguments = {
    "prep_type": "conv1x1",
    "num_channels": 4,
    "position_encoding": positions,
    "num_position_channels": 4,
    "num_bands": 2,
    "concat_or_add": concat_or_add,
  }
  key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), _IMAGE)
  out, params = _run(key, x, **arguments)
  permuted, same = _run(key, x, permutation_seed=3, **arguments)
  jax.tree.map(np.testing.assert_array_equal, params, same)
  order = image.permutation(3, 8 * 16)
  assert sorted(order) == list(range(8 * 16))
  assert np.any(order != np.arange(8 * 16))
  np.testing.assert_array_equal(permuted, out[:, order])


def test_a_permutation_depends_on_its_seed():
  assert np.any(image.permutation(0, 50) != image.permutation(1, 50))
  np.testing.assert_array_equal(
    image.permutation(0, 50), image.permutation(0, 50)
  )


def test_positions_of_a_crop_are_those_of_its_pixels_in_the_image():
  key, whole = jax.random.key(0), jax.random.normal(jax.random.key(1), _IMAGE)
  kwargs = {"num_bands": 3, "max_resolution": (8, 16)}
  full, _ = _run(key, whole, **kwargs)
  full = full.reshape(*_IMAGE[:3], -1)
  # Each example is cropped elsewhere: rows 2 to 5 and columns 0 to 7, and rows
  # 4 to 7 and columns 8 to 15.
  crops = jnp.stack([whole[0, 2:6, :8], whole[1, 4:, 8:]])
  expected = jnp.stack([full[0, 2:6, :8], full[1, 4:, 8:]])
  pixels = jnp.array([[[2, 0], [5, 7]], [[4, 8], [7, 15]]], jnp.float32)
  raw = {"image": crops, "crop_box": 2 * pixels / jnp.array([7, 15]) - 1}
  out, _ = _run(key, raw, coordinates="image", **kwargs)
  np.testing.assert_allclose(out, expected.reshape(out.shape), atol=1e-4)


@pytest.mark.parametrize(
  "kwargs",
  [
    {},
    {"prep_type": "conv", "num_channels": 6, "spatial_downsample": 4},
    {"concat_or_add": "add"},
    {"project_positions": 5, "permutation_seed": 3},
  ],
)
def test_coordinates_of_a_whole_image_are_those_of_a_crop(kwargs):
  key, images = jax.random.key(0), jax.random.normal(jax.random.key(1), _IMAGE)
  box = jnp.broadcast_to(jnp.array([[-1.0, -1.0], [1.0, 1.0]]), (2, 2, 2))
  raw = {"image": images, "crop_box": box}
  out, params = _run(key, raw, num_bands=3, coordinates="image", **kwargs)
  expected, same = _run(key, images, num_bands=3, **kwargs)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, same)
  np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize(
  ("kwargs", "with_box", "message"),
  [
    ({"coordinates": "world"}, False, "coordinates 'world': choose one of"),
    (
      {"coordinates": "image", "position_encoding": "trainable"},
      True,
      "table has no coordinates",
    ),
    ({"coordinates": "image"}, False, "a mapping with 'image' and 'crop_box'"),
    ({}, True, "images alone for 'crop'"),
  ],
)
def test_coordinates_that_cannot_be_are_refused(kwargs, with_box, message):
  images = jnp.zeros(_IMAGE)
  raw = {"image": images, "crop_box": jnp.zeros((2, 2, 2))}
  with pytest.raises(ValueError, match=message):
    _run(jax.random.key(0), raw if with_box else images, **kwargs)
