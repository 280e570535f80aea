"""Tests of the batches that the task makes of ModelNet40's releases."""

import itertools

import numpy as np
import pytest
import tiny_points

from configs import modelnet40
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.point_cloud_classification import (
  PointCloudClassification,
)

COUNT = 12
WRITERS = {
  "mesh_folder": tiny_points.write_modelnet,
  "resampled_text": tiny_points.write_resampled,
  "hdf5": tiny_points.write_hdf5,
}


@pytest.fixture(params=WRITERS)
def make_task(request, tmp_path):
  """Returns a function from leaves of `data` to a task on each source."""
  name = request.param
  directory = str(WRITERS[name](tmp_path))

  def make_task(**leaves):
    config = modelnet40.get_config()
    config.model.num_classes = len(tiny_points.CLASSES)
    data = {"source": name, "num_points": COUNT, "num_workers": 0, **leaves}
    config.data.update(data)
    config.data.source_args[name].directory = directory
    return PointCloudClassification(config)

  return make_task


def _evaluation(task):
  return list(task.eval_datasets(global_batch=3)["eval"])


def test_objects_of_a_single_class_are_refused(tmp_path):
  for split in ("train", "test"):
    tiny_points.write(tmp_path / f"cube/{split}/1.off", tiny_points.off())
  config = modelnet40.get_config()
  config.model.num_classes = 1
  config.data.source_args.mesh_folder.directory = str(tmp_path)
  with pytest.raises(UserError, match=r"only the label 'cube'; give"):
    PointCloudClassification(config)


def test_points_differ_by_epoch_in_training_and_not_in_evaluation(make_task):
  task = make_task()
  size = task.num_train_examples()
  runs = [
    list(itertools.islice(task.train_dataset(global_batch=size), 2))
    for _ in range(2)
  ]
  by_index = []
  for first, again in zip(*runs, strict=True):
    np.testing.assert_array_equal(first["points"], again["points"])
    order = np.argsort(first["index"])
    assert first["index"][order].tolist() == list(range(size))
    assert first["points"].shape == (size, COUNT, 3)
    assert np.abs(first["points"]).max() == pytest.approx(1)
    by_index.append(first["points"][order])
  # No object is sampled twice in the same way.
  assert not np.any(np.all(by_index[0] == by_index[1], axis=(1, 2)))
  for first, again in zip(_evaluation(task), _evaluation(task), strict=True):
    np.testing.assert_array_equal(first["points"], again["points"])


def test_slices_of_the_training_split_train_and_evaluate(make_task):
  task = make_task(train_split="train[40%:]", eval_split="train[:40%]")
  whole = make_task()
  sizes = [task.num_train_examples(), len(task.source("eval"))]
  assert sum(sizes) == whole.num_train_examples()
  assert task.class_names == tiny_points.CLASSES
  batches = _evaluation(task)
  assert sum(batch["mask"].sum() for batch in batches) == sizes[1]
