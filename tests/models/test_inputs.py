"""Tests of input arrays whose positions are stored once for all examples."""

import types

import jax
import numpy as np
import plain
import pytest
from jax import numpy as jnp

from perceiver_jax.models import inputs, zoo
from perceiver_jax.models.inputs import InputArray


@pytest.fixture
def parts():
  return InputArray(plain.normal(2, 5, 3), plain.normal(5, 4, seed=1))


def test_array_concatenates_the_positions_to_each_example(parts):
  array = np.asarray(parts.array())
  assert parts.shape == array.shape == (2, 5, 7)
  np.testing.assert_array_equal(array[..., :3], parts.data)
  for example in array:
    np.testing.assert_array_equal(example[:, 3:], parts.positions)


def test_array_has_the_type_of_the_data(parts):
  half = parts._replace(data=parts.data.astype(jnp.bfloat16))
  assert half.array().dtype == jnp.bfloat16


def test_without_positions_the_array_is_the_data():
  data = plain.normal(2, 5, 3)
  alone = InputArray(data)
  assert alone.shape == (2, 5, 3)
  assert alone.array() is data
  assert alone.slice(1, 3).positions is None
  assert inputs.as_input_array(data).data is data


@pytest.mark.parametrize(("start", "end"), [(0, 2), (2, 5), (3, 3)])
def test_slice_gives_a_part_of_the_array(parts, start, end):
  part = parts.slice(start, end)
  np.testing.assert_array_equal(part.array(), parts.array()[:, start:end])
  np.testing.assert_array_equal(
    parts.slice(0, end).array(), parts.array()[:, :end]
  )


def test_zero_padding_zeroes_the_data_of_masked_elements(parts):
  mask = jnp.asarray([[True] * 5, [True, False, True, False, False]])
  data = jnp.where(mask[..., None], parts.data, jnp.nan)
  masked = parts._replace(data=data).zero_padding(mask)
  np.testing.assert_array_equal(masked.data[0], parts.data[0])
  np.testing.assert_array_equal(masked.data[1, [0, 2]], parts.data[1, [0, 2]])
  assert not np.any(masked.data[1, [1, 3, 4]])
  assert masked.positions is parts.positions
  assert parts.zero_padding(None) is parts
  assert inputs.as_input_array(parts) is parts


def test_of_adapter_takes_separate_positions_if_the_adapter_has_them(parts):
  whole = lambda raw, is_training: raw + is_training
  data = plain.normal(1, 2, 3)
  out = inputs.of_adapter(whole, data, is_training=True)
  np.testing.assert_array_equal(out.data, data + 1)
  assert out.positions is None
  adapter = types.SimpleNamespace(parts=lambda raw, is_training: parts)
  assert inputs.of_adapter(adapter, data, is_training=False) is parts


@pytest.mark.parametrize(
  ("kind", "raw"),
  [
    ("image", np.ones((1, 4, 4, 3), np.uint8)),
    ("audio", np.ones((1, 32, 1), np.int16)),
    ("features", np.ones((1, 2, 3, 4), np.int32)),
    ("arrays", {"features": np.ones((1, 3, 2), np.int32)}),
  ],
)
def test_integers_are_refused(no_type_checks, kind, raw):
  model = plain.transform(
    lambda x: inputs.of_adapter(zoo.ADAPTERS[kind](), x, is_training=False)
  )
  message = "the input array must be floating point, got u?int[0-9]+: convert"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), raw)
