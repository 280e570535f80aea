"""Augmented and reversed pairs keep frames and flow together."""

import cv2
import numpy as np
import pytest
from exact_backward_flow import backward_flow
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.data.flow import augmentation as flow_augmentation
from perceiver_jax.data.flow import render as flow_render
from perceiver_jax.data.flow import scene as flow_scene
from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.data.flow import time_reversal
from perceiver_jax.errors import UserError

SIZE = (64, 96)
HOW = flow_augmentation.Augmentation()
# Changes of place alone: colors stay comparable.
PLACES = HOW._replace(
  brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, erase_share=0.0
)


def smooth_pair(seed=0, shift=(3.0, -2.0), size=SIZE):
  """A smooth picture that moves and grows, without occlusion."""
  rng = np.random.default_rng(seed)
  height, width = size
  small = rng.integers(20, 236, (6, 8, 3)).astype(np.uint8)
  second = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
  y, x = np.indices(size, dtype=np.float32)
  flow = np.stack(
    [shift[0] + 0.05 * (x - width / 2), shift[1] - 0.03 * (y - height / 2)], -1
  )
  first = looked_up(second, flow)
  return {
    "frames": np.stack([first, second]),
    "flow": flow.astype(np.float32),
    "occluded": np.zeros(size, bool),
  }


def looked_up(image, flow):
  y, x = np.indices(flow.shape[:2], dtype=np.float32)
  at = np.float32(np.stack([x, y], -1) + flow)
  return cv2.remap(image, at, None, cv2.INTER_LINEAR)


def mismatch(example):
  """Mean error of the second frame looked up by the flow, where it is seen."""
  height, width = example["flow"].shape[:2]
  y, x = np.indices((height, width))
  at = np.stack([x, y], -1) + example["flow"]
  seen = ((at >= 1) & (at <= (width - 2, height - 2))).all(-1)
  found = looked_up(np.ascontiguousarray(example["frames"][1]), example["flow"])
  error = np.abs(found.astype(float) - example["frames"][0])
  return error[seen].mean()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), severity=st.sampled_from([0.0, 0.5, 1.0]))
def test_flow_still_says_where_pixels_go(seed, severity):
  rng = np.random.default_rng(seed)
  pair = smooth_pair(seed)
  found = flow_augmentation.augment(pair, rng, PLACES, (48, 64), severity)
  assert found["frames"].shape == (2, 48, 64, 3)
  assert found["flow"].shape == (48, 64, 2)
  assert mismatch(found) < 2.55


def test_a_stretch_multiplies_each_axis_by_its_own():
  # Released code multiplies x by the change of the rows; ours must not.
  pair = smooth_pair()
  pair["flow"][:] = (4.0, 2.0)
  found = flow_augmentation.resized_crop(pair, None, SIZE, (2.0, 1.0))
  np.testing.assert_allclose(found["flow"][..., 0], 4.0, rtol=1e-5)
  np.testing.assert_allclose(found["flow"][..., 1], 4.0, rtol=1e-5)


@pytest.mark.parametrize(("scale", "margin"), [(1.0, 20), (2.0, 10), (0.5, 40)])
def test_a_crop_starts_in_a_margin_and_is_moved_inside(scale, margin):
  height, width = 2, 80
  x = np.tile(np.arange(width, dtype=np.float32), (height, 1))
  pair = {
    "frames": np.zeros((2, height, width, 3), np.uint8),
    "flow": np.stack([x, x], -1),
    "occluded": np.zeros((height, width), bool),
  }
  still = PLACES._replace(left_right_share=0.0, up_down_share=0.0)
  still = still._replace(
    spatial_share=1.0, stretch_share=0.0,
    min_scale=np.log2(scale), max_scale=np.log2(scale),
  )  # fmt: skip
  rng, starts = np.random.default_rng(0), []
  for _ in range(4000):
    size = (round(height * scale), round(50 * scale))
    found = flow_augmentation.augment(pair, rng, still, size, 1.0)
    starts.append(np.floor(found["flow"][0, 0, 0] / scale + 0.01))
  counts = np.bincount(np.int64(starts), minlength=31)
  # -margin to 29 + margin, of which those outside [0, 30] are moved there.
  shares = np.ones(31)
  shares[0], shares[30] = margin + 1, margin
  expected = 4000 * shares / shares.sum()
  assert len(counts) == 31
  assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_crop_without_a_margin_is_uniform():
  pair = smooth_pair(size=(4, 12))
  pair["flow"][:] = np.arange(12, dtype=np.float32)[:, None]
  rng = np.random.default_rng(0)
  starts = [
    flow_augmentation.resized_crop(pair, rng, (4, 9))["flow"][0, 0, 0]
    for _ in range(4000)
  ]
  counts = np.bincount(np.int64(starts))
  np.testing.assert_allclose(counts, 1000, atol=150)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_flip_mirrors_motion_too(axis):
  pair = smooth_pair()
  pair["occluded"][2, 5] = True
  found = flow_augmentation.flip(pair, axis)
  assert mismatch(found) < 1
  twice = flow_augmentation.flip(found, axis)
  for name, value in pair.items():
    np.testing.assert_array_equal(twice[name], value)
  assert np.argwhere(found["occluded"]).tolist() == (
    [[61, 5]] if axis == 0 else [[2, 90]]
  )


def test_nothing_changes_at_severity_zero():
  pair = smooth_pair()
  rng = np.random.default_rng(0)
  found = flow_augmentation.augment(pair, rng, HOW, SIZE, 0.0)
  for name, value in pair.items():
    np.testing.assert_array_equal(found[name], value)


def test_colors_change_alike_or_each_frame_by_itself():
  frames = np.full((2, 8, 8, 3), (200, 100, 50), np.uint8)
  pair = {**smooth_pair(size=(8, 8)), "frames": frames}
  colors = HOW._replace(spatial_share=0.0, erase_share=0.0)
  for share, differ in ((0.0, False), (1.0, True)):
    how = colors._replace(asymmetric_share=share)
    for seed in range(5):
      rng = np.random.default_rng(seed)
      first, second = flow_augmentation.augment(pair, rng, how, (8, 8), 1.0)[
        "frames"
      ]
      assert np.array_equal(first, second) != differ
      assert not np.array_equal(first, frames[0])


def test_brightness_and_contrast_are_within_their_bounds():
  frames = np.full((2, 4, 4, 3), 100, np.uint8)
  frames[:, :2] = 120
  pair = {**smooth_pair(size=(4, 4)), "frames": frames}
  off = PLACES._replace(spatial_share=0.0, asymmetric_share=0.0)
  light = off._replace(brightness=0.4)
  means, spreads = [], []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    found = flow_augmentation.augment(pair, rng, light, (4, 4), 1.0)["frames"]
    means.append(found.mean() / 110)
    found = flow_augmentation.augment(
      pair, rng, off._replace(contrast=0.4), (4, 4), 1.0
    )["frames"]
    assert found.mean() == pytest.approx(110, abs=1)
    spreads.append(np.ptp(found) / 20)
  for values in (means, spreads):
    assert 0.55 < min(values) < 0.75
    assert 1.25 < max(values) < 1.45


def test_boxes_of_the_second_frame_are_erased():
  how = HOW._replace(
    brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, spatial_share=0.0,
    erase_share=1.0, erase_size=(10, 20), left_right_share=0.0,
    up_down_share=0.0,
  )  # fmt: skip
  pair = smooth_pair()
  for seed in range(6):
    found = flow_augmentation.augment(
      pair, np.random.default_rng(seed), how, SIZE, 1.0
    )
    np.testing.assert_array_equal(found["frames"][0], pair["frames"][0])
    np.testing.assert_array_equal(found["flow"], pair["flow"])
    changed = (found["frames"][1] != pair["frames"][1]).any(-1)
    assert 0 < changed.sum() <= 2 * 20 * 20
    colors = np.unique(found["frames"][1][changed], axis=0)
    assert len(colors) == 1


def test_sparse_flow_stays_sparse_and_exact():
  pair = smooth_pair()
  pair["flow"][:] = (1.5, 0.5)
  pair["flow"][::3] = np.nan
  found = flow_augmentation.resized_crop(pair, None, SIZE, (1.3, 1.3))
  known = np.isfinite(found["flow"]).all(-1)
  # Two of three rows, each value once.
  rows = np.isfinite(pair["flow"][7:56, 11:85]).all(-1).sum()
  assert known.sum() == rows
  across = found["flow"][known][:, 0]
  np.testing.assert_allclose(across, 1.5 * 96 / 74, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.77, 1.3, 2.6])
def test_what_is_resized_stays_where_it_is_in_the_frames(scale):
  size = (60, 90)
  pair = smooth_pair(size=size)
  x = np.tile(np.arange(90, dtype=np.float32), (60, 1))
  pair["flow"] = np.stack([x, x], -1)
  pair["flow"][::2, ::3] = np.nan
  wanted = tuple(round(n * scale) for n in size)
  found = flow_augmentation.resized_crop(pair, None, wanted, (scale, scale))
  ratio = wanted[1] / 90
  known = np.isfinite(found["flow"]).all(-1)
  places = (found["flow"][..., 0] / ratio + 0.5) * ratio - 0.5
  off = (places - np.arange(wanted[1]))[known]
  assert np.abs(off).max() <= 0.5 + 1e-3
  assert abs(off.mean()) < 0.1


@pytest.mark.parametrize("scale", [0.4, 0.77, 1.3])
def test_occlusion_stays_where_it_is_in_the_frames(scale):
  size = (60, 90)
  wanted = tuple(round(n * scale) for n in size)
  moved = []
  for start in range(10, 60):
    pair = smooth_pair(size=size)
    pair["occluded"][:, start : start + 13] = True
    found = flow_augmentation.resized_crop(pair, None, wanted, (scale, scale))
    middle = np.argwhere(found["occluded"])[:, 1].mean()
    moved.append((middle + 0.5) * size[1] / wanted[1] - 0.5 - (start + 6))
  assert abs(np.mean(moved)) < 0.1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"hues": 1.0}, "no hues"),
    ({"min_scale": 0.6}, "min_scale to max_scale"),
    ({"erase_size": (9, 3)}, "erase_size"),
    ({"crop_margin": -1}, r"augmentation\.crop_margin is -1; give 0 or more"),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    flow_augmentation.make_augmentation(changes)


def test_reverse_flow_averages_what_lands():
  flow = np.full((3, 4, 2), np.nan, np.float32)
  flow[0, 0] = (2.2, 1.0)
  flow[1, 1] = (1.0, 0.0)
  flow[2, 2] = (9.0, 0.0)  # Leaves the frame.
  found = time_reversal.reverse_flow(flow)
  np.testing.assert_allclose(found[1, 2], (-1.6, -0.5), rtol=1e-6)
  assert np.isfinite(found).all(-1).sum() == 1


def test_reverse_flow_is_near_the_truth_where_one_pixel_lands():
  layers = flow_scene.draw_layers(
    np.random.default_rng(1),
    flow_scene.Scene(),
    flow_sources.Textures("train"),
    *SIZE,
  )
  pair = flow_render.render(layers, *SIZE)
  exact = backward_flow(layers, pair)
  found = time_reversal.reverse_flow(pair.flow)
  known = np.isfinite(found).all(-1)
  error = np.hypot(*np.moveaxis(found - exact, -1, 0))[known]
  still = np.hypot(*np.moveaxis(exact, -1, 0))[known]
  assert known.mean() > 0.7
  assert np.median(error) < 0.2
  assert error.mean() < 0.5 * still.mean()


def test_a_pair_played_backwards():
  pair = smooth_pair()
  found = time_reversal.reverse(pair)
  np.testing.assert_array_equal(found["frames"], pair["frames"][::-1])
  assert not found["occluded"].any()
  known = np.isfinite(found["flow"]).all(-1)
  found["flow"] = np.where(known[..., None], found["flow"], 1e4)
  assert mismatch(found) < 2.55
