import ml_collections
import numpy as np
import pytest

from configs import base
from perceiver_jax.data.images import rand_augment, transforms
from perceiver_jax.data.images.preprocessing import Preprocessing
from perceiver_jax.errors import UserError

_SHAPE = (16, 24, 3)


def _settings(**leaves):
  config = ml_collections.ConfigDict({"data": base.image_classification().data})
  for name, value in leaves.items():
    config.data[name] = value
  return config.data.to_dict()


def _image(height=40, width=30, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def _rng(seed=0):
  return np.random.default_rng(seed)


def test_by_default_training_preprocesses_like_evaluation():
  prepare = Preprocessing(_SHAPE, _settings())
  image = _image()
  expected = transforms.prepare_image(image, _SHAPE)
  np.testing.assert_array_equal(prepare.evaluate(image), expected)
  np.testing.assert_array_equal(prepare.train(image, _rng()), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["center", "inception"])
def test_images_of_any_size_are_resized_to_the_models_shape(crop, channels):
  settings = _settings(
    crop=crop,
    flip=True,
    rand_augment={"num_layers": 2, "magnitude": 5.0},
    normalization="imagenet" if channels == 3 else "unit",
  )
  prepare = Preprocessing((16, 24, channels), settings)
  for seed, size in enumerate([(40, 30), (7, 90), (16, 24), (1, 1)]):
    out = prepare.train(_image(*size), _rng(seed))
    assert out.shape == (16, 24, channels)
    assert out.dtype == np.float32
    assert prepare.evaluate(_image(*size)).shape == out.shape


def test_a_view_depends_on_its_generator_alone():
  settings = _settings(
    crop="inception",
    flip=True,
    resize="cubic",
    rand_augment={"num_layers": 4, "magnitude": 5.0},
  )
  prepare, image = Preprocessing(_SHAPE, settings), _image()
  before = image.copy()
  views = [prepare.train(image, _rng(seed)) for seed in (1, 1, 2, 3)]
  np.testing.assert_array_equal(views[0], views[1])
  assert np.any(views[0] != views[2])
  assert np.any(views[2] != views[3])
  np.testing.assert_array_equal(image, before)


def test_half_of_the_images_are_flipped_left_to_right():
  prepare = Preprocessing(_SHAPE, _settings(flip=True))
  image, plain = _image(), Preprocessing(_SHAPE, _settings())
  rng, num_flipped = _rng(), 0
  for _ in range(200):
    out = prepare.train(image, rng)
    unflipped = np.array_equal(out, plain.evaluate(image))
    assert unflipped or np.array_equal(out, plain.evaluate(image[:, ::-1]))
    num_flipped += not unflipped
  assert 75 < num_flipped < 125


def test_images_of_the_models_shape_are_flipped_but_not_cropped():
  settings = _settings(flip=True, affine={"degrees": 0.0, "scale": 0.0,
                                          "shift": 0.0})  # fmt: skip
  prepare = Preprocessing((4, 4, 1), settings)
  image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
  np.testing.assert_array_equal(prepare.evaluate(image), image)
  views = {prepare.train(image, _rng(seed)).tobytes() for seed in range(20)}
  assert views == {image.tobytes(), image[:, ::-1].tobytes()}


def test_randaugment_comes_before_the_resize(monkeypatch):
  calls = []

  def spy(image, rng, **settings):
    calls.append((image.shape, image.dtype, settings))
    return image

  monkeypatch.setattr(rand_augment, "rand_augment", spy)
  settings = _settings(
    crop="inception", rand_augment={"num_layers": 3, "magnitude": 7.0}
  )
  Preprocessing(_SHAPE, settings).train(_image(400, 300), _rng())
  ((shape, dtype, given),) = calls
  assert dtype == np.uint8
  assert shape != _SHAPE
  assert given == {"num_layers": 3, "magnitude": 7.0}


def test_pixels_undoes_the_normalization():
  prepare = Preprocessing(_SHAPE, _settings(normalization="imagenet"))
  image = _image(16, 24)
  np.testing.assert_array_equal(prepare.pixels(prepare.evaluate(image)), image)


@pytest.mark.parametrize(
  ("leaves", "parts"),
  [
    ({"crop": "random"}, ["config.data.crop", "'random'", "inception"]),
    ({"resize": "linear"}, ["config.data.resize", "area", "cubic"]),
    ({"normalization": "z"}, ["config.data.normalization", "imagenet"]),
    ({"crop_fraction": 0.0}, ["config.data.crop_fraction", "0.0"]),
    ({"crop_fraction": 1.5}, ["config.data.crop_fraction", "at most 1"]),
  ],
)
def test_bad_settings_name_their_leaf(leaves, parts):
  with pytest.raises(UserError) as error:
    Preprocessing(_SHAPE, _settings(**leaves))
  for part in parts:
    assert part in str(error.value)


def _map(height, width):
  """Returns an image with its own coordinates: y is red, x is green."""
  y, x = np.mgrid[:height, :width]
  ramps = [255 * y / (height - 1), 255 * x / (width - 1), 0 * x]
  return np.round(np.stack(ramps, axis=-1)).astype(np.uint8)


def _check_corners(view, box, atol):
  """Checks that the colors of a view's corners are the coordinates of a box."""
  np.testing.assert_allclose(view[0, 0, :2], box[0], atol=atol)
  np.testing.assert_allclose(view[-1, -1, :2], box[1], atol=atol)


@pytest.mark.parametrize("flip", [False, True])
def test_the_box_of_a_view_is_its_place_in_the_image(flip):
  image = _map(200, 300)
  prepare = Preprocessing(
    (32, 32, 3), _settings(crop="inception", normalization="unit", flip=flip)
  )
  mirrored = 0
  for seed in range(20):
    view, box = prepare.train_with_box(image, _rng(seed))
    np.testing.assert_array_equal(view, prepare.train(image, _rng(seed)))
    assert box.dtype == np.float32
    assert (box[0] < box[1]).all()
    assert np.abs(box).max() <= 1
    if view[0, 0, 1] > view[0, -1, 1]:
      mirrored += 1
      view = view * np.float32([1, -1, 1])  # The place in the mirror image.
    # Resizing averages the pixels at the border with their neighbors.
    _check_corners(view, box, atol=0.05)
  assert (mirrored > 0) == flip
  view = prepare.evaluate(image)
  _check_corners(view, prepare.evaluation_box(image), atol=0.05)


def test_the_box_of_a_whole_image_spans_it():
  whole = [[-1, -1], [1, 1]]
  prepare = Preprocessing((32, 32, 3), _settings())
  square = np.zeros((50, 50, 3), np.uint8)
  np.testing.assert_array_equal(prepare.evaluation_box(square), whole)
  ready = np.zeros((32, 32, 3), np.float32)
  np.testing.assert_array_equal(prepare.evaluation_box(ready), whole)
  _, box = prepare.train_with_box(ready, _rng())
  np.testing.assert_array_equal(box, whole)
  # Columns 10 to 49 of 60, the first of which is 0.
  wide = np.zeros((40, 60, 3), np.uint8)
  box = prepare.evaluation_box(wide)
  np.testing.assert_allclose(box[:, 1], [20 / 59 - 1, 98 / 59 - 1], rtol=1e-6)
