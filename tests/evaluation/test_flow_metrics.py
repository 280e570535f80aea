"""Tests of metrics of optical flow against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_jax.evaluation import flow_metrics
from perceiver_jax.training import metrics


def means(predicted, flow, valid=None, occluded=None):
  ones = np.ones(flow.shape[:-1], np.float32)
  sums = flow_metrics.compute_metrics(
    predicted,
    flow,
    ones if valid is None else valid,
    0 * ones if occluded is None else occluded,
  )
  return metrics.means({k: v for k, v in sums.items() if v[1] > 0})


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
def test_every_metric_agrees_with_its_definition(seed):
  rng = np.random.default_rng(seed)
  shape = (2, 16, 12)
  # Slow and fast pixels, so that there are some of every class of speed.
  deviation = rng.choice([1, 2, 25], (*shape, 1))
  flow = (deviation * rng.normal(size=(*shape, 2))).astype(np.float32)
  predicted = flow + rng.normal(0, 3, flow.shape).astype(np.float32)
  valid = (rng.random(shape) < 0.8).astype(np.float32)
  occluded = rng.random(shape) < 0.3
  computed = means(predicted, flow, valid, occluded)
  known = valid > 0
  error = np.sqrt(((predicted - flow) ** 2).sum(-1, dtype=np.float64))
  speed = np.sqrt((flow**2).sum(-1, dtype=np.float64))
  expected = {
    "epe": error[known].mean(),
    "epe_visible": error[known & ~occluded].mean(),
    "epe_occluded": error[known & occluded].mean(),
    "zero_epe": speed[known].mean(),
    "over_1px": (error[known] > 1).mean(),
    "over_3px": (error[known] > 3).mean(),
    "over_5px": (error[known] > 5).mean(),
    "fl": ((error > 3) & (error > 0.05 * speed))[known].mean(),
    "epe_s0_10": error[known & (speed < 10)].mean(),
    "epe_s0_1": error[known & (speed < 1)].mean(),
    "epe_s1_2": error[known & (speed >= 1) & (speed < 2)].mean(),
    "epe_s2_3": error[known & (speed >= 2) & (speed < 3)].mean(),
    "epe_s3_10": error[known & (speed >= 3) & (speed < 10)].mean(),
    "epe_s10_40": error[known & (speed >= 10) & (speed < 40)].mean(),
    "epe_s40": error[known & (speed >= 40)].mean(),
  }
  assert computed.keys() == expected.keys()
  for name, value in expected.items():
    assert computed[name] == pytest.approx(value, rel=1e-4), name


def test_without_occlusion_there_are_no_metrics_of_visible_pixels():
  flow = np.zeros((1, 4, 4, 2), np.float32)
  computed = flow_metrics.compute_metrics(flow, flow, np.ones((1, 4, 4)), None)
  assert "epe" in computed
  assert not {"epe_visible", "epe_occluded"} & computed.keys()


def test_unknown_pixels_are_ignored():
  flow = np.zeros((1, 4, 4, 2), np.float32)
  valid = np.ones((1, 4, 4), np.float32)
  flow[0, 0], valid[0, 0] = np.nan, 0
  predicted = np.full_like(flow, 3.0)
  computed = means(predicted, flow, valid)
  assert computed["epe"] == pytest.approx(np.sqrt(18))
  assert computed["zero_epe"] == 0


def test_kitti_outliers_are_off_by_3_pixels_and_5_percent():
  flow = np.float32([[[[100, 0], [10, 0], [10, 0]]]])
  predicted = flow + np.float32([[[[4, 0], [4, 0], [2.9, 0]]]])
  assert means(predicted, flow)["fl"] == pytest.approx(1 / 3)


def test_sums_over_many_frames_are_accurate():
  sums = np.zeros(2, np.float32)
  flow = np.ones((1, 8, 8, 2), np.float32)
  for _ in range(2000):
    total, count = flow_metrics.compute_metrics(
      flow + np.float32([3, 4]), flow, np.ones((1, 8, 8)), np.zeros((1, 8, 8))
    )["epe"]
    sums += np.float32([total, count])
  assert sums[0] / sums[1] == pytest.approx(5, rel=1e-5)
