"""The page of classifiers of point clouds."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.demo_pages import examples, page
from experiments.predictions import classify_points
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.points import files
from perceiver_jax.viz import point_clouds


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  del spec
  model = classify_points.load(loaded)

  def predict(file):
    path = page.path_of(file, "a mesh or a point cloud")
    example = model.task.preprocess(files.read(path), None)
    probabilities, samples = classify_points.predict(model, example)
    section = point_clouds.cloud_samples(samples, "")
    description = (
      "Drag the cloud to turn it, or focus it and use the arrow keys. Yellow is"
      " highest."
    )
    return [
      page.by_name(model.task.class_names, probabilities.tolist()),
      [dataclasses.replace(section, description=description)],
    ]

  return page.Page(
    "Classification of point clouds",
    "The most likely classes of a mesh or a point cloud, and the points that"
    " the model attends to. The z axis points up.",
    [page.Input("file", "Mesh or points", suffixes=files.SUFFIXES)],
    [
      page.Output("classes", "Classes"),
      page.Output("sections", "Points"),
    ],
    predict,
    examples.clouds(folder),
  )
