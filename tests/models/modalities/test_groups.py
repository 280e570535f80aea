"""Tests of grouping and regrouping."""

import haiku as hk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from perceiver_jax.models.modalities import groups
from perceiver_jax.models.modalities.groups import Grouping


def _arrays(sizes):
  return {
    str(i): jnp.arange(1.0, size + 1)[None, :, None] + 100 * i
    for i, size in enumerate(sizes)
  }


def test_the_largest_groups_are_split_first():
  grouping = Grouping.of(_arrays((91, 37)), 4)
  assert list(grouping.num_groups.values()) == [3, 1]
  assert grouping.group_size == 37


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(3, 9))
def test_ungrouping_inverts_grouping(sizes, num_groups):
  arrays = _arrays(sizes)
  for count in (1, num_groups):
    grouping = Grouping.of(arrays, count)
    grouped = grouping.group(arrays)
    assert grouped.shape == (1, count, grouping.group_size, 1)
    back = grouping.ungroup(grouped)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
      np.testing.assert_array_equal(back[name], array)
    # All else is padding.
    assert np.count_nonzero(grouped) == sum(sizes)


def test_padding_is_at_the_end_of_a_modality_and_then_of_each_group():
  grouping = Grouping.of(_arrays((5, 4)), 3)
  grouped = grouping.group(_arrays((5, 4)))[0, ..., 0]
  expected = [[1, 2, 3, 0], [4, 5, 0, 0], [101, 102, 103, 104]]
  np.testing.assert_array_equal(grouped, expected)


def test_more_modalities_than_groups_are_refused():
  with pytest.raises(ValueError, match="3 modalities do not fit into 2 groups"):
    Grouping.of(_arrays((1, 2, 3)), 2)


def test_an_adapter_without_modalities_is_refused():
  with pytest.raises(ValueError, match="modalities is empty"):
    hk.transform(lambda: groups.GroupedAdapter(modalities=())).init(None)


@pytest.mark.parametrize("how", groups.REGROUPINGS)
def test_regrouping_can_be_inverted(how):
  x = jnp.arange(24.0).reshape(1, 4, 3, 2)
  out = groups.regroup(x, 2, how)
  assert out.shape == (1, 2, 6, 2)
  np.testing.assert_array_equal(groups.ungrouped(out, 4, how), x)
  first = out[0, 0, :, 0] // 6  # The old groups of a new group's elements.
  old = {"reshape": {0, 1}, "transpose_reshape": {0, 1, 2, 3}}[how]
  assert set(np.asarray(first).tolist()) == old
