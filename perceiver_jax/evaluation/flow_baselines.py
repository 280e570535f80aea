"""Classical methods of optical flow, and the evaluation of any method.

Shapes: H, W of a pair.
"""

from collections.abc import (
  Callable,
  Mapping,
)

import cv2
import numpy as np
from tqdm import tqdm

from perceiver_jax.data.flow.sources import FlowSource
from perceiver_jax.evaluation import flow_metrics
from perceiver_jax.training import metrics

# Rows or columns that DIS's pyramid needs.
_DIS_SMALLEST = 96

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def no_motion(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Flow of nothing that moves; float32 [H, W, 2]."""
  del second
  return np.zeros((*first.shape[:2], 2), np.float32)


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """OpenCV's Farneback, with the settings of its documentation's example."""
  return cv2.calcOpticalFlowFarneback(
    *map(_gray, (first, second)), None, 0.5, 3, 15, 3, 5, 1.2, 0
  )


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """OpenCV's dense inverse search, its preset of medium quality.

  Images too small for its pyramid are enlarged, and the flow made smaller.
  """
  height, width = first.shape[:2]
  times = max(1, -(-_DIS_SMALLEST // min(height, width)))
  size = (width * times, height * times)
  frames = [cv2.resize(_gray(f), size) for f in (first, second)]
  method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
  flow = method.calc(*frames, None)
  return cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / times


BASELINES: Mapping[str, Estimate] = {
  "no motion": no_motion,
  "Farneback": farneback,
  "DIS": dis,
}


def evaluate(
  source: FlowSource, estimate: Estimate, progress: str = ""
) -> dict[str, float]:
  """Scores on every pair of a source.

  Args:
    source: with truth for some pixels at least.
    estimate: from two uint8 frames [H, W, 3] to flow float32 [H, W, 2].
    progress: name of a progress bar; empty for none.

  Returns:
    Means of `flow_metrics.compute_metrics` over all pixels of known flow of all
    pairs, as Sintel averages, without metrics of no pixel; and `epe_by_pair`,
    the mean over pairs of each pair's end-point error.
  """
  sums: dict[str, np.ndarray] = {}
  by_pair = []
  numbers = range(len(source))
  for i in tqdm(numbers, progress, leave=False, disable=not progress or None):
    example = source[i]
    flow = example["flow"]
    valid = np.isfinite(flow).all(-1)
    found = flow_metrics.compute_metrics(
      estimate(*example["frames"])[None],
      np.where(valid[..., None], flow, 0)[None],
      valid[None],
      example["occluded"][None] if source.knows_occlusion else None,
    )
    for name, pair in found.items():
      # Pairs differ in size: back from frames to pixels.
      pixels = np.array(pair, np.float64) * valid.size
      sums[name] = sums.get(name, 0) + pixels
    if valid.any():
      by_pair.append(float(found["epe"][0] / found["epe"][1]))
  came = {name: tuple(pair) for name, pair in sums.items() if pair[1] > 0}
  means = metrics.scalars(metrics.means(came))
  return means | ({"epe_by_pair": float(np.mean(by_pair))} if by_pair else {})


def _gray(image: np.ndarray) -> np.ndarray:
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
