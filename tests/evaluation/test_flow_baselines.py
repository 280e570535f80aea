"""Tests of evaluating flow estimators on pairs of several sizes."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from perceiver_jax.data.flow import sources as flow_sources
from perceiver_jax.evaluation import flow_baselines


class Pairs:
  """Pairs of given sizes; the flow of pair i is (i + 1, 0)."""

  in_memory = has_ground_truth = True

  def __init__(self, sizes, unknown=(), knows_occlusion=True):
    self._sizes, self._unknown = sizes, unknown
    self.knows_occlusion = knows_occlusion

  def __len__(self):
    return len(self._sizes)

  def __getitem__(self, i):
    size = self._sizes[i]
    flow = np.zeros((*size, 2), np.float32)
    flow[..., 0] = i + 1
    if i in self._unknown:
      flow[:] = np.nan
    frames = np.zeros((2, *size, 3), np.uint8)
    return {"frames": frames, "flow": flow, "occluded": np.zeros(size, bool)}


def test_errors_are_averaged_over_pixels_and_over_pairs():
  metrics = flow_baselines.evaluate(
    Pairs([(10, 10), (10, 30)]), flow_baselines.no_motion
  )
  assert metrics["epe"] == pytest.approx((100 * 1 + 300 * 2) / 400)
  assert metrics["epe_by_pair"] == pytest.approx(1.5)
  assert metrics["over_1px"] == pytest.approx(0.75)
  assert "epe_s40" not in metrics


def test_pairs_without_ground_truth_are_ignored():
  metrics = flow_baselines.evaluate(
    Pairs([(10, 10), (10, 30)], unknown=[1]), flow_baselines.no_motion
  )
  assert metrics["epe"] == metrics["epe_by_pair"] == pytest.approx(1)
  without_pairs = flow_baselines.evaluate(
    Pairs([(10, 10)], unknown=[0]), flow_baselines.no_motion
  )
  assert without_pairs == {}


@pytest.mark.parametrize("known", [True, False])
def test_the_error_of_visible_pixels_needs_known_occlusion(known):
  pairs = Pairs([(10, 10)], knows_occlusion=known)
  metrics = flow_baselines.evaluate(pairs, flow_baselines.no_motion)
  assert ("epe_visible" in metrics) == known


@pytest.mark.parametrize("method", ["Farneback", "DIS"])
@pytest.mark.parametrize("size", [(48, 64), (160, 200)])
def test_opencvs_methods_are_better_than_zero_flow_for_small_motions(
  method, size
):
  scene = {"objects": (0, 0), "fog_share": 0.0, "background_translation": 0.01}
  source = flow_sources.rendered("test", size=size, num_test=4, scene=scene)
  metrics = flow_baselines.evaluate(source, flow_baselines.BASELINES[method])
  assert metrics["epe"] < 0.6 * metrics["zero_epe"]


def test_processes_share_the_pairs_and_get_the_same_means(monkeypatch):
  pairs = Pairs([(10, 10), (10, 30), (20, 10)], unknown=[2])
  alone = flow_baselines.evaluate(pairs, flow_baselines.no_motion)
  sent = []

  def gather(mine):
    sent.append(mine)
    return np.stack([*sent, *[0 * mine] * (2 - len(sent))])

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(multihost_utils, "process_allgather", gather)
  for index in (0, 1):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    metrics = flow_baselines.evaluate(pairs, flow_baselines.no_motion)
    assert (metrics == alone) == (index == 1)
  assert all(part.dtype == np.uint8 for part in sent)
