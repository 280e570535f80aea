import re

import cv2
import jax
import numpy as np
import pytest
import tiny_weights

from perceiver_jax import weights
from perceiver_jax.data.images import codec

pytestmark = pytest.mark.usefixtures("compile_once")

SIZE = tiny_weights.IMAGE_SIZE
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def image_file(tmp_path):
  """Returns an image whose center crop has the model's size, and its pixels."""
  pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
  file = tmp_path / "noise.png"
  # The center crop of 224 of 256 rows and columns, rounded down: 8 of 10.
  whole = np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
  file.write_bytes(codec.encode_png(whole))
  return file, pixels


def expected(file, pixels):
  loaded = weights.load(file)
  raw = ((pixels / 255 - MEAN) / STD).astype(np.float32)[None]
  return np.asarray(jax.nn.softmax(tiny_weights.outputs(loaded, raw).logits[0]))


def arguments(file, *rest):
  return ["predict", "classify", f"--weights={file}", f"--image_size={SIZE}",
          *rest]  # fmt: skip


@pytest.mark.parametrize(
  "name", ["imagenet_fourier", "imagenet_fourier_average", "imagenet_learned"]
)
def test_the_top_five_classes_are_those_of_the_model(
  call, weight_file, image_file, tmp_path, name
):
  file, (path, pixels) = weight_file("classifier", name), image_file
  done = call(*arguments(file, path))
  assert (done.status, done.err) == (0, "")
  probabilities = expected(file, pixels)
  best = np.argsort(-probabilities)[:5]
  lines = done.out.splitlines()
  assert lines[0] == str(path)
  for line, label in zip(lines[1:6], best, strict=True):
    bar = "#" * round(20 * probabilities[label])
    assert line.split() == [
      "class", str(label), f"{probabilities[label]:.1%}", *filter(None, [bar])
    ]  # fmt: skip
  assert lines[6:] == ["  predictions/noise-attention.png"]
  sheet = cv2.imread(str(tmp_path / "predictions" / "noise-attention.png"))
  assert sheet.std() > 1


def test_a_large_image_is_cropped_and_resized(call, weight_file, tmp_path):
  file = weight_file("classifier")
  pixels = np.zeros((4 * SIZE, 6 * SIZE, 3), np.uint8)
  pixels[..., 1] = 200
  path = tmp_path / "green.png"
  path.write_bytes(codec.encode_png(pixels))
  done = call(*arguments(file, "--top=7", path))
  probabilities = expected(file, pixels[:SIZE, :SIZE])
  printed = {line.split()[1]: line.split()[2] for line in
           done.out.splitlines()[1:-1]}  # fmt: skip
  assert printed == {str(i): f"{p:.1%}" for i, p in enumerate(probabilities)}


def test_labels_name_the_classes(call, weight_file, image_file, tmp_path):
  names = ["zero", "été", "2", "3", "4", "five of them", "six"]
  labels = tmp_path / "labels.txt"
  labels.write_text("\n".join(names) + "\n\n", encoding="utf-8")
  file, (path, pixels) = weight_file("classifier"), image_file
  done = call(*arguments(file, f"--labels={labels}", "--top=2", path))
  probabilities = expected(file, pixels)
  best = np.argsort(-probabilities)[:2]
  lines = [line.strip() for line in done.out.splitlines()[1:-1]]
  for line, label in zip(lines, best, strict=True):
    assert line.startswith(names[label] + "  ")
    assert f"{probabilities[label]:.1%}" in line


def test_a_thousand_classes_have_wordnet_names(call, weight_file, image_file):
  file = weight_file("classifier", "imagenet_fourier", 1000)
  path, pixels = image_file
  done = call(*arguments(file, "--top=1", path))
  assert done.status == 0, done.err
  name, percent = done.out.splitlines()[1].split()[:2]
  assert re.fullmatch(r"n\d{8}", name)
  assert percent == f"{expected(file, pixels).max():.1%}"


def test_the_folder_can_be_chosen_and_no_file_is_replaced(
  call, weight_file, image_file, tmp_path
):
  flags = arguments(weight_file("classifier"), f"--output={tmp_path / 'o'}")
  for _ in range(2):
    assert call(*flags, image_file[0]).status == 0
  names = sorted(p.name for p in (tmp_path / "o").iterdir())
  assert names == ["noise-attention-2.png", "noise-attention.png"]


def test_classify_is_the_default_command(call, weight_file, image_file):
  flags = arguments(weight_file("classifier"), image_file[0])
  assert (
    call("predict", *flags[2:]).out.splitlines()[:6]
    == (call(*flags).out.splitlines()[:6])
  )


@pytest.mark.parametrize(
  ("kind", "size"),
  [(("imagenet_learned",), 9), (("imagenet_fourier", 7, 1), 8)],
)
def test_another_image_size_is_refused(
  refuses, weight_file, image_file, kind, size
):
  file = weight_file("classifier", *kind)
  parts = [f"{size} x {size} pixels", "--image_size"]
  flags = [f"--weights={file}", f"--image_size={size}", image_file[0]]
  refuses("predict", *flags, parts=parts)


def test_weights_of_another_kind_are_refused(refuses, weight_file, image_file):
  file = weight_file("flow")
  parts = [
    str(file),
    "'flow' decoder",
    "'classification' or 'average_and_project'",
  ]
  refuses(*arguments(file, image_file[0]), parts=parts)


def test_a_classifier_of_points_is_refused(refuses, tmp_path, image_file):
  spec = tiny_weights.classifier().spec
  spec["adapter"] = {"kind": "points", "num_bands": 2}
  file = tmp_path / "points.safetensors"
  weights.save(file, tiny_weights.random(spec, tiny_weights.array(1, 9, 3)))
  refuses(*arguments(file, image_file[0]), parts=["does not take images"])


def test_without_weights_the_error_names_the_download(refuses, image_file):
  parts = [
    "--weights",
    "https://storage.googleapis.com/perceiver_io/imagenet_fourier_",
    "imagenet_learned_",
    "imagenet_conv_preprocessing.pystate",
  ]
  refuses("predict", "classify", image_file[0], parts=parts)


def test_labels_above_a_threshold(call, weight_file, image_file):
  file, (path, pixels) = weight_file("classifier"), image_file
  loaded = weights.load(file)
  raw = ((pixels / 255 - MEAN) / STD).astype(np.float32)[None]
  logits = tiny_weights.outputs(loaded, raw).logits[0]
  # Each class is a decision of its own.
  probabilities = np.asarray(jax.nn.sigmoid(logits))
  threshold = float(np.sort(probabilities)[3] - 1e-3)
  done = call(*arguments(file, f"--threshold={threshold}", path))
  lines = [line.split() for line in done.out.splitlines()[1:-1]]
  expected = [
    k for k in np.argsort(-probabilities) if probabilities[k] > threshold
  ]
  assert [int(line[1]) for line in lines] == expected
  assert len(expected) == 4
  shares = [float(line[2].rstrip("%")) for line in lines]
  assert shares == pytest.approx(list(100 * probabilities[expected]), abs=0.06)


def test_positions_in_the_image_are_given_to_the_model(call, tmp_path):
  loaded = tiny_weights.classifier()
  spec = {
    **loaded.spec,
    "adapter": {**loaded.spec["adapter"], "coordinates": "image"},
  }
  file = tmp_path / "image_coordinates.safetensors"
  weights.save(file, loaded._replace(spec=spec))
  path = tmp_path / "wide.png"
  pixels = np.random.default_rng(0).integers(
    0, 256, (SIZE, 3 * SIZE, 3), np.uint8
  )
  path.write_bytes(codec.encode_png(pixels))
  done = call(*arguments(file, "--top=1", path))
  assert (done.status, done.err) == (0, "")
  assert len(done.out.splitlines()) == 3
