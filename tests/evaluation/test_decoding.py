import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import decoding

SHAPES = {"image": (2, 3, 4), "audio": (5,)}


def outputs(queries):
  """Of a point, its own number and its negative; of the label, a constant."""
  points = {
    name: np.stack([indices, -indices], -1)[None].repeat(2, axis=0)
    for name, indices in queries.items()
  }
  return points | {"label": np.array([[1.0], [2.0]])}


@settings(deadline=None)
@given(num_parts=st.integers(1, 40))
def test_any_number_of_parts_decodes_every_point_once(num_parts):
  calls = []

  def decode(queries):
    calls.append(queries)
    return outputs(queries)

  found = decoding.decode_in_parts(decode, SHAPES, num_parts)
  for name, shape in SHAPES.items():
    numbers = np.arange(np.prod(shape)).reshape(shape)
    expected = np.broadcast_to(
      np.stack([numbers, -numbers], -1), (2, *shape, 2)
    )
    np.testing.assert_array_equal(found[name], expected)
  np.testing.assert_array_equal(found["label"], [[1.0], [2.0]])
  assert len(calls) == num_parts
  # One shape and type at every call, or a jitted function compiles again.
  assert len({q["image"].shape for q in calls}) == 1
  assert {q["audio"].dtype for q in calls} == {np.dtype("int32")}


def test_128_parts_unless_told_and_progress_sees_them():
  seen = []

  def progress(parts):
    for part in parts:
      seen.append(part)
      yield part

  decoding.decode_in_parts(outputs, SHAPES, progress=progress)
  assert seen == list(range(128))


@pytest.mark.parametrize("num_parts", [1, 3, 24])
def test_no_more_points_a_call_than_needed(num_parts):
  sizes = []

  def decode(queries):
    sizes.append(len(queries["image"]))
    return outputs(queries)

  decoding.decode_in_parts(decode, SHAPES, num_parts)
  assert set(sizes) == {24 // num_parts}
