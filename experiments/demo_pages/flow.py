"""The page of optical flow models."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.demo_pages import examples, page
from experiments.predictions import flow, flow_model
from perceiver_jax import weights as weights_lib
from perceiver_jax.errors import UserError
from perceiver_jax.viz import flow_images

# Of a frame: 1,920 x 1,080. Larger frames take many tiles, and so minutes.
_MAX_PIXELS = 2**21


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  estimate = flow_model.estimator(loaded)
  height, width = spec["decoder"]["image_size"]

  def predict(first, second):
    pair = flow.read_pair(
      page.path_of(first, "the first frame"),
      page.path_of(second, "the second frame"),
    )
    if pair[0].size > 3 * _MAX_PIXELS:
      raise UserError(
        f"a frame has more than {_MAX_PIXELS:,} pixels, which would take"
        " minutes here; make it smaller, or use experiments.predict flow"
      )
    sample = flow_images.FlowSample(np.stack(pair), None, estimate(*pair))
    return [flow_images.contact_sheet([sample])]

  return page.Page(
    "Optical flow",
    "How each pixel moves between two frames. Hue is the direction, as on the"
    f" color wheel, and saturation the length. Frames larger than {width} x"
    f" {height} pixels are split into tiles.",
    [
      page.Input("image", "First frame"),
      page.Input("image", "Second frame"),
    ],
    [page.Output("image", "Optical flow")],
    predict,
    examples.frames(folder, (height, width)),
  )
