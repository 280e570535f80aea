"""Classical methods of optical flow, and the evaluation of any method.

Shapes: H, W of a pair.
"""

from collections.abc import Callable, Mapping

import cv2
import jax
import numpy as np
from jax.experimental import multihost_utils
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

  Each of several processes takes a part of the pairs; all get the same result.

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
  numbers = range(-(-len(source) // jax.process_count()))
  for i in tqdm(numbers, progress, leave=False, disable=not progress or None):
    number = i * jax.process_count() + jax.process_index()
    # All processes need the same metrics, so one without a pair left repeats
    # the last pair without any known pixel.
    example = source[min(number, len(source) - 1)]
    flow = example["flow"]
    valid = np.isfinite(flow).all(-1) & (number < len(source))
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
    total, pixels = map(float, pair_metrics["epe"])
    pair = np.array([total / pixels, 1] if pixels else [0, 0])
    sums["epe_by_pair"] = sums.get("epe_by_pair", 0) + pair
  sums = _sum_over_processes(sums)
  known = {name: tuple(pair) for name, pair in sums.items() if pair[1] > 0}
  return metrics.scalars(metrics.means(known))


def _sum_over_processes(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Sums arrays of float64 over processes."""
  if jax.process_count() == 1:
    return sums
  # JAX would make the numbers float32, but keeps bytes.
  mine = np.stack(list(sums.values())).view(np.uint8)
  every = multihost_utils.process_allgather(mine)
  totals = np.ascontiguousarray(every).view(np.float64).sum(axis=0)
  return dict(zip(sums, totals, strict=True))


def _gray(image: np.ndarray) -> np.ndarray:
  return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
