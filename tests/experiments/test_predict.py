import cv2
import jax
import numpy as np
import pytest
import tiny_runs as runs

from perceiver_jax.data.images import codec, digits, resizing, sources
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import restore, workdir

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def images_of_digits(tmp_path):
  """Writes images of three digits: gray, colored and large."""
  source = digits.digits("test")
  made = []
  for number, (index, size) in enumerate([(0, 8), (100, 8), (200, 50)]):
    pixels = np.uint8((source[index]["image"] + 1) * 127.5)
    pixels = resizing.resize(pixels, size, size)
    if number == 1:
      pixels = np.repeat(pixels, 3, axis=2)
    file = tmp_path / f"digit-{number}.png"
    file.write_bytes(codec.encode_png(pixels))
    made.append(file)
  return made


def expected(folder, file, which="latest"):
  """Computes the probabilities of the model."""
  config = workdir.read_config(folder)
  task = tasks.make_task(config)
  restored = restore.restore(config, task, folder, which)
  weights = jax.device_put(restore.local_params(restored.state))
  batch = task.batch_of([task.read(file)])
  apply = jax.jit(lambda w, b: restored.model.apply(*w, None, b, False)[0])
  outputs = apply(weights, batch)
  return np.asarray(jax.nn.softmax(outputs.logits))[0]


def printed_classes(out, file):
  """Returns (class, percent) of the lines below the name of a file."""
  lines = out.split(f"{file}\n")[1].splitlines()
  rows = [line.split() for line in lines]
  return [
    (row[0], row[1])
    for row in rows[
      : next(i for i, row in enumerate(rows) if row[0].endswith(".png"))
    ]
  ]


def test_each_image_gets_classes_and_an_attention_map(
  call, trained, images_of_digits
):
  before = runs.contents(trained)
  done = call("predict", f"--workdir={trained}", *images_of_digits)
  assert (done.status, done.err) == (0, "")
  for file in images_of_digits:
    probabilities = expected(trained, file)
    best = np.argsort(-probabilities)[:5]
    assert printed_classes(done.out, file) == [
      (str(label), f"{probabilities[label]:.1%}") for label in best
    ]
    saved = trained / "predictions" / f"{file.stem}-attention.png"
    assert f"  {saved}" in done.out.splitlines()
    assert cv2.imread(str(saved)).std() > 1
  after = runs.contents(trained)
  assert {name: after.get(name) for name in before} == before
  assert len(after) == len(before) + 3


def test_flags_choose_checkpoint_classes_and_folder(
  call, trained, images_of_digits, tmp_path
):
  output = tmp_path / "deep" / "output"
  done = call(
    "predict",
    *(f"--workdir={trained}", "--checkpoint=2", "--top=20"),
    *(f"--output={output}", "classify", *images_of_digits[:2]),
  )
  assert done.status == 0, done.err
  for file in images_of_digits[:2]:
    probabilities = expected(trained, file, "2")
    printed = printed_classes(done.out, file)
    assert len(printed) == 10
    assert dict(printed) == {
      str(i): f"{p:.1%}" for i, p in enumerate(probabilities)
    }
  assert len(list(output.iterdir())) == 2
  assert not (trained / "predictions").exists()


def test_weights_of_a_run_keep_its_preprocessing(
  call, trained, images_of_digits
):
  of_run = call("predict", f"--workdir={trained}", *images_of_digits)
  done = call(
    "predict", f"--weights={trained}", f"--output={trained}", *images_of_digits
  )
  assert (done.status, done.err) == (0, "")
  for file in images_of_digits:
    expected = printed_classes(of_run.out, file)
    assert printed_classes(done.out, file) == expected


def test_weights_without_their_run_name_the_run(
  refuses, trained, images_of_digits
):
  weights = trained / "model.safetensors"
  parts = ["224 x 224", "--image_size", "--workdir"]
  refuses("predict", f"--weights={weights}", images_of_digits[0], parts=parts)


@pytest.mark.parametrize("flag", ["workdir", "weights"])
def test_labels_name_the_classes_of_a_run(
  call, trained, images_of_digits, tmp_path, flag
):
  labels = tmp_path / "labels.txt"
  labels.write_text("\n".join(f"digit{i}" for i in range(10)))
  done = call(
    "predict",
    *(f"--{flag}={trained}", f"--output={tmp_path}"),
    *(f"--labels={labels}", images_of_digits[0]),
  )
  assert (done.status, done.err) == (0, "")
  best = expected(trained, images_of_digits[0]).argmax()
  assert printed_classes(done.out, images_of_digits[0])[0][0] == f"digit{best}"


def test_an_earlier_output_is_kept_and_no_data_opened(
  call, trained, images_of_digits, monkeypatch
):
  def missing(split):
    raise AssertionError("the data was opened")

  monkeypatch.setitem(sources.SOURCES, "digits", missing)
  for _ in range(2):
    assert (
      call("predict", f"--workdir={trained}", images_of_digits[0]).status == 0
    )
  names = sorted(p.name for p in (trained / "predictions").iterdir())
  assert names == ["digit-0-attention-2.png", "digit-0-attention.png"]


@pytest.mark.parametrize(
  ("content", "part"),
  [
    (None, "no such file"),
    (b"", "is empty"),
    (b"no image", "cannot be read as an image"),
    (b"\x89PNG\r\n\x1a\n half of one", "cannot be read as an image"),
  ],
)
def test_one_unreadable_file_stops_the_command(
  refuses, trained, images_of_digits, content, part
):
  bad = images_of_digits[0].with_name("bad.png")
  if content is not None:
    bad.write_bytes(content)
  done = refuses(
    "predict",
    *(f"--workdir={trained}", images_of_digits[0], bad, images_of_digits[1]),
    parts=[part, str(bad)],
  )
  assert done.out == ""
  assert not (trained / "predictions").exists()


def test_a_folder_is_not_an_image(refuses, trained, tmp_path):
  parts = [str(tmp_path), "it is a folder"]
  refuses("predict", f"--workdir={trained}", tmp_path, parts=parts)


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    ([], ["no image is given", "after the flags"]),
    (["--top=0", "x.png"], ["--top=0"]),
    (["--checkpoint=7", "{file}"], ["no checkpoint of step 7", "2, 4"]),
    (["--output=/dev/null/x", "{file}"], ["/dev/null/x", "--output"]),
    (["--batch=7", "{file}"], ["'batch'"]),
    (["--labels=none.txt", "{file}"], ["--labels=none.txt can't be read"]),
    (["--weights=x", "{file}"], ["--workdir and --weights"]),
    (["--weights=x", "--checkpoint=2", "{file}"], ["and --weights"]),
  ],
)
def test_invalid_flags_are_refused(
  refuses, trained, images_of_digits, flags, parts
):
  flags = [flag.format(file=images_of_digits[0]) for flag in flags]
  refuses("predict", f"--workdir={trained}", *flags, parts=parts)
  assert not (trained / "predictions").exists()


def test_a_mistyped_command_is_named(
  refuses, call, trained, images_of_digits, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  image = images_of_digits[0]
  arguments = "predict", f"--workdir={trained}", "classfy"
  parts = ["'classfy'", "did you mean 'classify'?"]
  refuses(*arguments, image, parts=parts)
  image.rename("classfy")
  assert call(*arguments).status == 0


def test_a_folder_without_a_run_is_refused(refuses, tmp_path, images_of_digits):
  parts = ["holds no run"]
  refuses(
    "predict", f"--workdir={tmp_path / 'x'}", images_of_digits[0], parts=parts
  )
  assert not (tmp_path / "x").exists()
