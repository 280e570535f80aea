"""Classical methods of optical flow, and the evaluation of any method.

Shapes: H, W of a pair.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from tqdm import tqdm

from perceiver_jax.data.flow.sources import FlowSource
from perceiver_jax.evaluation import flow_metrics
from perceiver_jax.training import metrics

# Smallest height and width for the pyramid of DIS.
_DIS_MIN_SIZE = 96

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]


def no_motion(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Returns zero flow, float32 [H, W, 2]."""
  del second
  return np.zeros((*first.shape[:2], 2), np.float32)


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Estimates flow by OpenCV's Farneback method, as in its documentation."""
  return cv2.calcOpticalFlowFarneback(
    *map(_gray, (first, second)), None, 0.5, 3, 15, 3, 5, 1.2, 0
  )


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Estimates flow by OpenCV's dense inverse search, preset "medium".

  Images too small for its pyramid are enlarged, and the flow is scaled back.
  """
  height, width = first.shape[:2]
  times = max(1, -(-_DIS_MIN_SIZE // min(height, width)))
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
  """Evaluates a method on every pair of a source.

  Args:
    source: pairs with ground truth for at least some pixels.
    estimate: maps two uint8 frames [H, W, 3] to flow float32 [H, W, 2].
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
    pair_metrics = flow_metrics.compute_metrics(
      estimate(*example["frames"])[None],
      np.where(valid[..., None], flow, 0)[None],
      valid[None],
      example["occluded"][None] if source.knows_occlusion else None,
    )
    for name, pair in pair_metrics.items():
      # Pairs differ in size, so sums are converted back to pixels.
      pixels = np.array(pair, np.float64) * valid.size
      sums[name] = sums.get(name, 0) + pixels
    if valid.any():
      by_pair.append(float(pair_metrics["epe"][0] / pair_metrics["epe"][1]))
  known = {name: tuple(pair) for name, pair in sums.items() if pair[1] > 0}
  means = metrics.scalars(metrics.means(known))
  return means | ({"epe_by_pair": float(np.mean(by_pair))} if by_pair else {})


def _gray(image: np.ndarray) -> np.ndarray:
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
