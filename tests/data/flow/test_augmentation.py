"""Tests that the flow of augmented and reversed pairs fits their frames."""

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
DEFAULT = flow_augmentation.Augmentation()
# Spatial augmentation only, so that colors can be compared.
SPATIAL = DEFAULT._replace(
  brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, erase_share=0.0
)


def smooth_pair(seed=0, shift=(3.0, -2.0), size=SIZE):
  """Returns a smooth image that moves and grows, without occlusion."""
  rng = np.random.default_rng(seed)
  height, width = size
  small = rng.integers(20, 236, (6, 8, 3)).astype(np.uint8)
  second = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
  y, x = np.indices(size, dtype=np.float32)
  flow = np.stack(
    [shift[0] + 0.05 * (x - width / 2), shift[1] - 0.03 * (y - height / 2)], -1
  )
  first = warp(second, flow)
  return {
    "frames": np.stack([first, second]),
    "flow": flow.astype(np.float32),
    "occluded": np.zeros(size, bool),
  }


def warp(image, flow):
  """Looks up every pixel of an image at the place that it flows to."""
  y, x = np.indices(flow.shape[:2], dtype=np.float32)
  at = np.float32(np.stack([x, y], -1) + flow)
  return cv2.remap(image, at, None, cv2.INTER_LINEAR)


def mismatch(example):
  """Returns the mean error of the warped second frame, inside the frame."""
  height, width = example["flow"].shape[:2]
  y, x = np.indices((height, width))
  at = np.stack([x, y], -1) + example["flow"]
  inside = ((at >= 1) & (at <= (width - 2, height - 2))).all(-1)
  warped = warp(np.ascontiguousarray(example["frames"][1]), example["flow"])
  error = np.abs(warped.astype(float) - example["frames"][0])
  return error[inside].mean()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), severity=st.sampled_from([0.0, 0.5, 1.0]))
def test_augmented_flow_fits_the_augmented_frames(seed, severity):
  rng = np.random.default_rng(seed)
  pair = smooth_pair(seed)
  augmented = flow_augmentation.augment(pair, rng, SPATIAL, (48, 64), severity)
  assert augmented["frames"].shape == (2, 48, 64, 3)
  assert augmented["flow"].shape == (48, 64, 2)
  assert mismatch(augmented) < 2.55


def test_stretching_scales_each_component_of_flow_by_its_own_axis():
  # Released code scales x by the factor of the rows, which is a mistake.
  pair = smooth_pair()
  pair["flow"][:] = (4.0, 2.0)
  augmented = flow_augmentation.resized_crop(pair, None, SIZE, (2.0, 1.0))
  np.testing.assert_allclose(augmented["flow"][..., 0], 4.0, rtol=1e-5)
  np.testing.assert_allclose(augmented["flow"][..., 1], 4.0, rtol=1e-5)


@pytest.mark.parametrize(("scale", "margin"), [(1.0, 20), (2.0, 10), (0.5, 40)])
def test_a_crop_may_start_in_a_margin_and_is_then_shifted_inside(scale, margin):
  height, width = 2, 80
  x = np.tile(np.arange(width, dtype=np.float32), (height, 1))
  pair = {
    "frames": np.zeros((2, height, width, 3), np.uint8),
    "flow": np.stack([x, x], -1),
    "occluded": np.zeros((height, width), bool),
  }
  still = SPATIAL._replace(left_right_share=0.0, up_down_share=0.0)
  still = still._replace(
    spatial_share=1.0, stretch_share=0.0,
    min_scale=np.log2(scale), max_scale=np.log2(scale),
  )  # fmt: skip
  rng, starts = np.random.default_rng(0), []
  for _ in range(4000):
    size = (round(height * scale), round(50 * scale))
    augmented = flow_augmentation.augment(pair, rng, still, size, 1.0)
    starts.append(np.floor(augmented["flow"][0, 0, 0] / scale + 0.01))
  counts = np.bincount(np.int64(starts), minlength=31)
  # Starts from -margin to 29 + margin, clipped to [0, 30].
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
def test_a_flip_mirrors_flow_and_occlusion_and_undoes_itself(axis):
  pair = smooth_pair()
  pair["occluded"][2, 5] = True
  augmented = flow_augmentation.flip(pair, axis)
  assert mismatch(augmented) < 1
  twice = flow_augmentation.flip(augmented, axis)
  for name, value in pair.items():
    np.testing.assert_array_equal(twice[name], value)
  assert np.argwhere(augmented["occluded"]).tolist() == (
    [[61, 5]] if axis == 0 else [[2, 90]]
  )


def test_augmentation_of_severity_zero_changes_nothing():
  pair = smooth_pair()
  rng = np.random.default_rng(0)
  augmented = flow_augmentation.augment(pair, rng, DEFAULT, SIZE, 0.0)
  for name, value in pair.items():
    np.testing.assert_array_equal(augmented[name], value)


def test_colors_change_equally_unless_asymmetric():
  frames = np.full((2, 8, 8, 3), (200, 100, 50), np.uint8)
  pair = {**smooth_pair(size=(8, 8)), "frames": frames}
  colors = DEFAULT._replace(spatial_share=0.0, erase_share=0.0)
  for share, differ in ((0.0, False), (1.0, True)):
    augmentation = colors._replace(asymmetric_share=share)
    for seed in range(5):
      rng = np.random.default_rng(seed)
      augmented = flow_augmentation.augment(
        pair, rng, augmentation, (8, 8), 1.0
      )
      first, second = augmented["frames"]
      assert np.array_equal(first, second) != differ
      assert not np.array_equal(first, frames[0])


def test_brightness_and_contrast_are_within_their_bounds():
  frames = np.full((2, 4, 4, 3), 100, np.uint8)
  frames[:, :2] = 120
  pair = {**smooth_pair(size=(4, 4)), "frames": frames}
  off = SPATIAL._replace(spatial_share=0.0, asymmetric_share=0.0)
  light = off._replace(brightness=0.4)
  means, spreads = [], []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    frames = flow_augmentation.augment(pair, rng, light, (4, 4), 1.0)["frames"]
    means.append(frames.mean() / 110)
    frames = flow_augmentation.augment(
      pair, rng, off._replace(contrast=0.4), (4, 4), 1.0
    )["frames"]
    assert frames.mean() == pytest.approx(110, abs=1)
    spreads.append(np.ptp(frames) / 20)
  for values in (means, spreads):
    assert 0.55 < min(values) < 0.75
    assert 1.25 < max(values) < 1.45


def test_erasing_fills_boxes_of_the_second_frame_only():
  erase = DEFAULT._replace(
    brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, spatial_share=0.0,
    erase_share=1.0, erase_size=(10, 20), left_right_share=0.0,
    up_down_share=0.0,
  )  # fmt: skip
  pair = smooth_pair()
  for seed in range(6):
    augmented = flow_augmentation.augment(
      pair, np.random.default_rng(seed), erase, SIZE, 1.0
    )
    np.testing.assert_array_equal(augmented["frames"][0], pair["frames"][0])
    np.testing.assert_array_equal(augmented["flow"], pair["flow"])
    changed = (augmented["frames"][1] != pair["frames"][1]).any(-1)
    assert 0 < changed.sum() <= 2 * 20 * 20
    colors = np.unique(augmented["frames"][1][changed], axis=0)
    assert len(colors) == 1


def test_resizing_sparse_flow_keeps_it_sparse_and_exact():
  pair = smooth_pair()
  pair["flow"][:] = (1.5, 0.5)
  pair["flow"][::3] = np.nan
  augmented = flow_augmentation.resized_crop(pair, None, SIZE, (1.3, 1.3))
  known = np.isfinite(augmented["flow"]).all(-1)
  # Two of three rows, each value once.
  rows = np.isfinite(pair["flow"][7:56, 11:85]).all(-1).sum()
  assert known.sum() == rows
  across = augmented["flow"][known][:, 0]
  np.testing.assert_allclose(across, 1.5 * 96 / 74, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.77, 1.3, 2.6])
def test_resized_sparse_flow_stays_aligned_with_the_frames(scale):
  size = (60, 90)
  pair = smooth_pair(size=size)
  x = np.tile(np.arange(90, dtype=np.float32), (60, 1))
  pair["flow"] = np.stack([x, x], -1)
  pair["flow"][::2, ::3] = np.nan
  new_size = tuple(round(n * scale) for n in size)
  augmented = flow_augmentation.resized_crop(
    pair, None, new_size, (scale, scale)
  )
  ratio = new_size[1] / 90
  known = np.isfinite(augmented["flow"]).all(-1)
  places = (augmented["flow"][..., 0] / ratio + 0.5) * ratio - 0.5
  error = (places - np.arange(new_size[1]))[known]
  assert np.abs(error).max() <= 0.5 + 1e-3
  assert abs(error.mean()) < 0.1


@pytest.mark.parametrize("scale", [0.4, 0.77, 1.3])
def test_resized_occlusion_stays_aligned_with_the_frames(scale):
  size = (60, 90)
  new_size = tuple(round(n * scale) for n in size)
  shifts = []
  for start in range(10, 60):
    pair = smooth_pair(size=size)
    pair["occluded"][:, start : start + 13] = True
    augmented = flow_augmentation.resized_crop(
      pair, None, new_size, (scale, scale)
    )
    middle = np.argwhere(augmented["occluded"])[:, 1].mean()
    shifts.append((middle + 0.5) * size[1] / new_size[1] - 0.5 - (start + 6))
  assert abs(np.mean(shifts)) < 0.1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"hues": 1.0}, "no hues"),
    ({"min_scale": 0.6}, "min_scale to max_scale"),
    ({"erase_size": (9, 3)}, "erase_size"),
    ({"erase_size": (10,)}, r"erase_size is \(10,\)"),
    ({"erase_share": 7}, r"augmentation\.erase_share is 7; give a share"),
    ({"crop_margin": -1}, r"augmentation\.crop_margin is -1; give 0 or more"),
  ],
)
def test_settings_out_of_range_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    flow_augmentation.make_augmentation(changes)


def test_reverse_flow_averages_the_vectors_that_end_in_a_pixel():
  flow = np.full((3, 4, 2), np.nan, np.float32)
  flow[0, 0] = (2.2, 1.0)
  flow[1, 1] = (1.0, 0.0)
  flow[2, 2] = (9.0, 0.0)  # Leaves the frame.
  backward = time_reversal.reverse_flow(flow)
  np.testing.assert_allclose(backward[1, 2], (-1.6, -0.5), rtol=1e-6)
  assert np.isfinite(backward).all(-1).sum() == 1


def test_reverse_flow_is_close_to_the_exact_backward_flow():
  layers = flow_scene.draw_layers(
    np.random.default_rng(1),
    flow_scene.Scene(),
    flow_sources.Textures("train"),
    *SIZE,
  )
  pair = flow_render.render(layers, *SIZE)
  exact = backward_flow(layers, pair)
  backward = time_reversal.reverse_flow(pair.flow)
  known = np.isfinite(backward).all(-1)
  error = np.hypot(*np.moveaxis(backward - exact, -1, 0))[known]
  length = np.hypot(*np.moveaxis(exact, -1, 0))[known]
  assert known.mean() > 0.7
  assert np.median(error) < 0.2
  assert error.mean() < 0.5 * length.mean()


def test_the_flow_of_a_reversed_pair_fits_its_frames():
  pair = smooth_pair()
  backward = time_reversal.reverse(pair)
  np.testing.assert_array_equal(backward["frames"], pair["frames"][::-1])
  assert not backward["occluded"].any()
  known = np.isfinite(backward["flow"]).all(-1)
  backward["flow"] = np.where(known[..., None], backward["flow"], 1e4)
  assert mismatch(backward) < 2.55
