import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import decoding

SHAPES = {"image": (2, 3, 4), "audio": (5,)}


def outputs(queries):
  """Returns each point's index and its negative, and a constant label."""
  points = {
    name: np.stack([indices, -indices], -1)[None].repeat(2, axis=0)
    for name, indices in queries.items()
  }
  return points | {"label": np.array([[1.0], [2.0]])}


@settings(deadline=None)
@given(num_parts=st.integers(1, 40))
def test_every_point_is_decoded_once_in_any_number_of_parts(num_parts):
  calls = []

  def decode(queries):
    calls.append(queries)
    return outputs(queries)

  decoded = decoding.decode_in_parts(decode, SHAPES, num_parts)
  for name, shape in SHAPES.items():
    numbers = np.arange(np.prod(shape)).reshape(shape)
    expected = np.broadcast_to(
      np.stack([numbers, -numbers], -1), (2, *shape, 2)
    )
    np.testing.assert_array_equal(decoded[name], expected)
  np.testing.assert_array_equal(decoded["label"], [[1.0], [2.0]])
  assert len(calls) == num_parts
  # All calls have one shape and type, so that a jitted function is reused.
  assert len({q["image"].shape for q in calls}) == 1
  assert {q["audio"].dtype for q in calls} == {np.dtype("int32")}


def test_progress_is_reported_for_128_parts_by_default():
  reported = []

  def progress(parts):
    for part in parts:
      reported.append(part)
      yield part

  decoding.decode_in_parts(outputs, SHAPES, progress=progress)
  assert reported == list(range(128))


@pytest.mark.parametrize("num_parts", [1, 3, 24])
def test_calls_decode_no_more_points_than_needed(num_parts):
  sizes = []

  def decode(queries):
    sizes.append(len(queries["image"]))
    return outputs(queries)

  decoding.decode_in_parts(decode, SHAPES, num_parts)
  assert set(sizes) == {24 // num_parts}
