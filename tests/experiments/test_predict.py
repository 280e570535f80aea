import cv2
import jax
import numpy as np
import pytest
import tiny_runs as runs

from perceiver_jax.data.images import codec, digits, resizing, sources
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import (
  restore,
  workdir,
)

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture
def pictures(tmp_path):
  """Files of three digits: grey, coloured and large."""
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
  """Probabilities of the model, computed by hand."""
  config = workdir.read_config(folder)
  task = tasks.make_task(config)
  found = restore.restore(config, task, folder, which)
  weights = jax.device_put(restore.local_params(found.state))
  batch = task.batch_of([task.read(file)])
  apply = jax.jit(lambda w, b: found.model.apply(*w, None, b, False)[0])
  outputs = apply(weights, batch)
  return np.asarray(jax.nn.softmax(outputs.logits))[0]


def shown(out, file):
  """(class, percent) lines below a file's name."""
  lines = out.split(f"{file}\n")[1].splitlines()
  rows = [line.split() for line in lines]
  return [
    (row[0], row[1])
    for row in rows[
      : next(i for i, row in enumerate(rows) if row[0].endswith(".png"))
    ]
  ]


def test_each_picture_has_its_classes_and_its_map(call, trained, pictures):
  before = runs.contents(trained)
  done = call("predict", f"--workdir={trained}", *pictures)
  assert (done.status, done.err) == (0, "")
  for file in pictures:
    probabilities = expected(trained, file)
    best = np.argsort(-probabilities)[:5]
    assert shown(done.out, file) == [
      (str(label), f"{probabilities[label]:.1%}") for label in best
    ]
    saved = trained / "predictions" / f"{file.stem}-attention.png"
    assert f"  {saved}" in done.out.splitlines()
    assert cv2.imread(str(saved)).std() > 1
  after = runs.contents(trained)
  assert {name: after.get(name) for name in before} == before
  assert len(after) == len(before) + 3


def test_flags_choose_checkpoint_classes_and_folder(
  call, trained, pictures, tmp_path
):
  output = tmp_path / "deep" / "output"
  done = call(
    "predict",
    *(f"--workdir={trained}", "--checkpoint=2", "--top=20"),
    *(f"--output={output}", "classify", *pictures[:2]),
  )
  assert done.status == 0, done.err
  for file in pictures[:2]:
    probabilities = expected(trained, file, "2")
    found = shown(done.out, file)
    assert len(found) == 10
    assert dict(found) == {
      str(i): f"{p:.1%}" for i, p in enumerate(probabilities)
    }
  assert len(list(output.iterdir())) == 2
  assert not (trained / "predictions").exists()


def test_an_earlier_picture_is_kept(call, trained, pictures):
  for _ in range(2):
    assert call("predict", f"--workdir={trained}", pictures[0]).status == 0
  names = sorted(p.name for p in (trained / "predictions").iterdir())
  assert names == ["digit-0-attention-2.png", "digit-0-attention.png"]


def test_no_data_is_needed(call, trained, pictures, monkeypatch):
  def missing(split):
    raise AssertionError("the data was opened")

  monkeypatch.setitem(sources.SOURCES, "digits", missing)
  assert call("predict", f"--workdir={trained}", pictures[0]).status == 0


@pytest.mark.parametrize(
  ("content", "part"),
  [
    (None, "no such file"),
    (b"", "is empty"),
    (b"no picture", "cannot be read as an image"),
    (b"\x89PNG\r\n\x1a\n half of one", "cannot be read as an image"),
  ],
)
def test_one_bad_file_among_good_ones(
  refuses, trained, pictures, content, part
):
  bad = pictures[0].with_name("bad.png")
  if content is not None:
    bad.write_bytes(content)
  done = refuses(
    "predict",
    *(f"--workdir={trained}", pictures[0], bad, pictures[1]),
    parts=[part, str(bad)],
  )
  assert done.out == ""
  assert not (trained / "predictions").exists()


def test_a_folder_is_no_picture(refuses, trained, tmp_path):
  parts = [str(tmp_path), "is a directory"]
  refuses("predict", f"--workdir={trained}", tmp_path, parts=parts)


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    ([], ["no picture given", "after the flags"]),
    (["--top=0", "x.png"], ["--top=0"]),
    (["--checkpoint=7", "{file}"], ["no checkpoint of step 7", "2, 4"]),
    (["--output=/dev/null/x", "{file}"], ["/dev/null/x", "--output"]),
    (["--batch=7", "{file}"], ["'batch'"]),
  ],
)
def test_bad_input_is_one_line(refuses, trained, pictures, flags, parts):
  flags = [flag.format(file=pictures[0]) for flag in flags]
  refuses("predict", f"--workdir={trained}", *flags, parts=parts)
  assert not (trained / "predictions").exists()


def test_a_folder_without_a_run(refuses, tmp_path, pictures):
  parts = ["holds no run"]
  refuses("predict", f"--workdir={tmp_path / 'x'}", pictures[0], parts=parts)
  assert not (tmp_path / "x").exists()
