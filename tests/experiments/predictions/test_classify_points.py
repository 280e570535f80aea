import io
import json

import cv2
import jax
import numpy as np
import pytest
import tiny_points
import tiny_weights

from configs import modelnet40
from perceiver_jax import weights
from perceiver_jax.data.points import files, preprocessing, sampling

pytestmark = pytest.mark.usefixtures("compile_once")

COUNT, CLASSES = 24, 7


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
  """Returns the file of a tiny Perceiver of point clouds."""
  spec = tiny_weights.classifier().spec
  spec["adapter"] = {"kind": "points", "num_bands": 2, "max_resolution": 4}
  file = tmp_path_factory.mktemp("weights") / "points.safetensors"
  array = tiny_weights.array(1, COUNT, 3)
  weights.save(file, tiny_weights.random(spec, array))
  return file


@pytest.fixture
def objects(tmp_path):
  """Returns a mesh, a cloud, and a cloud with fewer points than the model."""
  clouds = [tiny_points.cloud(seed, count) for seed, count in ((0, 90), (1, 9))]
  array = io.BytesIO()
  np.save(array, clouds[0])
  text = "\n".join(" ".join(f"{x:.9g}" for x in row) for row in clouds[1])
  return [
    tiny_points.write(tmp_path / "box.off", tiny_points.off(3)),
    tiny_points.write(tmp_path / "cloud.npy", array.getvalue()),
    tiny_points.write(tmp_path / "few.xyz", text),
  ]


def expected(weight_file, path):
  """Returns the probabilities for the points without padding."""
  example = files.read(path)
  count = min(COUNT, len(example.get("points", range(COUNT))))
  points = preprocessing.normalize(sampling.sample(example, count))
  outputs = tiny_weights.outputs(weights.load(weight_file), points[None])
  return np.asarray(jax.nn.softmax(outputs.logits[0]))


def _flags(weight_file, *more):
  return [
    "predict", "classify-points", f"--weights={weight_file}",
    f"--num_points={COUNT}", *more,
  ]  # fmt: skip


def test_the_top_classes_of_meshes_and_clouds_are_those_of_the_model(
  call, weight_file, objects, tmp_path
):
  done = call(*_flags(weight_file, "--top=2"), *objects)
  assert (done.status, done.err) == (0, "")
  lines = done.out.splitlines()
  for i, path in enumerate(objects):
    name, *classes, file = lines[4 * i : 4 * i + 4]
    assert name == str(path)
    probabilities = expected(weight_file, path)
    best = np.argsort(-probabilities)[:2]
    for line, label in zip(classes, best, strict=True):
      words = ["class", str(label), f"{probabilities[label]:.1%}"]
      assert line.split()[:3] == words
    assert file == f"  predictions/{path.stem}-attention.png"
    assert cv2.imread(str(tmp_path / file.strip())).std() > 1
  # Nothing is drawn at random.
  again = call(*_flags(weight_file, "--top=2"), *objects)
  assert again.out.splitlines()[:3] == lines[:3]


def test_labels_name_the_classes(call, weight_file, objects, tmp_path):
  names = [f"name{i}" for i in range(CLASSES)]
  labels = tiny_points.write(tmp_path / "labels.txt", "\n".join(names))
  done = call(*_flags(weight_file, f"--labels={labels}", objects[0]))
  best = expected(weight_file, objects[0]).argmax()
  assert done.out.splitlines()[1].split()[0] == f"name{best}"


@pytest.mark.usefixtures("no_report")
def test_a_run_classifies_files_as_its_evaluation_does(call, tmp_path):
  meshes = tiny_points.write_modelnet(tmp_path / "meshes")
  trained = call(
    "train",
    f"--workdir={tmp_path / 'run'}",
    "--num_devices=1",
    f"--config={modelnet40.__file__}:small_pointnet,smoke",
    "--config.data.source=mesh_folder",
    f"--config.data.source_args.mesh_folder.directory={meshes}",
    "--config.model.num_classes=2",
  )
  assert trained.status == 0, trained.err
  paths = sorted(meshes.glob("*/test/*.off"))
  done = call("predict", "classify-points", f"--workdir={tmp_path / 'run'}",
              *paths)  # fmt: skip
  assert (done.status, done.err) == (0, "")
  losses = []
  for path, block in zip(paths, done.out.split(f"{meshes}/")[1:], strict=True):
    shown = dict(line.split()[:2] for line in block.splitlines()[1:3])
    assert shown.keys() == set(tiny_points.CLASSES)
    losses.append(-np.log(float(shown[path.parts[-3]][:-1]) / 100))
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  loss = results["metrics"]["eval/loss"]
  # Printed probabilities are rounded.
  assert np.mean(losses) == pytest.approx(loss, abs=0.002)
  assert (tmp_path / "run/predictions/cube_0004-attention.png").exists()
  labels = tiny_points.write(tmp_path / "labels.txt", "first\nsecond")
  named = call("predict", "classify-points", f"--workdir={tmp_path / 'run'}",
               f"--labels={labels}", paths[0])  # fmt: skip
  printed = {line.split()[0] for line in named.out.splitlines()[1:3]}
  assert printed == {"first", "second"}


def test_unreadable_objects_stop_the_command(
  refuses, weight_file, objects, tmp_path
):
  bad = tiny_points.write(tmp_path / "bad.off", "OFF\n8 6 0\n")
  flags = _flags(weight_file)
  refuses(*flags, objects[0], bad, parts=["bad.off", "incomplete"])
  refuses(*flags, tmp_path / "none.ply", parts=["none.ply", "no such file"])
  refuses(*flags, tmp_path / "a.glb", parts=["a.glb", ".off, .obj, .ply"])
  refuses(*flags, parts=["no object is given"])
  assert not (tmp_path / "predictions").exists()


def test_other_models_are_refused(refuses, objects, tmp_path):
  file = tmp_path / "images.safetensors"
  weights.save(file, tiny_weights.classifier())
  refuses(*_flags(file), objects[0], parts=["does not take point clouds"])
  refuses(
    "predict", "classify-points", objects[0],
    parts=["no model is given", "configs/modelnet40.py"],
  )  # fmt: skip
